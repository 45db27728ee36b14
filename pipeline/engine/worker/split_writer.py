"""The fate of one split in a worker: opened, its rows written and counted, committed or refused."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine.messages import Counts, SplitResult, WorkPlan
from pipeline.engine.worker.rows import ERRORS_TYPE, AnnotatedRows
from pipeline.errors import RunError, ShardscribeError, SplitError, WorkerLost, one_line
from pipeline.job.job import ERRORS_COLUMN
from pipeline.lake.sink.metadata import output_metadata
from pipeline.lake.sink.owner import Owner
from pipeline.lake.sink.publish import OutputFile
from pipeline.lake.source.reader import first_row, input_schema, split_rows
from pipeline.lake.split import Split
from pipeline.lake.store.base import Entry, Store

BAD_ROWS_KEPT = 10


@dataclass(frozen=True)
class WorkerContext:
    """From where to where the splits of a worker go.

    Attributes:
        plan: The job and its models.
        input: Where splits are read.
        output: Where they are committed.
        types: Of the tasks' columns.
        dtype: What models compute in, for the footer.
        worker: Its name, for receipts.
    """

    plan: WorkPlan
    input: Store
    output: Store
    types: dict[str, pa.DataType]
    dtype: str
    worker: str

    def schema(self, carried: pa.Schema, *, rows: tuple[int, int] | None = None) -> pa.Schema:
        """The output schema of a file: carried columns, one per task, errors.

        Args:
            carried: What is carried, with the metadata of the input.
            rows: First row and number of rows, of a part of a file.
        """
        added = [pa.field(name, kind) for name, kind in self.types.items()]
        added.append(pa.field(ERRORS_COLUMN, ERRORS_TYPE))
        said = output_metadata(carried.metadata, carried.names, added, rows=rows)
        return pa.schema([*carried, *added], metadata=said)

    def part(self, split: Split) -> SplitWriter:
        """A split at its start."""
        receipt = SplitResult(split.id, split.output_path, worker=self.worker)
        receipt.tasks = {name: Counts() for name in self.plan.job.tasks}
        return SplitWriter(self, split, receipt)


@dataclass
class SplitWriter:
    """One split on its way.

    Attributes:
        route: From where to where.
        split: What it is.
        receipt: What is known so far.
        error: Why it failed; it takes no more rows then.
        commit: Ends when the split is committed; None before its last row is written.
    """

    route: WorkerContext
    split: Split
    receipt: SplitResult
    error: SplitError | None = None
    commit: Future[None] | None = None
    _schema: pa.Schema | None = None
    _total: int = 0
    _first_row: int = 0
    _out: OutputFile | None = None

    @property
    def where(self) -> str:
        """Its file, for messages."""
        return self.route.input.address(self.split.path)

    @property
    def bytes_written(self) -> int:
        """To scratch so far."""
        try:
            return self._out.scratch.stat().st_size if self._out is not None else 0
        except OSError:
            return 0

    @property
    def answer(self) -> SplitResult | SplitError:
        """What the driver is told."""
        return self.error or self.receipt

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What fails the split, and not its worker or the run, is kept with it.

        Raises:
            RunError: Something else writes to the output.
            WorkerLost: The device is broken.
        """
        try:
            yield
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Ends this attempt, and nothing beside it.

        Raises:
            RunError: The error is one.
            WorkerLost: The error is one.
        """
        if isinstance(error, (RunError, WorkerLost)):
            raise error
        if isinstance(error, SplitError):
            self.error = error
        elif isinstance(error, ShardscribeError):
            # As of a store that is away for a moment: told of the job elsewhere, not here.
            self.error = SplitError(f"{self.where}: {error.message}", hint=error.hint)
        else:
            damaged = isinstance(error, (pa.ArrowException, OSError))
            self.error = SplitError(
                f"{self.where}: {type(error).__name__}: {one_line(error)}",
                hint="If the file is damaged, write it again or take it out of the dataset"
                if damaged
                else "",
            )

    def open(self, file: pq.ParquetFile) -> list[str]:
        """Begins the output file.

        Args:
            file: The input.

        Returns:
            The columns to read.

        Raises:
            SplitError: A column is missing, of a wrong type, or would be overwritten.
        """
        job = self.route.plan.job
        carried = input_schema(
            file.schema_arrow,
            reads=job.reads,
            texts=job.texts_read,
            named=job.named_by,
            columns=job.input.columns,
            where=self.where,
        )
        for name in [*job.tasks, ERRORS_COLUMN]:
            if name in carried.names:
                raise SplitError(
                    f"{self.where} has a column `{name}` already, which the job would overwrite",
                    hint="Rename the task, or list the columns to carry in input.columns",
                )
        self._total = split_rows(file, self.split)
        self._first_row = first_row(file, self.split)
        self._schema = self.route.schema(carried, rows=(self._first_row, self._total))
        self._out = OutputFile(
            self.route.output,
            self.split.output_path,
            self._schema,
            compression=job.output.compression,
        )
        return list(dict.fromkeys([*carried.names, *job.reads]))

    def write(self, table: pa.Table, window: AnnotatedRows, rows: slice) -> None:
        """Writes some annotated rows and counts them.

        Args:
            table: What was read of the split.
            window: What the tasks made of it, and of other splits' rows beside it.
            rows: Which of the window's rows these are.

        Raises:
            SplitError: Too many rows are bad.
        """
        assert self._schema is not None
        assert self._out is not None
        receipt = self.receipt
        before = self._first_row + receipt.rows.rows
        counts, tasks = window.counts(rows)
        receipt.rows.add(counts)
        for name, found in tasks.items():
            receipt.tasks[name].add(found)
        for row, errors in enumerate(window.errors[rows]):
            if errors and len(receipt.bad_rows) < BAD_ROWS_KEPT:
                task, error = next(iter(errors.items()))
                receipt.bad_rows.append((before + row, task, error.message))
        limits = self.route.plan.job.limits
        if limits.bad_rows >= 1:
            self._refuse_too_many_bad()
        self._out.write(annotated_table(table, self._schema, window, rows))

    def publish(self) -> None:
        """Commits the split, all of whose rows are written.

        Raises:
            SplitError: Too many rows are bad, or the input has changed meanwhile.
            OutputBusy: The output is another job's by now.
        """
        assert self._out is not None
        try:
            self._refuse_too_many_bad()
            self.refuse_change()
            self.receipt.published = self._out.publish(
                self._footer(),
                rows=self._total,
                replace=self.split.replace,
                guard=Owner(self.route.output, self.route.plan.fingerprint).guard,
            )
        finally:
            self._out.discard()
        # What is committed is done, whatever a further question to the store would give.
        self.receipt.bytes_out = self._out.size

    def discard(self) -> None:
        """Removes what was not committed."""
        if self._out is not None:
            self._out.discard()

    def refuse_change(self) -> None:
        """Looks whether the input is still what the run was planned for.

        Raises:
            SplitError: It is not.
        """
        now = self.route.input.entry(self.split.path)
        if now is None:
            raise SplitError(
                f"{self.where} is not there any more", hint="Run the same command again"
            )
        if (
            Split.of(
                Entry(self.split.path, now.size, now.version),
                fingerprint=self.route.plan.fingerprint,
                region=self.split.region,
            ).id
            != self.split.id
        ):
            raise SplitError(
                f"{self.where} has changed since the run was planned",
                hint="Run the same command again when it is finished being written",
            )

    def _refuse_too_many_bad(self) -> None:
        limits, receipt = self.route.plan.job.limits, self.receipt
        if not limits.too_many(receipt.rows.bad, rows=receipt.rows.rows):
            return
        row, task, message = receipt.bad_rows[0]
        raise SplitError(
            f"{self.where}: {receipt.rows.bad} of {receipt.rows.rows} rows can't be annotated, "
            f"more than limits.bad_rows ({limits.bad_rows:g}) allows; the first is row "
            f"{row}, task {task}: {message}",
            hint="Mend the rows, or raise limits.bad_rows",
        )

    def _footer(self) -> dict[str, Any]:
        plan, split, receipt = self.route.plan, self.split, self.receipt
        return {
            "split": split.id,
            "input": split.path,
            "input_version": split.version,
            **split.region.fields,
            "job": plan.job.name,
            "fingerprint": plan.fingerprint,
            "fingerprint_parts": dict(plan.parts),
            "models": dict(plan.revisions),
            "dtype": self.route.dtype,
            "rows": vars(receipt.rows),
            "tasks": {name: vars(counts) for name, counts in receipt.tasks.items()},
            "version": plan.version,
        }


def annotated_table(
    table: pa.Table, schema: pa.Schema, window: AnnotatedRows, rows: slice
) -> pa.Table:
    """Carried columns, task columns, errors.

    Args:
        table: With the carried columns.
        schema: Of the result.
        window: What the tasks made of some rows.
        rows: Which of them the table's are.
    """
    count = rows.stop - rows.start
    carried = table.select([f.name for f in schema if f.name in table.column_names])
    added = [column.slice(rows.start, count) for column in window.columns.values()]
    return pa.Table.from_arrays(
        [*carried.columns, *added, window.errors_column(rows)], schema=schema
    )
