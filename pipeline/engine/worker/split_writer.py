"""The fate of one split in a worker: opened, its rows written and counted, committed or refused."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.engine.messages import SplitResult
from pipeline.engine.worker.annotated_rows import AnnotatedRows, annotated_table
from pipeline.engine.worker.worker_context import WorkerContext
from pipeline.errors import RunError, ShardscribeError, SplitError, WorkerLost, one_line
from pipeline.lake.sink.owner import Owner
from pipeline.lake.sink.scratch import OutputFile
from pipeline.lake.source.base import OpenSplit
from pipeline.lake.split import Split
from pipeline.lake.store.base import Entry
from pipeline.records.schema import RowCounts

BAD_ROWS_KEPT = 10


@dataclass
class SplitWriter:
    """One split on its way.

    Attributes:
        context: From where to where.
        split: What it is.
        result: What is known so far.
        error: Why it failed; it takes no more rows then.
        commit: Ends when the split is committed; None before its last row is written.
    """

    context: WorkerContext
    split: Split
    result: SplitResult
    error: SplitError | None = None
    commit: Future[None] | None = None
    _schema: pa.Schema | None = None
    _found: OpenSplit | None = None
    _out: OutputFile | None = None

    @classmethod
    def of(cls, context: WorkerContext, split: Split) -> SplitWriter:
        """A split at its start."""
        result = SplitResult(split.id, split.output_path, worker=context.worker)
        result.tasks = {name: RowCounts() for name in context.plan.job.tasks}
        return cls(context, split, result)

    @property
    def where(self) -> str:
        """Its file, for messages."""
        return self.context.source.where(self.split.path)

    @property
    def bytes_written(self) -> int:
        """To scratch so far."""
        return self._out.written if self._out is not None else 0

    @property
    def answer(self) -> SplitResult | SplitError:
        """What the driver is told."""
        return self.error or self.result

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
            self.error = SplitError(f"{self.where}: {type(error).__name__}: {one_line(error)}")

    def open(self, found: OpenSplit) -> list[str]:
        """Begins the output file.

        Args:
            found: The split, open for reading.

        Returns:
            The columns to read.

        Raises:
            SplitError: A column is missing, of a wrong type, or would be overwritten.
        """
        job = self.context.plan.job
        self._found = found
        self._schema, columns = self.context.layout(found, where=self.where)
        self.context.sink.takes(self._schema, where=self.where)
        self._out = OutputFile(
            self.context.sink,
            self.split.output_path,
            self._schema,
            compression=job.output.compression,
            row_group=job.output.row_group,
        )
        return columns

    def write(self, table: pa.Table, annotated: AnnotatedRows, rows: slice) -> None:
        """Writes some annotated rows and counts them.

        Args:
            table: What was read of the split.
            annotated: What the tasks made of it, and of other splits' rows beside it.
            rows: Which of those rows these are.

        Raises:
            SplitError: Too many rows are bad.
        """
        assert self._schema is not None
        assert self._out is not None
        assert self._found is not None
        result = self.result
        before = result.rows.rows
        counts, tasks = annotated.counts(rows)
        result.rows.add(counts)
        for name, found in tasks.items():
            result.tasks[name].add(found)
        for row, errors in annotated.errors_in(rows).items():
            if len(result.bad_rows) < BAD_ROWS_KEPT:
                task, error = next(iter(errors.items()))
                place = self._found.place(before + row)
                result.bad_rows.append((place, task, error.message))
        limits = self.context.plan.job.limits
        if limits.bad_rows >= 1:
            self._refuse_too_many_bad()
        self._out.write(annotated_table(table, self._schema, annotated, rows))

    def publish(self) -> None:
        """Commits the split, all of whose rows are written.

        Raises:
            SplitError: Too many rows are bad, or the input has changed meanwhile.
            OutputBusy: The output is another job's by now.
        """
        assert self._out is not None
        assert self._found is not None
        try:
            self._refuse_too_many_bad()
            self.refuse_change()
            rows = self.result.rows.rows if self._found.filtered else self._found.rows
            self._out.close(self._footer(), rows=rows)
            sink = self.context.sink
            guard = Owner(sink, self.context.plan.fingerprint).guard
            self.result.published = sink.commit(self.split, self._out.scratch, guard=guard)
        finally:
            self._out.discard()
        # What is committed is done, whatever a further question to the store would give.
        self.result.bytes_out = self._out.size

    def discard(self) -> None:
        """Removes what was not committed."""
        if self._out is not None:
            self._out.discard()

    def refuse_change(self) -> None:
        """Looks whether the input is still what the run was planned for.

        Raises:
            SplitError: It is not.
        """
        now = self.context.source.entry(self.split.path)
        if now is None:
            raise SplitError(
                f"{self.where} is not there any more", hint="Run the same command again"
            )
        if (
            Split.of(
                Entry(self.split.path, now.size, now.version),
                fingerprint=self.context.plan.fingerprint,
                region=self.split.region,
            ).id
            != self.split.id
        ):
            raise SplitError(
                f"{self.where} has changed since the run was planned",
                hint="Run the same command again when it is finished being written",
            )

    def _refuse_too_many_bad(self) -> None:
        limits, result = self.context.plan.job.limits, self.result
        if not limits.too_many(result.rows.bad, rows=result.rows.rows):
            return
        row, task, message = result.bad_rows[0]
        raise SplitError(
            f"{self.where}: {result.rows.bad} of {result.rows.rows} rows can't be annotated, "
            f"more than limits.bad_rows ({limits.bad_rows:g}) allows; the first is row "
            f"{row}, task {task}: {message}",
            hint="Mend the rows, or raise limits.bad_rows",
        )

    def _footer(self) -> dict[str, Any]:
        plan, split, result = self.context.plan, self.split, self.result
        version = self.context.source.version
        return {
            "split": split.id,
            "input": split.path,
            "input_version": split.version,
            **({} if version is None else {"table_version": version}),
            **split.region.fields,
            "job": plan.job.name,
            "fingerprint": plan.fingerprint,
            "fingerprint_parts": dict(plan.parts),
            "models": dict(plan.revisions),
            "dtype": self.context.dtype,
            "rows": result.rows.said,
            "tasks": {name: counts.said for name, counts in result.tasks.items()},
            "version": plan.version,
        }
