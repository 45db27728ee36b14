"""What an output holds: counted from its footers, and read against the input."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.check import check, pin
from pipeline.engine.record import RowCounts
from pipeline.errors import SplitError
from pipeline.job import Job
from pipeline.lake.dataset import SUFFIXES, Split
from pipeline.lake.footers import read_footer, read_footers
from pipeline.lake.store import Store, open_store

if TYPE_CHECKING:
    import pyarrow as pa

RUNS_SHOWN = 5


@dataclass
class Status:
    """How far a job's output is.

    Attributes:
        output: Its address.
        files: Annotated files there.
        rows: As their footers count them.
        bytes: Their size.
        left: Input splits without a file; None if no job was given.
        total: Input splits; None if no job was given.
        runs: Summaries of the last runs, latest first.
    """

    output: str
    files: int = 0
    rows: RowCounts = field(default_factory=RowCounts)
    bytes: int = 0
    left: int | None = None
    total: int | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)


def output_status(address: str, *, job: Job | None = None) -> Status:
    """Counts what an output holds.

    Args:
        address: Of the output.
        job: To tell what is left.

    Raises:
        JobError: The job is wrong or the output can't be listed.
    """
    store = open_store(address)
    entries = [entry for entry in store.entries() if entry.path.endswith(SUFFIXES)]
    status = Status(store.root, runs=last_runs(store))
    footers = list(read_footers(store, [entry.path for entry in entries]))
    for entry, footer in zip(entries, footers, strict=True):
        if footer:
            status.files += 1
            status.bytes += entry.size
            for name, number in footer["rows"].items():
                setattr(status.rows, name, getattr(status.rows, name) + number)
    if job is not None:
        present = {entry.path for entry in entries}
        made = {str(footer.get("fingerprint")) for footer in footers}
        splits = pin(check(job), like=made).splits()
        status.total = len(splits)
        status.left = sum(split.output_path not in present for split in splits)
    return status


def last_runs(store: Store) -> list[dict[str, Any]]:
    """The summaries of the last runs, latest first; of a run that died, its name alone."""
    runs = sorted(store.own.names("runs"), reverse=True)[:RUNS_SHOWN]
    found: list[dict[str, Any]] = []
    for run in runs:
        raw = store.own.read(f"runs/{run}/summary.json")
        found.append(json.loads(raw) if raw else {"run": run, "state": "died or is running"})
    return found


@dataclass
class Verdict:
    """What `verify_job` found.

    Attributes:
        splits: That were compared.
        rows: That were compared.
        problems: In words, each naming a file.
    """

    splits: int = 0
    rows: int = 0
    problems: list[str] = field(default_factory=list)


def verify_job(job: Job) -> Verdict:
    """Reads a job's output against its input.

    Every split has exactly one output file, with as many rows and with equal carried columns.

    Args:
        job: From `load_job`.

    Raises:
        JobError: The job is wrong.
    """
    checked = check(job)
    output = open_store(checked.job.output.path)
    there = Counter(entry.path for entry in output.entries() if entry.path.endswith(SUFFIXES))
    footers = read_footers(output, sorted(there))
    pinned = pin(checked, like={str(footer.get("fingerprint")) for footer in footers})
    verdict = Verdict()
    for split in pinned.splits():
        if not there.pop(split.output_path, 0):
            verdict.problems.append(f"{_name(split)} has no output file")
            continue
        verdict.splits += 1
        try:
            _compare(pinned.checked.dataset.store, output, split, job, verdict)
        except SplitError as error:
            verdict.problems.append(str(error))
    verdict.problems += [f"{path} belongs to no split of the input" for path in sorted(there)]
    return verdict


def _compare(store: Store, output: Store, split: Split, job: Job, verdict: Verdict) -> None:
    from pipeline.lake.reader import input_schema, open_split, split_rows, windows

    footer = read_footer(output, split.output_path)
    if footer.get("split") != split.id:
        verdict.problems.append(
            f"{split.output_path} says it is of split {footer.get('split')}, not {split.id}"
        )
        return
    with (
        closing(open_split(store, split.path)) as given,
        closing(open_split(output, split.output_path)) as made,
    ):
        rows = split_rows(given, split)
        if made.metadata.num_rows != rows:
            verdict.problems.append(
                f"{split.output_path} has {made.metadata.num_rows} rows, {_name(split)} has {rows}"
            )
            return
        columns = input_schema(
            given.schema_arrow,
            reads=job.reads,
            texts=job.texts_read,
            named=job.named_by,
            columns=job.input.columns,
            where=split.path,
        ).names
        lost = [name for name in columns if name not in made.schema_arrow.names]
        if lost:
            verdict.problems.append(f"{split.output_path} lacks the column `{lost[0]}`")
            return
        whole = Split(split.id, split.output_path, 0, "")
        ours = _slices(windows(made, whole, columns=columns))
        at = 0
        for table, _ in windows(given, split, columns=columns):
            other = ours(table.num_rows)
            for name in columns:
                if not _equal(table.column(name), other.column(name)):
                    verdict.problems.append(
                        f"{split.output_path}: column `{name}` differs from {_name(split)} in "
                        f"rows {at} to {at + table.num_rows - 1}"
                    )
                    return
            at += table.num_rows
    verdict.rows += rows


def _equal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    """Equality by which NaN equals NaN, also inside lists and structs."""
    if one.equals(other):
        return True
    return one.type == other.type and repr(one.to_pylist()) == repr(other.to_pylist())


def _slices(tables: Iterator[tuple[pa.Table, float]]) -> Any:
    """Takes rows off a stream of tables, however it is cut."""
    import pyarrow as pa

    held: list[pa.Table] = []

    def take(rows: int) -> pa.Table:
        have = sum(table.num_rows for table in held)
        while have < rows:
            held.append(next(tables)[0])
            have += held[-1].num_rows
        whole = pa.concat_tables(held)
        held[:] = [whole.slice(rows)]
        return whole.slice(0, rows)

    return take


def _name(split: Split) -> str:
    if split.row_groups is None:
        return split.path
    return f"{split.path} (row groups {split.row_groups[0]} to {split.row_groups[1]})"
