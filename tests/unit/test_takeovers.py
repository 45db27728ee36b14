"""What is listed when, whose an output is, and what a run says that lost it. Nothing is loaded."""

import errno
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from helpers import PATIENCE, QuietDisplay, commit_file, hollow_model, wait_for

from pipeline import run as running
from pipeline.cli.main import main
from pipeline.engine.driver import lease as leases
from pipeline.engine.driver.lease import Lease
from pipeline.engine.messages import SplitResult
from pipeline.errors import Interrupted, JobError, OutputBusy, RunError
from pipeline.job.check import check, pin
from pipeline.job.file import load_job
from pipeline.job.job import Job
from pipeline.lake.sink.base import Sink
from pipeline.lake.sink.open import open_sink
from pipeline.lake.sink.owner import DIRECTORY, Owner
from pipeline.lake.sink.scratch import OutputFile, clean_scratch
from pipeline.lake.source.open import open_source
from pipeline.lake.split import Split
from pipeline.lake.store.local import LocalStore
from pipeline.lake.store.open import open_store
from pipeline.planning import Choices, look, look_again
from pipeline.verify import verify_job

pytestmark = pytest.mark.unit

ONE, TWO = "1" * 16, "2" * 16


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LOOK_EVERY", 0.02)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    (tmp_path / "lake").mkdir()
    for name in "abc":
        write(tmp_path / "lake", name)
    return tmp_path / "lake"


def write(lake: Path, name: str, text: str = "") -> None:
    pq.write_table(pa.table({"text": [text or name]}), lake / f"{name}.parquet")


@pytest.fixture
def make_job(lake: Path, tmp_path: Path) -> Callable[..., Job]:
    """A job whose model is right as far as can be seen without loading it."""
    folder = hollow_model(tmp_path / "model", "BertForSequenceClassification")

    def make(**options: Any) -> Job:
        content = {
            "name": "test",
            "input": {"path": str(lake)},
            "output": {"path": str(tmp_path / "out")},
            "tasks": {"mood": {"kind": "classify", "model": str(folder), **options}},
        }
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(content))
        return load_job(path)

    return make


def commit(sink: Sink, split: Split, fingerprint: str, *, guard: Any = lambda: None) -> bool:
    """What a worker commits, but for the annotations."""
    table = pa.table({"text": ["x"]})
    file = OutputFile(sink, split.output_path, table.schema, compression="none")
    file.write(table)
    footer = {
        "split": split.id, "input": split.path, "fingerprint": fingerprint, "job": "test",
        "rows": {"rows": 1},
    }  # fmt: skip
    return commit_file(file, footer, rows=1, replace=split.replace, guard=guard)


def annotate_all(before: Callable[[Split], None] = lambda split: None) -> Callable[..., None]:
    """Stands where workers do their work, without any."""

    def annotate(pinned: Any, plan: Any, tally: Any, summary: Any, **_: Any) -> None:
        sink = pinned.checked.sink
        guard = Owner(sink, pinned.fingerprint).guard
        for split in plan.todo:
            before(split)
            commit(sink, split, pinned.fingerprint, guard=guard)
            tally.done(split, SplitResult(split.id, split.output_path))

    return annotate


def files(output: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in output.rglob("*.parquet"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def call(job: Job, *, annotate: Any = None, display: Any = None, **choices: bool) -> Any:
        monkeypatch.setattr(running, "_annotate", annotate or annotate_all())
        shown = display or QuietDisplay()
        return running.run_job(job, display=shown, choices=Choices(**choices))

    return call


def test_a_run_that_waited_prunes_nothing_of_what_came_while_it_waited(
    make_job: Any, run: Any, lake: Path, tmp_path: Path
) -> None:
    job = make_job()
    assert run(job).exit_code == 0
    output = open_sink(str(tmp_path / "out"))
    first = Lease(output.own, "first")
    first.take()
    ends: list[Any] = []
    shown = QuietDisplay()
    waiting = threading.Thread(
        target=lambda: ends.append(run(job, display=shown, wait=True, prune=True))
    )
    with first:
        waiting.start()
        wait_for(lambda: shown.notices, what="it waits")
        # What the first one finds, which came after the second one was started.
        write(lake, "new")
        pinned = pin(check(job))
        (split,) = look(pinned).todo
        commit(output, split, pinned.fingerprint)
    waiting.join(timeout=PATIENCE)
    (summary,) = ends
    assert (summary.state, summary.splits.total, summary.vanished_outputs) == (
        "nothing to do", 4, [],
    )  # fmt: skip
    assert files(tmp_path / "out") == ["a", "b", "c", "new"]


def test_the_highest_mark_owns_the_output_and_runs_of_one_fingerprint_share_it(
    tmp_path: Path,
) -> None:
    store = open_sink(str(tmp_path / "out"))
    one, again, two = Owner(store, ONE), Owner(store, ONE), Owner(store, TWO)
    assert not one.is_marked
    one.claim("first")
    again.claim("second")
    assert store.own.names(DIRECTORY) == [f"000001-{ONE}"]
    one.refuse_loss()
    with pytest.raises(OutputBusy, match=r"run first on .* has taken the output"):
        two.refuse_loss()
    two.claim("third")
    two.refuse_loss()
    for lost in (one, again):
        with pytest.raises(OutputBusy, match=rf"run third .*{TWO}"):
            lost.refuse_loss()
    one.claim("fourth")
    assert sorted(store.own.names(DIRECTORY))[-1] == f"000003-{ONE}"
    again.refuse_loss()


def test_of_two_jobs_that_claim_at_once_one_owns_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_sink(str(tmp_path / "out"))
    one, two = Owner(store, ONE), Owner(store, TWO)
    create = LocalStore.create

    def meanwhile(self: LocalStore, path: str, content: bytes) -> bool:
        monkeypatch.undo()
        two.claim("two")
        return create(self, path, content)

    monkeypatch.setattr(LocalStore, "create", meanwhile)
    with pytest.raises(OutputBusy, match="run two"):
        one.claim("one")
    two.refuse_loss()


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"\xff", b'{"run": 1}'])
def test_a_mark_that_makes_no_sense_is_a_mark(tmp_path: Path, content: bytes) -> None:
    store = open_sink(str(tmp_path / "out"))
    store.own.put(f"{DIRECTORY}/000007-{TWO}/run.json", content)
    store.own.put(f"{DIRECTORY}/notes/run.json", content)
    with pytest.raises(OutputBusy, match="a run, of a job with other results"):
        Owner(store, ONE).refuse_loss()


def test_a_run_whose_output_is_taken_commits_nothing_more_and_says_who_took_it(
    make_job: Any, run: Any, tmp_path: Path
) -> None:
    output = open_sink(str(tmp_path / "out"))
    seen: list[Split] = []

    def take_it(split: Split) -> None:
        seen.append(split)
        if len(seen) == 2:
            Owner(output, TWO).claim("the-other")

    summary = run(make_job(), annotate=annotate_all(take_it))
    assert (summary.exit_code, summary.state) == (4, "failed")
    assert "run the-other on " in summary.error
    assert len(files(tmp_path / "out")) == 1
    (record,) = output.own.names("runs")
    raw = output.own.read(f"runs/{record}/summary.json")
    assert raw is not None
    assert json.loads(raw)["exit_code"] == 4


def test_a_run_that_lost_its_lease_says_so_however_short_it_is(
    make_job: Any, run: Any, tmp_path: Path
) -> None:
    output = open_sink(str(tmp_path / "out"))

    def take_it(split: Split) -> None:
        output.own.put(leases.PATH, b'{"run": "thief", "host": "elsewhere", "pid": 7}')

    summary = run(make_job(), annotate=annotate_all(take_it))
    assert (summary.exit_code, summary.state) == (4, "failed")
    assert "run thief on elsewhere (process 7) holds the output" in summary.error
    assert b"thief" in (output.own.read(leases.PATH) or b"")


def test_a_job_that_may_not_replace_the_output_leaves_it_to_the_other(
    make_job: Any, run: Any, tmp_path: Path
) -> None:
    assert run(make_job()).exit_code == 0
    output = open_sink(str(tmp_path / "out"))
    before = output.own.names(DIRECTORY)
    with pytest.raises(JobError, match="--supersede"):
        run(make_job(top_k=1))
    assert output.own.names(DIRECTORY) == before
    assert run(make_job(top_k=1), supersede=True).exit_code == 0
    assert len(output.own.names(DIRECTORY)) == 2
    assert files(tmp_path / "out") == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"fingerprint": TWO}, "was written meanwhile by job test"),
        ({"split_id": "9" * 16}, "was written meanwhile by job test"),
        ({"path": "later.parquet"}, None),
        ({"gone": True}, "1 files are gone that were committed"),
    ],
    ids=["another job's", "a second one of an input", "a later input's", "one is gone"],
)
def test_the_end_of_a_run_looks_at_the_output_once_more(
    make_job: Any, run: Any, tmp_path: Path, theirs: dict[str, Any], said: str | None
) -> None:
    out = tmp_path / "out"

    def meddle(split: Split) -> None:
        if split.path != "b.parquet":
            return
        if theirs.get("gone"):
            next(out.glob("*.parquet")).unlink()
            return
        pinned = pin(check(job))
        other = Split(theirs.get("split_id", "8" * 16), theirs.get("path", "a.parquet"), 1, "v")
        commit(open_sink(str(out)), other, theirs.get("fingerprint", pinned.fingerprint))

    job = make_job()
    summary = run(job, annotate=annotate_all(meddle))
    if said is None:
        assert (summary.exit_code, summary.error) == (0, "")
    else:
        assert (summary.exit_code, summary.state) == (1, "failed")
        assert said in summary.error


def test_files_of_an_output_that_could_not_be_removed_are_no_strangers(
    make_job: Any, lake: Path, tmp_path: Path
) -> None:
    job = make_job()
    output = open_sink(str(tmp_path / "out"))
    pinned = pin(check(job))
    splits = pinned.splits()
    for split in splits:
        commit(output, split, pinned.fingerprint)
    write(lake, "a")
    pinned = pin(check(job))
    plan = look(pinned)
    assert plan.others
    (split,) = plan.todo
    commit(output, split, pinned.fingerprint)
    look_again(pinned, pinned.splits(), known=plan.others, left=0)
    with pytest.raises(RunError, match="meanwhile"):
        look_again(pinned, pinned.splits(), known=set(), left=0)


def test_what_a_killed_run_was_writing_beside_its_lease_is_removed(
    make_job: Any, run: Any, tmp_path: Path
) -> None:
    own = open_store(str(tmp_path / "out")).own
    assert isinstance(own, LocalStore)
    own.base.mkdir(parents=True)

    stray = own.base / f".{socket.gethostname()}~999999999~x.1.2~abc123.tmp"
    stray.write_bytes(b"")
    (own.base / ".lease.json.0123456789ab").write_bytes(b"")
    assert clean_scratch(own.base, now=stray.stat().st_mtime + 1) == 1
    stray.write_bytes(b"")
    assert clean_scratch(own.base, now=stray.stat().st_mtime + 3 * 24 * 3600) == 2
    stray.write_bytes(b"")
    assert run(make_job()).exit_code == 0
    assert not stray.exists()


def test_a_store_that_overwrites_what_is_there_is_refused_before_anything_is_written(
    make_job: Any, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overwrite(self: LocalStore, path: str, content: bytes) -> bool:
        self.put(path, content)
        return True

    monkeypatch.setattr(LocalStore, "create", overwrite)
    with pytest.raises(JobError, match="can't keep two runs apart"):
        run(make_job())
    own = open_store(str(tmp_path / "out")).own
    assert own.read(leases.PATH) is None
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [1, 18, 38, 95])  # EPERM, EXDEV, ENOSYS, EOPNOTSUPP
def test_a_file_system_without_hard_links_is_told_at_the_start(
    make_job: Any, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(JobError, match="needs a file system with hard links"):
        run(make_job())
    assert not (tmp_path / "out").exists()
    assert list((open_store(str(tmp_path / "out")).own).entries()) == []


def unreadable(path: Path, monkeypatch: pytest.MonkeyPatch, *, number: int = 5) -> None:
    """The disk does not give this directory; mode bits would not keep root out."""
    scandir = os.scandir

    def failing(at: Any) -> Any:
        if Path(at) == path:
            raise OSError(number, os.strerror(number), str(at))
        return scandir(at)

    monkeypatch.setattr(os, "scandir", failing)


@pytest.mark.parametrize("trouble", ["dangling", "loop", "EIO", "EACCES", "ESTALE", "vanishes"])
@pytest.mark.parametrize("supersede", [False, True])
def test_what_can_not_be_listed_is_told_and_its_output_stays(
    make_job: Any, run: Any, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    trouble: str, supersede: bool,
) -> None:  # fmt: skip
    (lake / "y=1").mkdir()
    write(lake / "y=1", "d")
    assert run(make_job()).exit_code == 0
    (lake / "b.parquet").unlink()  # this one is gone, and nothing else
    hidden = "y=1"
    if trouble == "dangling":
        hidden = "a.parquet"
        (lake / hidden).rename(tmp_path / "a.parquet")
        (lake / hidden).symlink_to(tmp_path / "nowhere")
    elif trouble == "loop":
        hidden = "a.parquet"
        (lake / hidden).unlink()
        (lake / hidden).symlink_to(lake / hidden)
    else:
        number = {"EIO": 5, "EACCES": 13, "ESTALE": 116, "vanishes": 2}[trouble]
        unreadable(lake / hidden, monkeypatch, number=number)
    display = QuietDisplay()
    job = make_job(top_k=1) if supersede else make_job()
    summary = run(job, display=display, prune=True, supersede=supersede)
    assert (summary.exit_code, summary.state) == (1, "some input can't be read")
    assert [unread.path for unread in summary.unread] == [hidden]
    assert any(f"{lake / hidden} can't be read: " in text for text in display.notices)
    assert [path.partition("-")[0] for path in summary.vanished_outputs] == ["b"]
    assert files(tmp_path / "out") == ["a", "c", "d"]


def test_a_file_system_that_gives_no_root_ends_the_run_in_a_line(
    make_job: Any, run: Any, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    unreadable(lake, monkeypatch)
    with pytest.raises(JobError, match=r"lake can't be read: Input/output error"):
        run(job)
    monkeypatch.undo()
    monkeypatch.setattr(leases, "LOOK_EVERY", 0.02)
    (tmp_path / "out/y=1").mkdir(parents=True)
    unreadable(tmp_path / "out/y=1", monkeypatch)
    with pytest.raises(JobError, match=r"y=1 can't be read: Input/output error"):
        run(job)


def test_an_outdated_file_that_can_not_be_removed_is_named_and_stands_in_nobodys_way(
    make_job: Any, run: Any, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    run(job)
    (old,) = (tmp_path / "out").glob("a-*")
    delete = LocalStore.delete

    def refuse(self: LocalStore, path: str) -> None:
        if path == old.name:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        delete(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "delete", refuse)
        write(lake, "a", "changed")
        assert run(job).exit_code == 0
        for name, state in (("new", "done"), ("", "nothing to do")):
            if name:
                write(lake, name)
            shown = QuietDisplay()
            summary = run(job, display=shown)
            assert (summary.state, summary.exit_code, summary.error) == (state, 0, "")
            assert any(f"{old} can't be removed" in text for text in shown.notices)
            assert old.exists()
    assert run(job).state == "nothing to do"
    assert not old.exists()


@pytest.mark.parametrize(("pattern", "told"), [("a*/x.parquet", []), ("*/x.parquet", ["pears"])])
def test_a_glob_is_told_only_of_what_may_match_it(
    lake: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, told: list[str]
) -> None:
    for name in ("apples", "pears"):
        (lake / name).mkdir()
        write(lake / name, "x")
    unreadable(lake / "pears", monkeypatch)
    found = open_source(f"{lake}/{pattern}").listing()
    assert [entry.path for entry in found.files] == ["apples/x.parquet"]
    assert list(found.missed) == told


@pytest.mark.parametrize("how", [Interrupted("interrupted while Ray started"), KeyboardInterrupt()])
def test_a_run_that_is_interrupted_while_ray_starts_leaves_a_summary_and_no_lease(
    make_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: BaseException
) -> None:
    def interrupted(address: Any) -> Any:
        raise how

    monkeypatch.setattr(running, "ray_cluster", interrupted)
    summary = running.run_job(make_job(), display=QuietDisplay())
    assert (summary.exit_code, summary.state, summary.splits.left) == (3, "interrupted", 3)
    own = open_store(str(tmp_path / "out")).own
    (record,) = own.names("runs")
    assert json.loads(own.read(f"runs/{record}/summary.json") or b"")["exit_code"] == 3
    assert own.read(leases.PATH) is None


def test_verify_and_validate_name_what_can_not_be_listed(
    make_job: Any, run: Any, lake: Path, tmp_path: Path
) -> None:
    job = make_job()
    assert run(job).exit_code == 0
    (lake / "a.parquet").unlink()
    (lake / "a.parquet").symlink_to(tmp_path / "nowhere")
    problems = verify_job(job).problems
    assert "a.parquet of the input can't be read: No such file or directory" in problems
    assert not any("belongs to no split" in problem for problem in problems)
    done = CliRunner().invoke(main, ["validate", str(tmp_path / "job.yaml")])
    assert done.exit_code == 0
    assert "a.parquet can't be read: No such file or directory" in done.output
