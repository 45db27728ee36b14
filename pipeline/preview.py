"""A few rows: annotated in this process, or read from an output."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.conditions.condition import condition_names, rows_where
from pipeline.engine.messages import WorkPlan
from pipeline.errors import JobError, near
from pipeline.job.check import FIRST_FILES, Checked, check, check_columns, pin
from pipeline.job.columns import carried_columns, columns_of
from pipeline.job.job import ERRORS_COLUMN, Job
from pipeline.lake.iceberg import TableName
from pipeline.lake.sink.footers import said
from pipeline.lake.sink.merged import rows_once
from pipeline.lake.source.base import NothingThere, Source
from pipeline.lake.source.choice import Choice
from pipeline.lake.source.files import FileSource
from pipeline.lake.source.open import as_found, open_source, open_table
from pipeline.lake.split import Split
from pipeline.models.device import device_here

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.engine.worker.annotator import Annotator

# A condition on what tasks give may hold for hardly any row, or for none.
MOST_ANNOTATED = 1_000
AT_ONCE = 32
READ_ROWS = 1_024


@dataclass(frozen=True)
class Wanted:
    """Which rows to show.

    Attributes:
        rows: How many.
        where: A condition, over columns and tasks' fields, that they meet.
        bad: Only those with errors.
        columns: What to show of them; what tells most by default.
    """

    rows: int = 5
    where: str | None = None
    bad: bool = False
    columns: tuple[str, ...] = ()

    @property
    def decides(self) -> tuple[str, ...]:
        """The columns that decide whether a row is shown."""
        names = condition_names(self.where) if self.where is not None else ()
        return (*names, ERRORS_COLUMN) if self.bad else names

    def pick(self, table: pa.Table) -> pa.Table:
        """The rows of a table that are wanted, however many.

        Raises:
            JobError: The condition is wrong, or there are no errors to look at.
        """
        import numpy as np

        from pipeline.lake.source.passed import rows_kept

        if self.where is not None:
            table = rows_kept(table, np.array(rows_where(self.where, table), bool))
        if self.bad:
            if ERRORS_COLUMN not in table.column_names:
                raise JobError(
                    f"there is no column `{ERRORS_COLUMN}`, so no row is known to be bad",
                    hint="Leave out --bad",
                )
            table = table.filter(table.column(ERRORS_COLUMN).is_valid())
        return table


@dataclass
class Found:
    """Rows to show.

    Attributes:
        tables: Of them, in order; not all need have the same columns.
        columns: What to show, in this order.
        looked_at: How many rows were looked at.
        more: Whether there are more that nobody looked at.
    """

    tables: list[pa.Table]
    columns: tuple[str, ...]
    looked_at: int = 0
    more: bool = False

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(table.num_rows for table in self.tables)

    def gather(self, tables: Iterator[pa.Table], wanted: Wanted, *, most: int | None) -> None:
        """Takes wanted rows until there are enough."""
        for table in tables:
            picked = wanted.pick(table).slice(0, wanted.rows - self.rows)
            self.looked_at += table.num_rows
            if picked.num_rows:
                self.tables.append(picked)
            if self.rows >= wanted.rows:
                return
            if most is not None and self.looked_at >= most:
                self.more = True
                return


def preview_rows(job: Job, wanted: Wanted, *, most: int = MOST_ANNOTATED) -> Found:
    """Annotates some rows of a dataset without Ray and without writing.

    A condition on the input's own columns alone is asked before anything is annotated.

    Args:
        job: From `load_job`.
        wanted: Which rows; over as many files as it takes.
        most: How many rows to annotate at most, to find them.

    Returns:
        Carried columns, task columns and errors.

    Raises:
        JobError: The job is wrong, or what is wanted is.
        SplitError: A file can't be read.
    """
    checked = check(job, footers=FIRST_FILES)
    from pipeline.engine.worker.annotator import Annotator

    made = {*job.tasks, ERRORS_COLUMN}
    schema = check_columns(job, checked.source, checked.listing.files)
    given = columns_of(job, schema)
    asked = condition_names(wanted.where) if wanted.where is not None else ()
    _check_names(asked, [*given, *job.tasks, ERRORS_COLUMN], option="--where")
    _check_names(wanted.columns, [*schema.names, *job.tasks, ERRORS_COLUMN])
    early = not made & set(asked)
    Wanted(where=wanted.where).pick(_without_rows(checked, schema, asked))
    pinned = pin(checked)
    on = pinned.checked.job.compute.device
    device = device_here() if on == "auto" else on
    plan = WorkPlan.of(pinned, device=device, threads=os.cpu_count() or 1)
    annotator = Annotator(plan, publish=False)

    def tables() -> Iterator[pa.Table]:
        for entry in checked.listing.files:
            split = Split.of(entry, fingerprint=pinned.fingerprint)
            yield from _annotated(annotator, job, checked.source, split, wanted, early=early)

    found = Found([], wanted.columns or (*_heads(job), *job.tasks, ERRORS_COLUMN))
    found.gather(tables(), Wanted(wanted.rows, None if early else wanted.where, wanted.bad),
                 most=most)  # fmt: skip
    return found


def _without_rows(checked: Checked, schema: pa.Schema, names: Sequence[str]) -> pa.Table:
    """A table of the columns that a condition looks at, to find out whether it can be asked."""
    import pyarrow as pa

    from pipeline.job.columns import ERRORS_TYPE

    types = dict.fromkeys(checked.job.texts_read, pa.string())
    types |= {field.name: field.type for field in schema}
    types |= {name: task.output_type() for name, task in checked.job.configured.items()}
    types[ERRORS_COLUMN] = ERRORS_TYPE
    # Of a column that is read and not carried, only the files know the type.
    return pa.table({name: pa.nulls(0, types.get(name, pa.null())) for name in names or ["text"]})


def _annotated(
    annotator: Annotator, job: Job, source: Source, split: Split, wanted: Wanted, *, early: bool
) -> Iterator[pa.Table]:
    picky = Wanted(where=wanted.where if early else None)
    # As few as are asked for, where each of them is shown.
    step = AT_ONCE if wanted.bad or (wanted.where and not early) else wanted.rows
    with closing(source.open(split)) as found:
        where = source.where(split.path)
        carried = carried_columns(job, found.schema, where=where, beside=found.beside)
        for table in found.batches(columns_of(job, carried)):
            few = picky.pick(table)
            for at in range(0, few.num_rows, step):
                yield annotator.annotate_table(few.slice(at, step), annotator.schema(carried))


def output_rows(
    address: str, wanted: Wanted, *, job: Job | None = None, option: str = "--columns"
) -> Found:
    """Annotated rows of an output.

    Args:
        address: A directory, or one Parquet file.
        wanted: Which rows.
        job: Says what to show of them, as the files' own metadata does without it.
        option: What named the columns that are wanted, for messages.

    Raises:
        JobError: There are none, or what is wanted is wrong.
        SplitError: A file can't be read.
    """
    source, splits = output_splits(address, job=job)
    with closing(source.open(splits[0])) as found:
        schema = found.schema
    _check_names(wanted.columns, schema.names, option=option)
    asked = {*wanted.columns, *wanted.decides} if wanted.columns else None
    few = wanted.rows if wanted.where is None and not wanted.bad else READ_ROWS

    def tables() -> Iterator[pa.Table]:
        for split in splits:
            with closing(source.open(split)) as found:
                names = [name for name in found.schema.names if asked is None or name in asked]
                yield from found.batches(names, rows=few)

    rows = Found([], wanted.columns or _telling(schema, job))
    rows.gather(tables(), wanted, most=None)
    return rows


def output_splits(address: str, *, job: Job | None = None) -> tuple[Source, list[Split]]:
    """An output as what reads it, and as what to read; each row is in one of these.

    Args:
        address: A directory, or one Parquet file.
        job: Whose output it is, if that is known: it may name a table.

    Raises:
        JobError: There is nothing.
    """
    source: Source
    if job is not None and job.output.table is not None:
        name = TableName(job.output.table, job.output.catalog)
        source = open_table(name, choice=Choice())
    else:
        source = as_found(open_source(address))
    try:
        listing = source.listing()
    except NothingThere as error:
        raise JobError(
            f"{address} holds no annotated rows yet", hint="Run the job first"
        ) from error
    source = source.settled(listing)
    if isinstance(source, FileSource):
        splits = list(rows_once(source.store, listing.files))
    else:
        splits = [Split.of(entry, fingerprint="") for entry in listing.files]
    return source, splits


def _telling(schema: pa.Schema, job: Job | None) -> tuple[str, ...]:
    """The text, what was made of it, and errors."""
    if job is not None:
        return (*_heads(job), *job.tasks, ERRORS_COLUMN)
    parts = said(schema.metadata).get("fingerprint_parts") or {}
    telling = (str(parts.get("text", "text")), *parts.get("tasks", {}), ERRORS_COLUMN)
    return tuple(name for name in telling if name in schema.names) if parts else tuple(schema.names)


def _heads(job: Job) -> tuple[str, ...]:
    """What tells which row it is: the text, or the keys where no text is carried."""
    carried = job.carried
    return (job.input.text,) if carried is None or job.input.text in carried else carried


def _check_names(names: Sequence[str], there: Sequence[str], *, option: str = "--columns") -> None:
    for name in names:
        if name not in there:
            raise JobError(
                f"{option}: there is no column `{name}`; there are {', '.join(there)}",
                hint=f"{near(name, there)} in {option}",
            )
