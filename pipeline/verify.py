"""An output read against its input: every byte, every column, every file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from itertools import groupby

import pyarrow as pa

from pipeline.errors import ShardscribeError, SplitError, one_line
from pipeline.job.check import check, pin
from pipeline.job.columns import carried_columns
from pipeline.job.job import Job
from pipeline.lake.sink.base import CommittedFile, Damaged, Merged, Sink
from pipeline.lake.source.base import OpenSplit, RowsMoved, Source
from pipeline.lake.source.promote import promoted
from pipeline.lake.split import WHOLE, Split


@dataclass
class Verdict:
    """What `verify_job` found.

    Attributes:
        splits: That were compared.
        rows: That were compared.
        problems: In words, each naming a file.
        damaged: How many of them annotating the split anew mends.
        merged: How many splits could not be compared, as another program has merged their rows
            with others.
    """

    splits: int = 0
    rows: int = 0
    problems: list[str] = field(default_factory=list)
    damaged: int = 0
    merged: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one split.

    Attributes:
        rows: That were compared.
        problem: What is wrong, naming the file; empty if nothing.
        damaged: Whether it is the output file that is wrong.
        merged: Whether its rows are elsewhere by now.
    """

    rows: int = 0
    problem: str = ""
    damaged: bool = False
    merged: bool = False


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
    entries = checked.sink.present()
    there = {entry.path for entry in entries}
    footers = checked.sink.look(entries)
    pinned = pin(checked, like={str(footer.said.get("fingerprint")) for footer in footers})
    verdict = Verdict()
    splits, left = pinned.splits(there=there), set(there)
    verdict.problems += uncovered(checked.source, splits)
    for split in splits:
        if split.output_path not in left:
            verdict.problems.append(f"{split.told} has no output file")
            continue
        left.remove(split.output_path)
        found = compare(checked.source, checked.sink, split, job)
        verdict.merged += found.merged
        verdict.splits += not found.merged
        verdict.rows += found.rows
        verdict.damaged += found.damaged
        if found.problem:
            verdict.problems.append(found.problem)
    missed = pinned.checked.listing.missed
    verdict.problems += [f"{path} of the input can't be read: {missed[path]}" for path in missed]
    if not missed:  # else they may be of what can't be read
        verdict.problems += [f"{path} belongs to no split of the input" for path in sorted(left)]
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


def compare(source: Source, sink: Sink, split: Split, job: Job) -> Finding:
    """Reads all of a split's output file, and its input beside it.

    Args:
        source: The input.
        sink: The output.
        split: What to compare.
        job: Whose the output is.
    """
    path = split.output_path
    try:
        with ExitStack() as stack:
            made = stack.enter_context(closing(sink.open(path)))
            given = stack.enter_context(closing(source.open(split)))
            where = source.where(split.path)
            carried = carried_columns(job, given.schema, where=where, beside=given.beside).names
            return Finding(_compare(given, made, split, carried=carried, job=job))
    except (Merged, RowsMoved):
        return Finding(merged=True)
    except Damaged as error:
        return Finding(problem=str(error), damaged=True)
    except ShardscribeError as error:
        return Finding(problem=str(error))
    except OSError as error:
        return Finding(problem=f"{path} can't be read: {one_line(error)}")


def damaged(
    source: Source, sink: Sink, splits: Sequence[Split], job: Job
) -> tuple[dict[str, str], dict[str, str]]:
    """Reads the output files of splits.

    Args:
        source: The input.
        sink: The output.
        splits: What to look at.
        job: Whose the output is.

    Returns:
        What is wrong, by output file; what keeps others from being compared, likewise.
    """
    wrong, unread = {}, {}
    for split in splits:
        found = compare(source, sink, split, job)
        if found.damaged:
            wrong[split.output_path] = found.problem
        elif found.problem:
            unread[split.output_path] = found.problem
    return wrong, unread


def _compare(
    given: OpenSplit, made: CommittedFile, split: Split, *, carried: Sequence[str], job: Job
) -> int:
    path = split.output_path
    of = made.said.get("split")
    if of != split.id:
        raise Damaged(f"{path} says it is of split {of}, not {split.id}")
    if made.rows != given.rows and not given.filtered:
        raise Damaged(f"{path} has {made.rows} rows, {split.told} has {given.rows}")
    for name in job.tasks:
        _refuse_lack(path, name, made)
    take = _slices(path, made.batches())
    at = 0
    for table in given.batches(carried):
        other = take(table.num_rows)
        for name in carried:
            # A column that came into the dataset later is null in what was annotated before.
            if name not in made.names and table.column(name).null_count == table.num_rows:
                continue
            _refuse_lack(path, name, made)
            if not _equal(table.column(name), other.column(name)):
                last = at + table.num_rows - 1
                raise Damaged(
                    f"{path}: column `{name}` differs from {split.told} in rows {at} to {last}"
                )
        at += table.num_rows
    if made.rows != at:
        raise Damaged(f"{path} has {made.rows} rows, of {split.told} {at} pass the filter")
    return at


def _refuse_lack(path: str, name: str, made: CommittedFile) -> None:
    if name not in made.names:
        raise Damaged(f"{path} lacks the column `{name}`")


def _equal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    """Equality by which NaN equals NaN, also inside lists and structs.

    A column may be wider now than it was when it was written, or the reverse.
    """
    wider = promoted(one.type, other.type)
    if wider is not None and one.type != other.type:
        with suppress(pa.ArrowException):
            one, other = (c if c.type == wider else c.cast(wider) for c in (one, other))
    if one.equals(other):
        return True
    try:
        return one.type == other.type and repr(one.to_pylist()) == repr(other.to_pylist())
    except UnicodeDecodeError:
        return False


def _slices(path: str, tables: Iterator[pa.Table]) -> Callable[[int], pa.Table]:
    """Takes rows off a stream of tables, however it is cut."""
    held: list[pa.Table] = []

    def take(rows: int) -> pa.Table:
        have = sum(table.num_rows for table in held)
        while have < rows:
            try:
                table = next(tables)
            except StopIteration:
                raise Damaged(f"{path} is damaged: it has fewer rows than it says") from None
            held.append(table)
            have += table.num_rows
        whole = pa.concat_tables(held)
        held[:] = [whole.slice(rows)]
        return whole.slice(0, rows)

    return take
