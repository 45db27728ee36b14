"""A source and a sink that are no files: a job over tables in memory, from end to end."""

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import QuietDisplay
from in_process import Loud, annotate

from pipeline import run as running
from pipeline import status
from pipeline.errors import Interrupted, RunError
from pipeline.job import check, places
from pipeline.job.job import Job
from pipeline.lake.sink.base import Damaged, Footer
from pipeline.lake.sink.files import FileSink
from pipeline.lake.sink.footers import said
from pipeline.lake.source.base import Listing, NothingThere, Source
from pipeline.lake.source.files import FileSource
from pipeline.lake.split import Cut, Rows, Split
from pipeline.lake.store.base import Entry, Store
from pipeline.lake.store.local import LocalStore
from pipeline.models.resolve import ModelInfo
from pipeline.planning import Choices
from pipeline.preview import Wanted, preview_rows
from pipeline.tasks import TASKS
from pipeline.verify import verify_job

pytestmark = pytest.mark.unit


@dataclass
class OpenRows:
    """Some rows of a table, for reading."""

    table: pa.Table
    first: int = 0
    beside: dict[str, pa.Scalar] = field(default_factory=dict)
    filtered: bool = False

    def place(self, row: int) -> int:
        return self.first + row

    @property
    def schema(self) -> pa.Schema:
        return self.table.schema

    @property
    def rows(self) -> int:
        return int(self.table.num_rows)

    def batches(self, columns: Sequence[str], *, rows: int | None = None) -> Iterator[pa.Table]:
        for at in range(0, self.rows, rows or 2):
            yield self.table.select(list(columns)).slice(at, rows or 2)

    def close(self) -> None:
        pass


@dataclass
class Tables:
    """A source: tables by name, of whose rows two are a split."""

    tables: dict[str, pa.Table]
    address: str = "memory://given"
    version: int | None = None

    def where(self, path: str) -> str:
        return f"{self.address}/{path}"

    def overlaps(self, place: Store) -> bool:
        return False

    def listing(self, *, at_most: int | None = None) -> Listing:
        if not self.tables:
            raise NothingThere(f"{self.address} holds no table")
        return Listing([entry for path in sorted(self.tables) if (entry := self.entry(path))])

    def settled(self, listing: Listing) -> "Tables":
        return self

    def entry(self, path: str) -> Entry | None:
        table = self.tables.get(path)
        return table and Entry(path, table.nbytes, str(hash(str(table.to_pylist()))))

    def splits(
        self, files: Sequence[Entry], *, fingerprint: str, cut: Cut, memory: Any = None,
        there: Any = (),
    ) -> Iterator[Split]:  # fmt: skip
        for entry in files:
            rows = self.tables[entry.path].num_rows
            for at in range(0, rows, 2):
                region = Rows(at, min(2, rows - at))
                yield Split.of(entry, fingerprint=fingerprint, region=region, size=1)

    def open(self, split: Split) -> OpenRows:
        table = self.tables[split.path]
        if not isinstance(split.region, Rows):
            return OpenRows(table)
        return OpenRows(table.slice(split.region.first, split.region.count), split.region.first)


@dataclass
class HeldTable:
    """A committed table, for reading."""

    table: pa.Table
    said: dict[str, Any]

    @property
    def names(self) -> list[str]:
        return list(self.table.column_names)

    @property
    def rows(self) -> int:
        return int(self.table.num_rows)

    def batches(self) -> Iterator[pa.Table]:
        yield self.table

    def close(self) -> None:
        pass


@dataclass
class Shelf:
    """A sink: committed tables by name, and which runs have finished it."""

    own: Store
    scratch: Path
    address: str = "memory://kept"
    held: dict[str, HeldTable] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    finished: list[str] = field(default_factory=list)
    refuses: Exception | None = None

    def where(self, path: str) -> str:
        return f"{self.address}/{path}"

    def check(self, source: Source) -> None:
        pass

    def present(self) -> list[Entry]:
        return [entry for path in sorted(self.held) if (entry := self.entry(path))]

    def entry(self, path: str) -> Entry | None:
        return Entry(path, self.held[path].table.nbytes, "1") if path in self.held else None

    def look(self, entries: Sequence[Entry]) -> Iterator[Footer]:
        for entry in entries:
            yield Footer(self.held[entry.path].said)

    def open(self, path: str) -> HeldTable:
        if path in self.broken:
            raise Damaged(f"{path} is damaged: it fell off the shelf")
        return self.held[path]

    def commit(self, split: Split, file: Path, *, guard: Callable[[], None]) -> bool:
        guard()
        if split.output_path in self.held and not split.replace:
            return False
        self.broken.discard(split.output_path)
        kept = said(pq.read_metadata(file).metadata)
        self.held[split.output_path] = HeldTable(pq.read_table(file), kept)
        return True

    def delete(self, path: str) -> None:
        self.held.pop(path, None)

    def declared(self, schema: pa.Schema) -> "Shelf":
        return self

    def takes(self, schema: pa.Schema, *, where: str) -> None:
        pass

    def refuse(self, paths: Sequence[str], *, rewrite: str = "") -> None:
        pass

    def finish(self, run: str, *, wanted: Any, guard: Callable[[], None]) -> None:
        if self.refuses is not None:
            raise self.refuses
        guard()
        self.finished.append(run)


def table(*texts: str, start: int = 0) -> pa.Table:
    return pa.table({"id": range(start, start + len(texts)), "text": texts})


@pytest.fixture
def source() -> Tables:
    return Tables({"one": table("a", "b", "c"), "two": table("d", "e", start=3)})


@pytest.fixture
def sink(tmp_path: Path) -> Shelf:
    return Shelf(LocalStore(str(tmp_path / "own")), tmp_path / "scratch")


@pytest.fixture
def job(source: Tables, sink: Shelf, monkeypatch: pytest.MonkeyPatch) -> Job:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nobody asks for files")

    monkeypatch.setattr(FileSource, "__init__", refuse)
    monkeypatch.setattr(FileSink, "__init__", refuse)
    monkeypatch.setattr(places, "open_source", lambda address, **_: source)
    monkeypatch.setattr(places, "open_sink", lambda address: sink)
    monkeypatch.setattr(status, "open_sink", lambda address: sink)
    monkeypatch.setattr(check, "look_up", lambda name, **_: ModelInfo(name, {}, commit="c"))
    monkeypatch.setitem(TASKS, "ner", Loud)
    return Job.model_validate(
        {
            "name": "tables",
            "input": {"path": source.address},
            "output": {"path": sink.address},
            "tasks": {"loud": {"kind": "ner", "model": "none"}},
            "compute": {"device": "cpu"},
        }
    )


@pytest.fixture
def run(job: Job, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def call(how: Callable[..., None] = annotate, **choices: bool) -> Any:
        monkeypatch.setattr(running, "_annotate", how)
        return running.run_job(job, display=QuietDisplay(), choices=Choices(**choices))

    return call


def annotated(sink: Shelf) -> dict[int, str]:
    rows = [row for held in sink.held.values() for row in held.table.to_pylist()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["loud"] for row in rows}


def test_a_job_over_tables_in_memory_runs_as_one_over_files_does(
    job: Job, run: Any, source: Tables, sink: Shelf
) -> None:
    summary = run()
    assert (summary.state, summary.exit_code, summary.rows.rows) == ("done", 0, 5)
    assert annotated(sink) == dict(enumerate("ABCDE"))
    assert sorted(sink.held)[0].startswith("one-rows0000000000-0000000001-")
    assert sink.finished == [summary.run]
    assert list(sink.scratch.iterdir()) == []

    assert (verify_job(job).problems, verify_job(job).rows) == ([], 5)
    found = status.output_status(job.output.path, job=job)
    assert (found.files, found.rows.rows, found.left, found.total) == (3, 5, 0, 3)
    shown = preview_rows(job, Wanted(rows=2, where="id > 2"))
    assert [row["loud"] for part in shown.tables for row in part.to_pylist()] == ["D", "E"]

    assert run().state == "nothing to do"
    source.tables["two"] = table("x", "y", "z", start=3)
    summary = run()
    assert (summary.state, summary.splits.done) == ("done", 2)
    assert annotated(sink) == dict(enumerate("ABCXYZ"))
    assert verify_job(job).problems == []


def test_what_a_sink_finds_damaged_is_named_and_annotated_anew(
    job: Job, run: Any, sink: Shelf
) -> None:
    run()
    first = min(sink.held)
    sink.broken.add(first)
    found = verify_job(job)
    assert (found.problems, found.damaged) == (
        [f"{first} is damaged: it fell off the shelf"],
        1,
    )
    assert run(retry_damaged=True).splits.done == 1
    assert verify_job(job).problems == []


def test_a_source_that_changes_while_it_is_read_fails_the_split_alone(
    run: Any, source: Tables, sink: Shelf
) -> None:
    def change(pinned: Any, *rest: Any, **named: Any) -> None:
        source.tables["two"] = table("x", "y", start=3)
        annotate(pinned, *rest, **named)

    summary = run(change)
    assert (summary.exit_code, summary.splits.done, summary.splits.failed) == (1, 2, 1)
    assert "memory://given/two has changed" in summary.failed_splits[0].reason
    assert sink.finished == [summary.run], "its splits have all ended"
    assert run().exit_code == 0
    assert annotated(sink) == dict(enumerate("ABCXY"))


def test_a_run_without_anything_to_do_finishes_all_the_same(run: Any, sink: Shelf) -> None:
    runs = [run().run for _ in range(3)]
    assert sink.finished == runs


def test_a_run_that_is_interrupted_leaves_the_finish_to_the_next(run: Any, sink: Shelf) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Interrupted("interrupted")

    assert run(stop).exit_code == 3
    assert sink.finished == []
    summary = run()
    assert sink.finished == [summary.run]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RunError("the shelf can't be labelled"), "the shelf can't be labelled"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "the run can't be finished in memory://kept: No space left on device. All that is "
            "annotated is committed: run the same command again",
        ),
    ],
)
@pytest.mark.parametrize("done", [False, True], ids=["splits to do", "nothing to do"])
def test_a_finish_that_fails_fails_the_run_and_the_next_one_tries_again(
    run: Any, sink: Shelf, done: bool, error: Exception, said: str
) -> None:
    if done:
        run()
    before, sink.refuses = list(sink.finished), error
    summary = run()
    assert (summary.state, summary.exit_code) == ("failed", 1)
    assert summary.error == said
    assert summary.splits.done == (0 if done else 3)
    assert len(sink.held) == 3, "what is committed is committed"
    sink.refuses = None
    summary = run()
    assert (summary.state, summary.exit_code) == ("nothing to do", 0)
    assert sink.finished == [*before, summary.run]


def test_a_run_that_has_lost_the_lease_does_not_finish(
    run: Any, sink: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    before = list(sink.finished)
    plainly = sink.finish

    def late(run: str, *, wanted: Any, guard: Callable[[], None]) -> None:
        sink.own.put("lease.json", b'{"run": "thief", "host": "elsewhere", "pid": 7}')
        plainly(run, wanted=wanted, guard=guard)

    monkeypatch.setattr(sink, "finish", late)
    summary = run()
    assert (summary.state, summary.exit_code) == ("failed", 4)
    assert "run thief on elsewhere" in summary.error
    assert sink.finished == before
