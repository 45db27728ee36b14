"""Run records: written so that a kill leaves them readable, read whatever they hold."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner
from helpers import wait_for

from pipeline.cli.main import main
from pipeline.lake.store.local import LocalStore
from pipeline.records import outbox, writer
from pipeline.records.history import History
from pipeline.records.reader import read_events, read_history, read_run, run_names
from pipeline.records.schema import (
    FailedSplit,
    InFlight,
    Progress,
    RowCounts,
    Summary,
    WorkerInFlight,
)
from pipeline.records.writer import RunRecord
from pipeline.schemas import contracts

pytestmark = pytest.mark.unit

WHOLE = Summary(
    run="r1",
    job="demo",
    state="done",
    exit_code=0,
    started="2026-01-01T00:00:00+00:00",
    seconds=3.0,
    input="in",
    output="out",
    rows=RowCounts(3, 1, 1, 1),
)


@pytest.fixture
def own(tmp_path: Path) -> LocalStore:
    """Our own files of the output ``out``."""
    return LocalStore(str(tmp_path / ".shardscribe" / "out"))


def written(own: LocalStore, content: bytes, *, run: str = "r1", name: str = "summary.json"):
    own.put(f"runs/{run}/{name}", content)


def changed(**fields: object) -> bytes:
    return json.dumps({**WHOLE.model_dump(mode="json"), **fields}).encode()


def test_a_summary_is_read_as_it_was_written(own):
    written(own, changed())
    found = read_run(own, "r1")
    assert found.summary == WHOLE
    assert (found.state, found.problem) == ("done", "")
    assert found.fields == WHOLE.model_dump(mode="json")


def test_runs_are_listed_with_the_latest_first(own):
    assert run_names(own) == []
    for run in ("20260101T000000Z-aa", "20260103T000000Z-bb", "20260102T000000Z-cc"):
        written(own, changed(), run=run)
    assert [run[:8] for run in run_names(own)] == ["20260103", "20260102", "20260101"]


def test_a_run_without_a_summary_died_or_is_running(own):
    written(own, b"", name="job.yaml")
    assert read_run(own, "r1").state == "died or is running"
    assert read_run(own, "never").state == "died or is running"


def test_a_newer_versions_summary_is_read_as_far_as_it_is_known(own):
    written(own, changed(budget={"euros": 3}, rows={"rows": 3, "annotated": 3, "cached": 1}))
    found = read_run(own, "r1")
    assert found.summary is not None
    assert found.summary.rows == RowCounts(3, 3)
    assert found.problem == ""
    assert found.fields["budget"] == {"euros": 3}


def test_a_state_that_is_not_known_is_shown_all_the_same(own):
    written(own, changed(state="out of budget"))
    found = read_run(own, "r1")
    assert found.summary is None
    assert found.state == "out of budget"
    assert found.problem.startswith("summary.json: state: Input should be 'done'")


def test_a_field_that_makes_no_sense_is_named_and_the_rest_is_read(own):
    written(own, changed(rows=[1, 2], tokens="many", failed_splits=[{"path": 3}]))
    found = read_run(own, "r1")
    assert found.summary is not None
    assert found.summary.seconds == 3.0
    assert (found.summary.rows, found.summary.tokens) == (RowCounts(), 0)
    for name in ("rows: ", "tokens: ", "failed_splits: "):
        assert name in found.problem


DAMAGED = {
    "empty": b"",
    "half": changed()[:90],
    "zeros": bytes(200),
    "no text": b"\xff\xfe\x00\xd8",
    "a list": b"[1, 2]",
    "null": b"null",
    "a number": b"3",
    "deep": b"[" * 100_000,
    "two": changed() * 2,
    "lone surrogate": changed(job="\ud800", error="\ud800"),
    "no number": changed(seconds="soon"),
    "infinite": changed().replace(b"3.0", b"Infinity"),
    "huge": changed().replace(b"3.0", b"9" * 5000),
    "an empty object": b"{}",
    "steers the terminal": changed(job="\x1b[2J", error="\x1b]0;pwned\x07\u202e"),
    "all wrong": json.dumps({name: {"x": []} for name in Summary.model_fields}).encode(),
    "another run's": changed(run="r9"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_status_shows_any_record_and_never_a_traceback(own, tmp_path, content, options):
    (tmp_path / "out").mkdir()
    written(own, content)
    written(own, changed(), run="r0")
    done = CliRunner().invoke(main, ["status", str(tmp_path / "out"), *options])
    assert done.exit_code == 0, done.output
    assert "foreseen" not in done.output
    assert "\x1b" not in done.output
    assert "\u202e" not in done.output
    if options:
        runs = json.loads(done.output)["runs"]
        assert [run["run"] for run in runs] == ["r1", "r0"]
        assert runs[1]["state"] == "done"
    else:
        assert "run     r1: " in done.output
        assert "run     r0: done in 3 s" in done.output


@pytest.mark.parametrize("what", ["directory", "no permission", "link to itself"])
def test_a_summary_that_cant_be_opened_is_named(own, tmp_path, what, monkeypatch):
    path = tmp_path / ".shardscribe/out/runs/r1/summary.json"
    path.parent.mkdir(parents=True)
    if what == "directory":
        path.mkdir()
    elif what == "link to itself":
        path.symlink_to(path)
    else:
        # Root may read anything, so that permissions alone would not do.
        monkeypatch.setattr(LocalStore, "read", _refused)
    found = read_run(own, "r1")
    assert found.state == "its record can't be read"
    assert "summary.json" in found.problem


def _refused(self: LocalStore, path: str) -> bytes:
    raise PermissionError(13, "Permission denied", path)


@pytest.mark.parametrize("said", [None, [], "x", {"rows": "3"}, {"rows": None, "bad": 2.5}, 7])
def test_row_counts_of_a_footer_that_makes_no_sense_are_none(said):
    assert RowCounts.of(said) == RowCounts()


def test_row_counts_of_a_newer_footer_are_those_that_are_known():
    assert RowCounts.of({"rows": 3, "bad": 1, "cached": 9}) == RowCounts(3, 0, 1, 0)


# --- written


class Disk(LocalStore):
    """A store that can be away, or stand still until it is let go on."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.away = False
        self.asked: list[str] = []
        self.goes_on = threading.Event()
        self.goes_on.set()

    def put(self, path: str, content: bytes) -> None:
        self.asked.append(path.rpartition("/")[2])
        self.goes_on.wait()
        if self.away:
            raise OSError(28, "No space left on device")
        super().put(path, content)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(str(tmp_path / ".shardscribe" / "out"))


FAR = Progress("annotating", 9, 3, 1, 420, 9000, 0.4, 60.0, 2, 90.0)


def test_a_record_that_is_written_is_read_the_same(own):
    has = WorkerInFlight(
        worker="worker-1 on a",
        splits=2,
        some=[
            InFlight(
                split="s",
                path="a.parquet",
                told="a.parquet (row groups 0 to 3)",
                fraction=0.5,
                rows=7,
            )
        ],
    )
    with RunRecord(own, "r1") as record:
        record.event("notice", text="so it is")
        record.event("removed", outdated="b.parquet")
        record.progress(FAR, splits_in_flight=2, in_flight=[has])
        record.flush()
        record.event("failed", path="a.parquet", split="s", reason="why", final=True)
    found = read_run(own, "r1")
    assert found.progress is not None
    assert found.progress.progress == FAR
    assert found.progress.in_flight == [has]
    assert (found.progress.rows_per_second, found.progress.tokens_per_second) == (7.0, 150.0)
    assert [line.progress for line in read_history(own, "r1")] == [FAR]
    assert [event.event for event in read_events(own, "r1")] == ["notice", "removed", "failed"]
    assert found.problem == ""


def test_progress_follows_its_schema(own):
    with RunRecord(own, "r1") as record:
        record.progress(FAR, splits_in_flight=0)
    schema = json.loads(contracts()["progress.schema.json"])
    said = json.loads(own.read("runs/r1/progress.json") or b"")
    jsonschema.Draft202012Validator(schema).validate(said)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({**said, "more": 1})


def test_a_run_that_writes_nothing_leaves_nothing(own):
    with RunRecord(own, "r1"):
        pass
    assert run_names(own) == []


def test_names_that_are_no_text_are_recorded_all_the_same(own):
    name = b"caf\xe9.parquet".decode("utf-8", "surrogateescape")
    has = WorkerInFlight(
        worker="w",
        splits=1,
        some=[InFlight(split="s", path=name, told=name, fraction=0, rows=0)],
    )
    with RunRecord(own, "r1") as record:
        record.event("removed", outdated=name)
        record.write("job.yaml", f"name: {name}\n")
        record.progress(FAR, splits_in_flight=1, in_flight=[has])
    assert read_run(own, "r1").progress.in_flight[0].some[0].path == name
    assert next(read_events(own, "r1")).outdated == name


@pytest.mark.parametrize("lines", [1, 5, 8, 9, 100, 1000, 60_480])
def test_a_history_is_short_and_even_and_begins_with_the_run(lines):
    history = History(most=8)
    for number in range(lines):
        history.add(str(number))
    kept = [int(line) for line in history.lines]
    assert kept[0] == 0
    assert len(kept) <= 8
    assert len(kept) > min(lines - 1, 3)
    gaps = {after - before for before, after in pairwise(kept)}
    assert len(gaps) <= 1
    assert lines - kept[-1] <= max(gaps, default=1)


def test_a_run_of_days_leaves_as_few_files_as_one_of_minutes(own):
    with RunRecord(own, "r1") as record:
        for tick in range(6 * 60 * 24):
            record.progress(FAR, splits_in_flight=0)
            if tick % 3 == 0:
                record.flush()
    files = {path.name: path.stat().st_size for path in (own.base / "runs/r1").iterdir()}
    assert files.keys() == {"progress.json", "history.jsonl"}
    assert sum(files.values()) < 500_000


def test_who_records_waits_for_no_store_and_of_progress_the_latest_is_written(disk):
    disk.goes_on.clear()
    record = RunRecord(disk, "r1")
    with record:
        for rows in range(100):
            record.progress(Progress(rows=rows), splits_in_flight=0)
        wait_for(lambda: disk.asked)
        for rows in range(100, 200):
            record.progress(Progress(rows=rows), splits_in_flight=0)
        disk.goes_on.set()
    assert read_run(disk, "r1").progress.progress.rows == 199
    assert disk.asked.count("progress.json") == 2


def test_a_record_that_cant_be_written_says_so_once_and_stops_nothing(disk):
    said: list[str] = []
    disk.away = True
    with RunRecord(disk, "r1", notice=said.append) as record:
        for _ in range(20):
            record.event("notice", text="x")
            record.progress(FAR, splits_in_flight=0)
            record.flush()
            wait_for(lambda: "history.jsonl" in disk.asked)
            disk.asked.clear()
        disk.away = False
        record.write("summary.json", WHOLE.model_dump(mode="json"))
    assert said == [
        "the run's record can't be written, which stops nothing: [Errno 28] No space left on device"
    ]
    assert read_run(disk, "r1").summary == WHOLE


def test_of_a_store_that_refuses_at_the_end_only_the_summary_is_asked_of(disk):
    disk.goes_on.clear()
    disk.away = True
    record = RunRecord(disk, "r1")
    record.event("notice", text="x")
    record.flush()
    wait_for(lambda: disk.asked)
    for name in ("a", "b", "c", "summary.json"):
        record.write(name, "{}")
    closing = threading.Thread(target=record.__exit__, args=(None, None, None))
    closing.start()
    wait_for(lambda: record._outbox._closing)
    disk.goes_on.set()
    closing.join()
    assert disk.asked == ["events-00001.jsonl", "summary.json"]


def test_a_store_that_is_away_for_long_costs_no_more_memory_than_some_files(disk):
    said: list[str] = []
    disk.goes_on.clear()
    record = RunRecord(disk, "r1", notice=said.append)
    for number in range(200):
        record.write(f"{number:03}", "")
    waiting = len(record._outbox._waiting)
    disk.goes_on.set()
    with record:
        pass
    assert waiting == outbox.MOST
    assert said == [
        "the run's record can't be written, which stops nothing: the store does not keep up"
    ]
    # The first may have been on its way; of the others the latest are there.
    assert disk.asked[-outbox.MOST :] == [f"{number:03}" for number in range(136, 200)]


def test_events_are_kept_in_few_files_however_often_they_are_written(own, monkeypatch):
    monkeypatch.setattr(writer, "PART_EVENTS", 4)
    with RunRecord(own, "r1") as record:
        for number in range(10):
            record.event("notice", text=str(number))
            record.flush()
    parts = sorted(path.name for path in (own.base / "runs/r1").iterdir())
    assert parts == [f"events-{n:05d}.jsonl" for n in (1, 2, 3)]
    assert [event.text for event in read_events(own, "r1")] == [str(n) for n in range(10)]


class Killed(BaseException):
    """Nothing after it happens."""


@pytest.mark.parametrize("at", range(9))
@pytest.mark.parametrize("half", [False, True], ids=["before", "half written"])
def test_a_run_that_is_killed_at_any_write_leaves_a_record_that_can_be_read(own, at, half):
    """A file appears whole or not at all; what a kill leaves beside it is in nobody's way."""
    puts: list[tuple[str, bytes]] = []
    with RunRecord(Recorder(puts), "r1") as record:
        for tick in range(3):
            record.event("notice", text=str(tick))
            record.progress(Progress(rows=tick), splits_in_flight=0)
            record.flush()
            wait_for(lambda: not record._outbox._waiting)
    assert len(puts) == 9
    for path, content in puts[:at]:
        own.put(path, content)
    if half:
        beside = own.base / "runs/r1/.host~1~2~3.tmp"
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(puts[at][1][:20])
    found = read_run(own, "r1", lives=False)
    assert (found.state, found.problem) == ("died", "")
    ticks = [line.progress.rows for line in read_history(own, "r1")]
    assert ticks == list(range(len(ticks)))
    events = [event.text for event in read_events(own, "r1")]
    assert events == [str(tick) for tick in range(len(events))]
    names = [path.rpartition("/")[2] for path, _ in puts[:at]]
    assert (found.progress is not None) == ("progress.json" in names)


class Recorder:
    """A store that only says what it is given."""

    def __init__(self, puts: list[tuple[str, bytes]]) -> None:
        self.puts = puts

    def put(self, path: str, content: bytes) -> None:
        self.puts.append((path, content))


BROKEN_LINES = [b"", b"{", b"[]", b"\xff\xff", b'{"event": "done"}', b'{"event": "from 2030"}']


def test_lines_that_make_no_sense_are_passed_over_and_the_rest_is_read(own):
    line = json.dumps({"time": "now", "event": "notice", "text": "x", "newer": 1}).encode()
    written(own, b"\n".join([*BROKEN_LINES, line, *BROKEN_LINES]), name="events-00001.jsonl")
    written(own, line[:-9], name="events-00002.jsonl")
    written(own, line, name="events-00007.jsonl")
    assert [event.text for event in read_events(own, "r1")] == ["x", "x"]
    good = json.dumps({"time": "now", "progress": {"rows": 3, "newer": 1}, "newer": 2}).encode()
    written(own, b"\n".join([*BROKEN_LINES, good, *BROKEN_LINES]), name="history.jsonl")
    assert [line.progress.rows for line in read_history(own, "r1")] == [3]


def test_nothing_is_read_of_a_run_that_is_not_there(own):
    assert list(read_events(own, "never")) == []
    assert list(read_history(own, "never")) == []


def test_a_split_that_failed_is_called_by_its_part_of_the_file() -> None:
    assert FailedSplit(path="a.parquet", reason="x").told == "a.parquet"
    of_groups = FailedSplit(path="a.parquet", row_groups=(0, 3), reason="x")
    assert of_groups.told == "a.parquet (row groups 0 to 3)"
    of_rows = FailedSplit(path="a.parquet", row_range=(64, 127), reason="x")
    assert of_rows.told == "a.parquet (rows 64 to 127)"


WRITES_ON = """
import itertools, sys
from pipeline.lake.store.local import LocalStore
from pipeline.records.schema import Progress
from pipeline.records.writer import RunRecord

with RunRecord(LocalStore(sys.argv[1]), "r1") as record:
    for rows in itertools.count():
        record.event("notice", text=str(rows))
        record.progress(Progress(rows=rows))
        record.flush()
        print(rows, flush=True)
"""


def test_a_process_that_is_killed_while_it_writes_leaves_a_record_that_can_be_read(own):
    for _ in range(4):  # on top of what the last one left, as a run's name might be used again
        process = subprocess.Popen(
            [sys.executable, "-c", WRITES_ON, str(own.base)], stdout=subprocess.PIPE, text=True
        )
        for line in process.stdout:
            if int(line) >= 300:
                process.kill()
                break
        process.wait()
        process.stdout.close()
        found = read_run(own, "r1", lives=False)
        assert (found.state, found.problem) == ("died", "")
        rows = [line.progress.rows for line in read_history(own, "r1")]
        assert rows
        assert rows == list(range(0, rows[-1] + 1, rows[1] if len(rows) > 1 else 1))
        said = [int(event.text) for event in read_events(own, "r1")]
        assert said == list(range(len(said)))
        names = {entry.path for entry in LocalStore(str(own.base / "runs/r1")).entries()}
        assert names == {"events-00001.jsonl", "history.jsonl", "progress.json"}
