"""An output read against its input: every byte, every column, every file."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ShardscribeError, SplitError, one_line
from pipeline.job.check import check, pin
from pipeline.job.columns import carried_columns
from pipeline.job.job import Job
from pipeline.lake.sink.footers import is_damage, read_footers, said
from pipeline.lake.sink.publish import scratch_file
from pipeline.lake.sink.seal import is_broken
from pipeline.lake.source.base import OpenSplit, Source
from pipeline.lake.source.open_files import OpenFile
from pipeline.lake.source.reader import BUFFER_BYTES, SPOILT, read_batches
from pipeline.lake.split import SUFFIXES, WHOLE, Split
from pipeline.lake.store.base import Store
from pipeline.lake.store.local import LocalStore
from pipeline.lake.store.open import open_store

COPY_BYTES = 8 * 1024 * 1024


@dataclass
class Verdict:
    """What `verify_job` found.

    Attributes:
        splits: That were compared.
        rows: That were compared.
        problems: In words, each naming a file.
        damaged: How many of them annotating the split anew mends.
    """

    splits: int = 0
    rows: int = 0
    problems: list[str] = field(default_factory=list)
    damaged: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one split.

    Attributes:
        rows: That were compared.
        problem: What is wrong, naming the file; empty if nothing.
        damaged: Whether it is the output file that is wrong.
    """

    rows: int = 0
    problem: str = ""
    damaged: bool = False


class _Wrong(Exception):
    """The output file is not what it should be."""


def verify_job(job: Job) -> Verdict:
    """Reads a job's output against its input.

    Every split has exactly one output file, with every byte that was committed, as many rows and
    equal carried columns. One file that is wrong keeps no other from being looked at.

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
    splits = pinned.splits(there=set(there))
    verdict.problems += uncovered(pinned.checked.source, splits)
    for split in splits:
        if not there.pop(split.output_path, 0):
            verdict.problems.append(f"{split.told} has no output file")
            continue
        verdict.splits += 1
        found = compare(pinned.checked.source, output, split, job)
        verdict.rows += found.rows
        verdict.damaged += found.damaged
        if found.problem:
            verdict.problems.append(found.problem)
    missed = pinned.checked.listing.missed
    verdict.problems += [f"{path} of the input can't be read: {missed[path]}" for path in missed]
    if not missed:  # else they may be of what can't be read
        verdict.problems += [f"{path} belongs to no split of the input" for path in sorted(there)]
    return verdict


def uncovered(source: Source, splits: Sequence[Split]) -> Iterator[str]:
    """Which files have a row that is in none of their splits, or in two.

    Args:
        source: The input.
        splits: All of it, those of a file side by side and in order.
    """
    for path, group in groupby(splits, key=lambda split: split.path):
        parts = [split for split in group if split.region != WHOLE]
        at = 0
        with suppress(SplitError):  # that it can't be read is told of each split
            for split in [*parts, *(replace(split, region=WHOLE) for split in parts[:1])]:
                with closing(source.open(split)) as found:
                    begin = found.first if split.region != WHOLE else found.rows
                    if begin != at:
                        yield f"{path} is not cut well: rows {at} and {begin} should be one"
                    at = found.first + found.rows


def compare(source: Source, output: Store, split: Split, job: Job) -> Finding:
    """Reads all of a split's output file, and its input beside it.

    Args:
        source: The input.
        output: The output.
        split: What to compare.
        job: Whose the output is.
    """
    path = split.output_path
    try:
        with ExitStack() as stack:
            local = stack.enter_context(_local(output, path))
            made = stack.enter_context(closing(_open(local)))
            given = stack.enter_context(closing(source.open(split)))
            carried = carried_columns(job, given.schema, where=source.where(split.path)).names
            return Finding(_compare(given, made, split, carried, list(job.tasks)))
    except _Wrong as error:
        return Finding(problem=f"{path}{error}", damaged=True)
    except ShardscribeError as error:
        return Finding(problem=str(error))
    except OSError as error:
        return Finding(problem=f"{path} can't be read: {one_line(error)}")


def damaged(
    source: Source, output: Store, splits: Sequence[Split], job: Job
) -> tuple[dict[str, str], dict[str, str]]:
    """Reads the output files of splits.

    Args:
        source: The input.
        output: The output.
        splits: What to look at.
        job: Whose the output is.

    Returns:
        What is wrong, by output file; what keeps others from being compared, likewise.
    """
    wrong, unread = {}, {}
    for split in splits:
        found = compare(source, output, split, job)
        if found.damaged:
            wrong[split.output_path] = found.problem
        elif found.problem:
            unread[split.output_path] = found.problem
    return wrong, unread


@contextmanager
def _local(store: Store, path: str) -> Iterator[Path]:
    """An output file on this machine: it is read more than once."""
    if isinstance(store, LocalStore):
        yield store.base / path
        return
    copy = scratch_file(store)
    try:
        with copy.open("wb") as file, closing(store.open(path)) as remote:
            shutil.copyfileobj(remote, file, COPY_BYTES)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _open(path: Path) -> pq.ParquetFile:
    """Opens an output file, all of whose bytes are as they were committed.

    Raises:
        _Wrong: They are not.
        OSError: It can't be read.
    """
    try:
        file = pq.ParquetFile(
            path, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        )
    except SPOILT as error:
        if is_damage(error):
            raise _Wrong(f" is damaged: {one_line(error)}") from error
        raise
    if is_broken(path, file.metadata.metadata):
        file.close()
        raise _Wrong(" is damaged: its bytes are not those that were committed")
    return file


def _compare(
    given: OpenSplit,
    made: pq.ParquetFile,
    split: Split,
    carried: Sequence[str],
    tasks: Sequence[str],
) -> int:
    of = said(made.metadata.metadata).get("split")
    if of != split.id:
        raise _Wrong(f" says it is of split {of}, not {split.id}")
    if made.metadata.num_rows != given.rows:
        raise _Wrong(f" has {made.metadata.num_rows} rows, {split.told} has {given.rows}")
    names = made.schema_arrow.names
    for name in [*carried, *tasks]:
        if name not in names:
            raise _Wrong(f" lacks the column `{name}`")
    take = _slices(read_batches(OpenFile(made), WHOLE, columns=names))
    at = 0
    for table in given.batches(carried):
        other = take(table.num_rows)
        for name in carried:
            if not _equal(table.column(name), other.column(name)):
                last = at + table.num_rows - 1
                raise _Wrong(f": column `{name}` differs from {split.told} in rows {at} to {last}")
        at += table.num_rows
    return given.rows


def _equal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    """Equality by which NaN equals NaN, also inside lists and structs."""
    if one.equals(other):
        return True
    try:
        return one.type == other.type and repr(one.to_pylist()) == repr(other.to_pylist())
    except UnicodeDecodeError:
        return False


def _slices(tables: Iterator[pa.Table]) -> Callable[[int], pa.Table]:
    """Takes rows off a stream of tables, however it is cut."""
    held: list[pa.Table] = []

    def take(rows: int) -> pa.Table:
        have = sum(table.num_rows for table in held)
        while have < rows:
            try:
                table = next(tables)
            except StopIteration:
                raise _Wrong(" is damaged: it has fewer rows than its footer says") from None
            except SPOILT as error:
                raise _Wrong(f" is damaged: {one_line(error)}") from error
            held.append(table)
            have += table.num_rows
        whole = pa.concat_tables(held)
        held[:] = [whole.slice(rows)]
        return whole.slice(0, rows)

    return take
