"""Run records: written so that a kill leaves them readable, read whatever they hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.lake.store.local import LocalStore
from pipeline.records.reader import read_run, run_names
from pipeline.records.schema import RowCounts, Summary

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
