"""Run records in an object store: written, watched and read while requests fail."""

import pytest
from s3_server import Faults, s3_server

from pipeline.engine.driver.lease import Lease
from pipeline.lake.store import remote
from pipeline.lake.store.open import open_store
from pipeline.records.reader import read_events, read_history, read_run, run_names
from pipeline.records.schema import Progress, Summary
from pipeline.records.writer import RunRecord
from pipeline.watch import watch_output

pytestmark = pytest.mark.integration

SUMMARY = Summary(
    run="run", job="j", state="done", exit_code=0, started="", seconds=9, input="", output=""
)


@pytest.fixture
def s3(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(remote, "FIRST_PATIENCE", remote.PATIENCE)
    with s3_server() as running:
        yield running


@pytest.mark.parametrize("seed", range(3))
def test_a_run_into_a_store_is_watched_from_elsewhere_whatever_requests_fail(s3, seed):
    output = "s3://lake/a b/y=1/out"
    own = open_store(output).own
    s3.faults = Faults(error=0.1, reset=0.1, lost=0.1, cut=0.1, seed=seed)
    seen = []

    def life():
        """Of a run, between looks."""
        yield
        with Lease(own, "run"):
            yield
            with RunRecord(own, "run", notice=pytest.fail) as record:
                for rows in range(5):
                    record.event("notice", text=str(rows))
                    record.progress(Progress("annotating", rows=rows, seconds=1.0))
                    record.flush()
                    yield
                record.write("summary.json", SUMMARY.model_dump(mode="json"))
        while True:
            yield

    steps = life()
    for view in watch_output(output, wait=lambda: next(steps)):
        seen.append(view)
    assert seen[-1].ended
    assert [view.run for view in seen if view.run] == ["run"] * len([v for v in seen if v.run])
    rows = [view.line.progress.rows for view in seen if view.line]
    assert rows == sorted(rows)
    # The store's reader that is mended sees all of it.
    s3.faults = None
    assert run_names(own) == ["run"]
    assert read_run(own, "run").summary == SUMMARY
    assert [event.text for event in read_events(own, "run")] == list("01234")
    assert [line.progress.rows for line in read_history(own, "run")] == list(range(5))
    names = sorted(entry.path for entry in open_store(f"{own.root}/runs/run").entries())
    assert names == [
        "events-00001.jsonl",
        "history.jsonl",
        "progress.json",
        "summary.json",
    ]
