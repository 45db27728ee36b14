"""One worker's work: holds models, turns a split into a committed file. Knows nothing of Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.engine.work import Counts, Pulse, Receipt, WorkPlan
from pipeline.errors import JobError, RowError, SplitError
from pipeline.job import ERRORS_COLUMN
from pipeline.lake.dataset import Split
from pipeline.lake.publish import OutputFile, clean_scratch
from pipeline.lake.reader import (
    first_row,
    input_schema,
    open_split,
    split_rows,
    texts_of,
    windows,
)
from pipeline.lake.store import Entry, open_store
from pipeline.models.device import Device
from pipeline.models.load import Models
from pipeline.models.model import raise_if_fatal, row_error
from pipeline.models.resolve import here
from pipeline.tasks import Annotate, Annotated

ERRORS_TYPE = pa.list_(
    pa.struct([("task", pa.string()), ("code", pa.string()), ("message", pa.string())])
)
BAD_ROWS_KEPT = 10


@dataclass
class Window:
    """A window of rows with their annotations.

    Attributes:
        table: Carried columns, task columns, errors.
        rows: How the rows ended.
        tasks: The same by task.
        bad_rows: Some of the bad ones, as (row in the window, task, message).
        tokens: Tokens given to models.
        padded_tokens: The same with padding.
    """

    table: pa.Table
    rows: Counts
    tasks: dict[str, Counts]
    bad_rows: list[tuple[int, str, str]] = field(default_factory=list)
    tokens: int = 0
    padded_tokens: int = 0


class Annotator:
    """Turns splits into committed files.

    Several threads may call `annotate` at once: one split is read and tokenized while another
    holds the device.

    Args:
        plan: The job and its models.
        name: Of the worker, for receipts.

    Raises:
        JobError: A model can't be loaded here.
    """

    def __init__(self, plan: WorkPlan, *, name: str = "local") -> None:
        import torch

        torch.set_num_threads(plan.threads)
        self.plan = plan
        self.job = plan.job
        self.name = name
        self.device = Device(plan.device, dtype=plan.job.compute.dtype)
        budget = plan.job.compute.batch_tokens
        models = Models(
            {ref: here(info, plan.revisions[ref]) for ref, info in plan.infos.items()},
            device=self.device,
            budget=None if budget == "auto" else budget,
        )
        tasks = self.job.build_tasks()
        self.types = {task_name: task.output_type() for task_name, task in tasks.items()}
        self.tasks: dict[str, Annotate] = {}
        for task_name, task in tasks.items():
            try:
                self.tasks[task_name] = task.load(models)
            except JobError as error:
                raise JobError(f"tasks.{task_name}: {error.message}", mend=error.mend) from error
        self.input = open_store(plan.input_root)
        self.output = open_store(self.job.output.path)
        clean_scratch(self.output.scratch(), now=time.time())
        self.started = time.monotonic()
        self._fractions: dict[str, float] = {}
        self._rows: dict[str, int] = {}

    def pulse(self) -> Pulse:
        """How far this worker is."""
        flying = dict(self._fractions)
        return Pulse(
            self.device.tokens,
            self.device.padded_tokens,
            self.device.busy_seconds,
            time.monotonic() - self.started,
            flying,
            {split: round(share * self._rows.get(split, 0)) for split, share in flying.items()},
        )

    def annotate(self, split: Split) -> Receipt:
        """Reads, annotates and commits a split.

        Raises:
            SplitError: The file can't be read or written, changed meanwhile, or has more bad
                rows than the job allows.
        """
        self._fractions[split.id], self._rows[split.id] = 0.0, 0
        try:
            return self._annotate(split)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            raise SplitError(
                f"{self.input.address(split.path)}: {type(error).__name__}: {reason}",
                mend="If the file is damaged, write it again or take it out of the dataset",
            ) from error
        finally:
            del self._fractions[split.id], self._rows[split.id]

    def _annotate(self, split: Split) -> Receipt:
        started = time.monotonic()
        receipt = Receipt(split.id, split.output_path, worker=self.name)
        receipt.tasks = {name: Counts() for name in self.tasks}
        where = self.input.address(split.path)
        self._refuse_change(split, where)
        with closing(open_split(self.input, split.path)) as file:
            text = self.job.input.text
            carried = input_schema(
                file.schema_arrow, text=text, columns=self.job.input.columns, where=where
            )
            self._refuse_overwrite(carried, where)
            schema = self.schema(carried)
            columns = list(dict.fromkeys([*carried.names, text]))
            rows = split_rows(file, split)
            self._rows[split.id] = rows
            out = OutputFile(
                self.output,
                split.output_path,
                schema,
                compression=self.job.output.compression,
            )
            try:
                for table, share in windows(file, split, columns=columns):
                    window = self.annotate_table(
                        table, schema, split_id=split.id, share=share, where=where
                    )
                    self._take(receipt, window, where, first_row=first_row(file, split))
                    out.write(window.table)
                self._refuse_change(split, where)
                receipt.published = out.publish(
                    self._footer(split, receipt), rows=rows, replace=split.replace
                )
            finally:
                out.discard()
        there = self.output.entry(split.output_path)
        receipt.bytes_out = there.size if there is not None else 0
        receipt.seconds = time.monotonic() - started
        return receipt

    def schema(self, carried: pa.Schema) -> pa.Schema:
        """The output schema of a file: carried columns, one per task, errors."""
        added = [pa.field(name, kind) for name, kind in self.types.items()]
        fields = [*carried, *added, pa.field(ERRORS_COLUMN, ERRORS_TYPE)]
        return pa.schema(fields, metadata=carried.metadata)

    def annotate_table(
        self,
        table: pa.Table,
        schema: pa.Schema,
        *,
        split_id: str = "",
        share: float = 1.0,
        where: str = "",
    ) -> Window:
        """Annotates one window of rows with every task.

        Args:
            table: With at least the carried columns and the text column.
            schema: Of the result.
            split_id: The split that the window is of, for `pulse`.
            share: The share of the split that the window is.
            where: The file, for messages.

        Returns:
            The rows in the same order with their annotations.
        """
        rows = table.num_rows
        column = table.column(self.job.input.text).combine_chunks()
        texts, unreadable = texts_of(column)
        good = [i for i, text in enumerate(texts) if text and not text.isspace()]
        given = [str(texts[i]) for i in good]
        # Maps each row to its place in the task's answer; null where it was not asked.
        places = np.full(rows, -1, dtype=np.int64)
        places[good] = np.arange(len(good))
        index = pa.array(places, mask=places < 0)
        window = Window(table, Counts(), {})
        done = self._fractions.get(split_id, 0.0)
        columns, row_errors = [], [dict[str, RowError]() for _ in range(rows)]
        for name, task in self.tasks.items():
            report = self._reporter(split_id, at=done, task_share=share / len(self.tasks))
            with self.device.reporting(report):
                answer = annotate_safely(task, given, self.types[name])
            report(1.0)
            done += share / len(self.tasks)
            columns.append(answer.column.take(index))
            window.tokens += answer.tokens
            window.padded_tokens += answer.padded_tokens
            for at, error in answer.failures.items():
                row_errors[good[at]][name] = error
            for row, error in unreadable.items():
                row_errors[row][name] = error
            bad = len(answer.failures) + len(unreadable)
            window.tasks[name] = Counts(
                rows, len(good) - len(answer.failures), bad, rows - len(good) - len(unreadable)
            )
        bad_rows = [row for row, found in enumerate(row_errors) if found]
        annotated = len(good) - sum(1 for row in bad_rows if row not in unreadable)
        window.rows = Counts(rows, annotated, len(bad_rows), rows - annotated - len(bad_rows))
        for row in bad_rows[:BAD_ROWS_KEPT]:
            task_name, error = next(iter(row_errors[row].items()))
            window.bad_rows.append((row, task_name, error.message))
        carried = table.select([f.name for f in schema if f.name in table.column_names])
        window.table = pa.Table.from_arrays(
            [*carried.columns, *columns, _errors_column(row_errors)], schema=schema
        )
        return window

    def _reporter(self, split_id: str, *, at: float, task_share: float) -> Callable[[float], None]:
        """Moves a split's share while a task works on a window of it."""

        def report(share: float) -> None:
            if split_id:
                self._fractions[split_id] = at + share * task_share

        return report

    def _take(self, receipt: Receipt, window: Window, where: str, *, first_row: int) -> None:
        before = first_row + receipt.rows.rows
        receipt.rows.add(window.rows)
        for name, counts in window.tasks.items():
            receipt.tasks[name].add(counts)
        receipt.tokens += window.tokens
        receipt.padded_tokens += window.padded_tokens
        room = BAD_ROWS_KEPT - len(receipt.bad_rows)
        receipt.bad_rows += [(before + r, t, m) for r, t, m in window.bad_rows[: max(0, room)]]
        limits = self.job.limits
        if limits.bad_rows >= 1 and limits.too_many(receipt.rows.bad, rows=receipt.rows.rows):
            raise self._too_many(receipt, where)

    def _too_many(self, receipt: Receipt, where: str) -> SplitError:
        row, task, message = receipt.bad_rows[0]
        return SplitError(
            f"{where}: {receipt.rows.bad} of {receipt.rows.rows} rows can't be annotated, more "
            f"than limits.bad_rows ({self.job.limits.bad_rows:g}) allows; the first is row "
            f"{row}, task {task}: {message}",
            mend="Mend the rows, or raise limits.bad_rows",
        )

    def _footer(self, split: Split, receipt: Receipt) -> dict[str, Any]:
        if self.job.limits.too_many(receipt.rows.bad, rows=receipt.rows.rows):
            raise self._too_many(receipt, self.input.address(split.path))
        return {
            "split": split.id,
            "input": split.path,
            "input_version": split.version,
            "row_groups": split.row_groups,
            "job": self.job.name,
            "fingerprint": self.plan.fingerprint,
            "fingerprint_parts": dict(self.plan.parts),
            "models": dict(self.plan.revisions),
            "dtype": self.device.dtype_name,
            "rows": vars(receipt.rows),
            "tasks": {name: vars(counts) for name, counts in receipt.tasks.items()},
            "version": self.plan.version,
        }

    def _refuse_change(self, split: Split, where: str) -> None:
        now = self.input.entry(split.path)
        if now is None:
            raise SplitError(f"{where} is not there any more", mend="Run the same command again")
        if (
            Split.of(
                Entry(split.path, now.size, now.version),
                fingerprint=self.plan.fingerprint,
                row_groups=split.row_groups,
            ).id
            != split.id
        ):
            raise SplitError(
                f"{where} has changed since the run was planned",
                mend="Run the same command again when it is finished being written",
            )

    def _refuse_overwrite(self, carried: pa.Schema, where: str) -> None:
        for name in [*self.tasks, ERRORS_COLUMN]:
            if name in carried.names:
                raise SplitError(
                    f"{where} has a column `{name}` already, which the job would overwrite",
                    mend="Rename the task, or list the columns to carry in input.columns",
                )


def annotate_safely(task: Annotate, texts: Sequence[str], kind: pa.DataType) -> Annotated:
    """Annotates texts; where the task raises, halves them until the bad one stands alone.

    Models isolate a bad row inside a batch; this is for whatever else a text can break.
    """
    if not texts:
        return Annotated(pa.nulls(0, kind))
    try:
        answer = task.annotate(texts)
        if len(answer.column) != len(texts):
            raise SplitError(
                f"the {type(task).__name__} task gave {len(answer.column)} answers for "
                f"{len(texts)} texts"
            )
        return answer
    except Exception as error:
        raise_if_fatal(error)
        if len(texts) == 1:
            return Annotated(pa.nulls(1, kind), {0: row_error(error, code="task_error")})
    half = len(texts) // 2
    left = annotate_safely(task, texts[:half], kind)
    right = annotate_safely(task, texts[half:], kind)
    return Annotated(
        pa.concat_arrays([left.column, right.column]),
        {**left.failures, **{half + row: e for row, e in right.failures.items()}},
        left.tokens + right.tokens,
        left.padded_tokens + right.padded_tokens,
    )


def _errors_column(row_errors: Sequence[dict[str, RowError]]) -> pa.Array:
    if not any(row_errors):
        return pa.nulls(len(row_errors), ERRORS_TYPE)
    return pa.array(
        [
            [{"task": task, "code": e.code, "message": e.message} for task, e in found.items()]
            if found
            else None
            for found in row_errors
        ],
        ERRORS_TYPE,
    )
