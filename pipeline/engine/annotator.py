"""One worker's work: holds models, turns splits into committed files. Knows nothing of Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine.prefetch import prefetch
from pipeline.engine.rows import ERRORS_TYPE, RowAnnotator, Window
from pipeline.engine.work import Counts, Pulse, Receipt, WorkPlan
from pipeline.errors import ShardscribeError, SplitError, one_line
from pipeline.job import ERRORS_COLUMN
from pipeline.lake import reader
from pipeline.lake.dataset import Split
from pipeline.lake.publish import OutputFile, clean_scratch
from pipeline.lake.reader import first_row, input_schema, open_split, split_rows, windows
from pipeline.lake.store import Entry, open_store
from pipeline.models.device import Device
from pipeline.models.load import Models
from pipeline.models.resolve import here

BAD_ROWS_KEPT = 10
# Small files are committed side by side: most of the time is waiting for the disk or the store.
PUBLISHERS = 8


@dataclass
class _Part:
    """One split on its way through an annotator.

    Attributes:
        split: What it is.
        where: Its file, for messages.
        receipt: What is known so far.
        total: Rows of the split.
        error: Why it failed; it takes no more rows then.
    """

    split: Split
    where: str
    receipt: Receipt
    schema: pa.Schema | None = None
    total: int = 0
    first_row: int = 0
    out: OutputFile | None = None
    error: SplitError | None = None
    published: Future[None] | None = None


@dataclass
class _Piece:
    """Some rows of a split; no rows for its end."""

    part: _Part
    table: pa.Table | None
    share: float = 0.0


@dataclass
class _Batch:
    """Pieces that are annotated together, with what is prepared for it."""

    pieces: list[_Piece]
    rows: pa.Table | None = None
    known: dict[Any, Any] = field(default_factory=dict)


@dataclass
class _Call:
    """One call of `annotate_all`, for `pulse`."""

    splits: Sequence[Split]
    share: float = 0.0
    rows: int = 0


class Annotator:
    """Turns splits into committed files.

    Several threads may call `annotate_all` at once: the splits of one call are read and tokenized
    while those of another hold the device.

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
        tasks = self.job.build_tasks(plan.infos)
        self.rows = RowAnnotator(tasks, models, text=self.job.input.text)
        self.input = open_store(plan.input_root)
        self.output = open_store(self.job.output.path)
        clean_scratch(self.output.scratch(), now=time.time())
        self.started = time.monotonic()
        self._calls: list[_Call] = []
        self._publishers = ThreadPoolExecutor(PUBLISHERS, thread_name_prefix="publish")
        # Loading and calibrating held the device for no row of the job.
        self.device.reset()

    def pulse(self) -> Pulse:
        """How far this worker is."""
        calls = list(self._calls)
        return Pulse(
            self.device.tokens,
            self.device.padded_tokens,
            self.device.busy_seconds,
            time.monotonic() - self.started,
            {split.id: call.share for call in calls for split in call.splits},
            {call.splits[0].id: call.rows for call in calls},
        )

    def annotate(self, split: Split) -> Receipt:
        """Reads, annotates and commits a split.

        Raises:
            SplitError: The file can't be read or written, changed meanwhile, or has more bad
                rows than the job allows.
        """
        (answer,) = self.annotate_all([split])
        if isinstance(answer, SplitError):
            raise answer
        return answer

    def annotate_all(self, splits: Sequence[Split]) -> list[Receipt | SplitError]:
        """Reads, annotates and commits splits; small ones go through the models together.

        Returns:
            For each split its receipt, or why it failed.

        Raises:
            RunError: Something else writes to the output.
            WorkerLost: The device is broken.
        """
        started = time.monotonic()
        call = _Call(splits)
        parts = [self._part(split) for split in splits]
        self._calls.append(call)
        try:
            with closing(prefetch(self._batches(parts))) as batches:
                for batch in batches:
                    self._annotate(batch, call)
            answers: list[Receipt | SplitError] = []
            for part in parts:
                if part.published is not None:
                    with _errors_of(part):
                        part.published.result()
                part.receipt.seconds = time.monotonic() - started
                answers.append(part.error or part.receipt)
            return answers
        finally:
            self._calls.remove(call)
            commits = [part.published for part in parts if part.published is not None]
            for commit in commits:
                commit.cancel()
            wait(commits)
            for part in parts:
                if part.out is not None:
                    part.out.discard()

    def schema(self, carried: pa.Schema) -> pa.Schema:
        """The output schema of a file: carried columns, one per task, errors."""
        added = [pa.field(name, kind) for name, kind in self.rows.types.items()]
        fields = [*carried, *added, pa.field(ERRORS_COLUMN, ERRORS_TYPE)]
        return pa.schema(fields, metadata=carried.metadata)

    def annotate_table(self, table: pa.Table, schema: pa.Schema) -> pa.Table:
        """Annotates some rows without any file.

        Args:
            table: With at least the carried columns and those that tasks read.
            schema: Of the result.
        """
        return _table(table, schema, self.rows.annotate(table), slice(0, table.num_rows))

    def _part(self, split: Split) -> _Part:
        receipt = Receipt(split.id, split.output_path, worker=self.name)
        receipt.tasks = {name: Counts() for name in self.job.tasks}
        return _Part(split, self.input.address(split.path), receipt)

    def _batches(self, parts: Sequence[_Part]) -> Iterator[_Batch]:
        """Reads ahead, in another thread: what is annotated together, tokenized already."""
        pieces: list[_Piece] = []
        rows = held = 0
        types: list[Any] = []
        for part in parts:
            for piece in self._pieces(part):
                if piece.table is not None:
                    count, size = piece.table.num_rows, piece.table.nbytes
                    theirs = piece.table.select(self.job.reads).schema.types
                    full = rows + count > reader.WINDOW_ROWS or held + size > reader.WINDOW_BYTES
                    if rows and (full or theirs != types):
                        yield self._prepared(pieces)
                        pieces, rows, held = [], 0, 0
                    rows, held, types = rows + count, held + size, theirs
                pieces.append(piece)
        if pieces:
            yield self._prepared(pieces)

    def _prepared(self, pieces: list[_Piece]) -> _Batch:
        batch = _Batch(pieces)
        tables = [p.table.select(self.job.reads) for p in pieces if p.table is not None]
        if tables:
            batch.rows = pa.concat_tables([t.replace_schema_metadata() for t in tables])
            batch.known = self.rows.prepare(batch.rows)
        return batch

    def _pieces(self, part: _Part) -> Iterator[_Piece]:
        split = part.split
        with _errors_of(part):
            self._refuse_change(split, part.where)
            with closing(open_split(self.input, split.path)) as file:
                columns = self._open(part, file)
                for table, share in windows(file, split, columns=columns):
                    if part.error is not None:
                        return
                    yield _Piece(part, table, share)
            yield _Piece(part, None)

    def _open(self, part: _Part, file: pq.ParquetFile) -> list[str]:
        carried = input_schema(
            file.schema_arrow,
            reads=self.job.reads,
            texts=self.job.texts_read,
            columns=self.job.input.columns,
            where=part.where,
        )
        self._refuse_overwrite(carried, part.where)
        part.schema = self.schema(carried)
        part.total = split_rows(file, part.split)
        part.first_row = first_row(file, part.split)
        part.out = OutputFile(
            self.output,
            part.split.output_path,
            part.schema,
            compression=self.job.output.compression,
        )
        return list(dict.fromkeys([*carried.names, *self.job.reads]))

    def _annotate(self, batch: _Batch, call: _Call) -> None:
        size = max(1, sum(split.size for split in call.splits))
        weight = sum(p.share * max(1, p.part.split.size) for p in batch.pieces) / size
        share, rows = call.share, call.rows
        window = Window()
        if batch.rows is not None:
            count = batch.rows.num_rows

            def report(done: float) -> None:
                call.share = share + done * weight
                call.rows = rows + round(done * count)

            try:
                window = self.rows.annotate(batch.rows, known=batch.known, report=report)
            except SplitError as error:
                self._annotate_apart(batch, call, error)
                return
            _share_tokens(batch, window)
        at = 0
        for piece in batch.pieces:
            part = piece.part
            if piece.table is None:
                if part.error is None:
                    part.published = self._publishers.submit(self._publish, part)
                continue
            here_rows = slice(at, at + piece.table.num_rows)
            at += piece.table.num_rows
            if part.error is None:
                with _errors_of(part):
                    self._take(part, piece.table, window, here_rows)

    def _annotate_apart(self, batch: _Batch, call: _Call, error: SplitError) -> None:
        """Finds out which of the splits in a batch it was that failed."""
        parts = {piece.part.split.id: piece.part for piece in batch.pieces}
        if len(parts) == 1:
            (part,) = parts.values()
            part.error = error
            return
        for part in parts.values():
            self._annotate(self._prepared([p for p in batch.pieces if p.part is part]), call)

    def _take(self, part: _Part, table: pa.Table, window: Window, rows: slice) -> None:
        """Writes some annotated rows and counts them."""
        assert part.schema is not None
        assert part.out is not None
        receipt = part.receipt
        before = part.first_row + receipt.rows.rows
        counts, tasks = window.counts(rows)
        receipt.rows.add(counts)
        for name, found in tasks.items():
            receipt.tasks[name].add(found)
        for row, errors in enumerate(window.errors[rows]):
            if errors and len(receipt.bad_rows) < BAD_ROWS_KEPT:
                task, error = next(iter(errors.items()))
                receipt.bad_rows.append((before + row, task, error.message))
        limits = self.job.limits
        if limits.bad_rows >= 1 and limits.too_many(receipt.rows.bad, rows=receipt.rows.rows):
            raise self._too_many(part)
        part.out.write(_table(table, part.schema, window, rows))

    def _publish(self, part: _Part) -> None:
        """Commits a split whose rows are all written."""
        assert part.out is not None
        receipt = part.receipt
        try:
            if self.job.limits.too_many(receipt.rows.bad, rows=receipt.rows.rows):
                raise self._too_many(part)
            self._refuse_change(part.split, part.where)
            receipt.published = part.out.publish(
                self._footer(part), rows=part.total, replace=part.split.replace
            )
        finally:
            part.out.discard()
        there = self.output.entry(part.split.output_path)
        receipt.bytes_out = there.size if there is not None else 0

    def _too_many(self, part: _Part) -> SplitError:
        receipt = part.receipt
        row, task, message = receipt.bad_rows[0]
        return SplitError(
            f"{part.where}: {receipt.rows.bad} of {receipt.rows.rows} rows can't be annotated, "
            f"more than limits.bad_rows ({self.job.limits.bad_rows:g}) allows; the first is row "
            f"{row}, task {task}: {message}",
            mend="Mend the rows, or raise limits.bad_rows",
        )

    def _footer(self, part: _Part) -> dict[str, Any]:
        split, receipt = part.split, part.receipt
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
        for name in [*self.job.tasks, ERRORS_COLUMN]:
            if name in carried.names:
                raise SplitError(
                    f"{where} has a column `{name}` already, which the job would overwrite",
                    mend="Rename the task, or list the columns to carry in input.columns",
                )


@contextmanager
def _errors_of(part: _Part) -> Iterator[None]:
    """What fails a split, and not its worker or the run, is kept with it.

    Raises:
        RunError: Something else writes to the output.
        WorkerLost: The device is broken.
    """
    try:
        yield
    except SplitError as error:
        part.error = error
    except ShardscribeError:
        raise
    except (pa.ArrowException, OSError) as error:
        reason = one_line(error)
        part.error = SplitError(
            f"{part.where}: {type(error).__name__}: {reason}",
            mend="If the file is damaged, write it again or take it out of the dataset",
        )


def _share_tokens(batch: _Batch, window: Window) -> None:
    """Counts a window's tokens for its splits, by their rows."""
    rows = max(1, len(window.errors))
    tokens = padded = at = 0
    for piece in batch.pieces:
        if piece.table is not None:
            at += piece.table.num_rows
            # The difference of rounded sums, so that the parts add up.
            so_far, so_far_padded = window.tokens * at // rows, window.padded_tokens * at // rows
            piece.part.receipt.tokens += so_far - tokens
            piece.part.receipt.padded_tokens += so_far_padded - padded
            tokens, padded = so_far, so_far_padded


def _table(table: pa.Table, schema: pa.Schema, window: Window, rows: slice) -> pa.Table:
    """Carried columns, task columns, errors."""
    count = rows.stop - rows.start
    carried = table.select([f.name for f in schema if f.name in table.column_names])
    added = [column.slice(rows.start, count) for column in window.columns.values()]
    return pa.Table.from_arrays(
        [*carried.columns, *added, window.errors_column(rows)], schema=schema
    )
