"""A run that dies before, in or after the finish of a sink that keeps a table beside its files.

This file is also the program that dies: it runs a job without models, and kills itself at the step
that it is given.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers import PATIENCE, QuietDisplay, commit_file, hollow_model

from pipeline import run as running
from pipeline.engine.messages import SplitResult
from pipeline.errors import RunError
from pipeline.job import places
from pipeline.job.file import load_job
from pipeline.lake.sink.files import FileSink
from pipeline.lake.sink.scratch import OutputFile
from pipeline.lake.store.open import open_store
from pipeline.records.writer import RunRecord

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class TableSink(FileSink):
    """Files, and a log of transactions that says which of them are the table's."""

    def log(self) -> list[dict[str, Any]]:
        """The transactions, in order."""
        numbers = sorted(self.own.names("log"))
        return [json.loads(self.own.read(f"log/{name}/entry.json") or b"") for name in numbers]

    def finish(self, run: str, *, wanted: Any, guard: Callable[[], None]) -> None:
        step("before it looks at the table")
        log = self.log()
        if any(entry["run"] == run for entry in log):
            return
        held = {path for entry in log for path in entry["add"]}
        held -= {path for entry in log for path in entry["remove"]}
        there = {entry.path for entry in self.present()}
        if held == there:
            return
        guard()
        step("before its transaction")
        entry = {"run": run, "add": sorted(there - held), "remove": sorted(held - there)}
        if not self.own.create(f"log/{len(log):06}/entry.json", json.dumps(entry).encode()):
            raise RunError("somebody else has changed the table", hint="Run the job again")
        step("after its transaction")


def copy_all(pinned: Any, plan: Any, tally: Any, summary: Any, **_: Any) -> None:
    """Stands where workers do their work: commits every split's input as its output."""
    source, sink = pinned.checked.source, pinned.checked.sink
    for split in plan.todo:
        text = source.open(split).batches(["text"])
        table = pa.concat_tables(text)
        out = OutputFile(sink, split.output_path, table.schema, compression="none")
        out.write(table)
        footer = {"split": split.id, "input": split.path, "fingerprint": pinned.fingerprint}
        commit_file(out, footer, rows=table.num_rows, replace=split.replace)
        tally.done(split, SplitResult(split.id, split.output_path))
        step("while it annotates")


class Record(RunRecord):
    def write(self, name: str, content: Any) -> None:
        if name == "summary.json":
            step("before it writes its summary")
        super().write(name, content)


DIES_AT = ""


def step(name: str) -> None:
    if name == DIES_AT:
        os.kill(os.getpid(), signal.SIGKILL)
    return


def run(job: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "open_sink", lambda address: TableSink(open_store(address)))
        patch.setattr(running, "_annotate", copy_all)
        patch.setattr(running, "RunRecord", Record)
        return running.run_job(load_job(job), display=QuietDisplay())


def run_until_it_dies(step: str, job: str) -> None:
    done = subprocess.run(
        [sys.executable, __file__, step, job],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    (tmp_path / "lake").mkdir()
    for name in "ab":
        write(tmp_path / "lake", name, "first")
    return tmp_path / "lake"


def write(lake: Path, name: str, text: str) -> None:
    pq.write_table(pa.table({"text": [text] * 3}), lake / f"{name}.parquet")


@pytest.fixture
def job(lake: Path, tmp_path: Path) -> str:
    folder = hollow_model(tmp_path / "model", "BertForSequenceClassification")
    content = {
        "name": "table",
        "input": {"path": str(lake)},
        "output": {"path": str(tmp_path / "out")},
        "tasks": {"mood": {"kind": "classify", "model": str(folder)}},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.fixture
def sink(tmp_path: Path) -> TableSink:
    return TableSink(open_store(str(tmp_path / "out")))


def assert_table_is_what_is_there(sink: TableSink) -> None:
    """Each file was added once, and removed once if it is gone."""
    added = Counter(path for entry in sink.log() for path in entry["add"])
    removed = Counter(path for entry in sink.log() for path in entry["remove"])
    assert {*added.values(), *removed.values()} <= {1}
    assert added.keys() - removed.keys() == {entry.path for entry in sink.present()}
    assert removed.keys() <= added.keys()


BEFORE = ("before it looks at the table", "before its transaction")
AFTER = ("after its transaction", "before it writes its summary")


@pytest.mark.parametrize("step", [*BEFORE, *AFTER])
def test_the_next_run_finishes_what_a_death_left_though_it_has_nothing_to_annotate(
    job: str, sink: TableSink, step: str
) -> None:
    run_until_it_dies(step, job)
    assert len(sink.present()) == 2
    assert len(sink.log()) == (step in AFTER)

    assert run(job).state == "nothing to do"
    assert len(sink.log()) == 1
    assert_table_is_what_is_there(sink)
    # And nothing more is ever done to it.
    assert run(job).state == "nothing to do"
    assert len(sink.log()) == 1


@pytest.mark.parametrize("step", ["while it annotates", BEFORE[1], AFTER[0]])
def test_what_came_after_a_death_is_finished_with_what_it_left(
    job: str, sink: TableSink, lake: Path, step: str
) -> None:
    run_until_it_dies(step, job)
    write(lake, "a", "second")
    write(lake, "c", "new")
    summary = run(job)
    assert summary.state == "done"
    assert_table_is_what_is_there(sink)
    assert len(sink.present()) == 3
    assert [entry["run"] for entry in sink.log()][-1] == summary.run
    assert len(sink.log()) == 1 + (step in AFTER)


def test_a_run_that_dies_while_it_annotates_shows_no_half_of_it_in_the_table(
    job: str, sink: TableSink
) -> None:
    run_until_it_dies("while it annotates", job)
    assert (len(sink.present()), sink.log()) == (1, [])


if __name__ == "__main__":
    DIES_AT = sys.argv[1]
    run(sys.argv[2])
