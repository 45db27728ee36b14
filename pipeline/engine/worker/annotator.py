"""One worker's work: holds models, turns splits into committed files. Knows nothing of Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.engine.messages import Heartbeat, SplitResult, WorkPlan
from pipeline.engine.worker.call import Call, Rows
from pipeline.engine.worker.prefetch import prefetch
from pipeline.engine.worker.rows import AnnotatedRows, RowAnnotator
from pipeline.engine.worker.split_writer import SplitWriter, WorkerContext, annotated_table
from pipeline.errors import RunError, ShardscribeError, SplitError, WorkerLost
from pipeline.lake.sink.publish import clean_scratch
from pipeline.lake.source import reader
from pipeline.lake.source.reader import open_split, windows
from pipeline.lake.split import Split
from pipeline.lake.store.open import open_store
from pipeline.models.device import Device
from pipeline.models.resolve import here
from pipeline.models.torch.load import Models
from pipeline.moves import moved, working

# Small files are committed side by side: most of the time is waiting for the disk or the store.
PUBLISHERS = 8
# What a split's upload may take without a sign, by its size; a link of 2 Mbit a second.
SLOWEST_UPLOAD = 256 * 1024


@dataclass
class RowChunk:
    """Some rows of a split; no rows for its end."""

    part: SplitWriter
    table: pa.Table | None
    share: float = 0.0


@dataclass
class RowBatch:
    """Pieces that are annotated together, with what is prepared for it."""

    pieces: list[RowChunk]
    rows: pa.Table | None = None
    known: dict[Any, Any] = field(default_factory=dict)


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
        self.job = plan.job
        self.device = Device(plan.device, dtype=plan.job.compute.dtype)
        budget = plan.job.compute.batch_tokens
        models = Models(
            {ref: here(info, plan.revisions[ref]) for ref, info in plan.infos.items()},
            device=self.device,
            budget=None if budget == "auto" else budget,
        )
        tasks = self.job.bind(plan.infos)
        self.rows = RowAnnotator(
            tasks, models, text=self.job.input.text, longest=self.job.limits.text
        )
        self.input = open_store(plan.input_root)
        self.output = open_store(self.job.output.path)
        self.route = WorkerContext(
            plan, self.input, self.output, self.rows.types, self.device.dtype_name, name
        )
        clean_scratch(self.output.scratch(), now=time.time())
        self.started = time.monotonic()
        self._calls: list[Call] = []
        self._publishers = ThreadPoolExecutor(PUBLISHERS, thread_name_prefix="publish")
        # Loading and calibrating held the device for no row of the job.
        self.device.reset()

    def pulse(self) -> Heartbeat:
        """How far this worker is."""
        calls = list(self._calls)
        progress = [call.progress() for call in calls]
        return Heartbeat(
            self.device.tokens,
            self.device.padded_tokens,
            self.device.busy_seconds,
            time.monotonic() - self.started,
            {split: share for found in progress for split, (share, _) in found.items()},
            {split: rows for found in progress for split, (_, rows) in found.items()},
            {call.key: call.moves.sign(self.device.moves) for call in calls},
        )

    def annotate(self, split: Split) -> SplitResult:
        """Reads, annotates and commits a split.

        Raises:
            SplitError: The file can't be read or written, changed meanwhile, or has more bad
                rows than the job allows.
        """
        (answer,) = self.annotate_all([split])
        if isinstance(answer, ShardscribeError):
            raise answer
        return answer

    def annotate_all(self, splits: Sequence[Split]) -> list[SplitResult | SplitError]:
        """Reads, annotates and commits splits; small ones go through the models together.

        Returns:
            For each split its receipt, or why it failed.

        Raises:
            RunError: Something else writes to the output.
            WorkerLost: The device is broken.
        """
        started = time.monotonic()
        call = Call(splits)
        parts = [self.route.part(split) for split in splits]
        self._calls.append(call)
        try:
            ahead = prefetch(self._batches(parts, call))
            with working(call.moves), closing(ahead) as batches:
                for batch in batches:
                    self._annotate(batch, call)
            for part in parts:
                if part.commit is not None:
                    with part.errors():
                        part.commit.result()
                part.receipt.seconds = time.monotonic() - started
            return [part.answer for part in parts]
        finally:
            self._calls.remove(call)
            commits = [part.commit for part in parts if part.commit is not None]
            for commit in commits:
                commit.cancel()
            wait(commits)
            for part in parts:
                part.discard()

    def schema(self, carried: pa.Schema) -> pa.Schema:
        """The output schema of a file: carried columns, one per task, errors."""
        return self.route.schema(carried)

    def annotate_table(self, table: pa.Table, schema: pa.Schema) -> pa.Table:
        """Annotates some rows without any file.

        Args:
            table: With at least the carried columns and those that tasks read.
            schema: Of the result.
        """
        window = self.rows.annotate(table)
        return annotated_table(table, schema, window, slice(0, table.num_rows))

    def _batches(self, parts: Sequence[SplitWriter], call: Call) -> Iterator[RowBatch]:
        """Reads ahead, in another thread: what is annotated together, tokenized already."""
        with working(call.moves):
            yield from self._read(parts)

    def _read(self, parts: Sequence[SplitWriter]) -> Iterator[RowBatch]:
        pieces: list[RowChunk] = []
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

    def _prepared(self, pieces: list[RowChunk]) -> RowBatch:
        batch = RowBatch(pieces)
        tables = [p.table.select(self.job.reads) for p in pieces if p.table is not None]
        if tables:
            batch.rows = pa.concat_tables([t.replace_schema_metadata() for t in tables])
            # What is raised here is raised again where the rows are annotated, split by split.
            with suppress(Exception):
                batch.known = self.rows.prepare(batch.rows)
            moved()
        return batch

    def _pieces(self, part: SplitWriter) -> Iterator[RowChunk]:
        with part.errors():
            part.refuse_change()
            with closing(open_split(self.input, part.split.path)) as file:
                columns = part.open(file)
                for table, share in windows(file, part.split, columns=columns):
                    if part.error is not None:
                        return
                    moved()
                    yield RowChunk(part, table, share)
            yield RowChunk(part, None)

    def _annotate(self, batch: RowBatch, call: Call) -> None:
        window = AnnotatedRows()
        if batch.rows is not None:
            call.begin(
                (piece.part.split.id, Rows(piece.table.num_rows, piece.share))
                for piece in batch.pieces
                if piece.table is not None
            )
            try:
                window = self.rows.annotate(batch.rows, known=batch.known, report=call.report)
            except (RunError, WorkerLost):
                raise
            except Exception as error:
                call.end(written=False)
                self._annotate_apart(batch, call, error)
                return
            _share_tokens(batch, window)
        at = 0
        for piece in batch.pieces:
            part = piece.part
            if piece.table is None:
                if part.error is None:
                    part.commit = self._publishers.submit(_publish, part, call)
                continue
            here_rows = slice(at, at + piece.table.num_rows)
            at += piece.table.num_rows
            if part.error is None:
                with part.errors():
                    part.write(piece.table, window, here_rows)
        call.end(written=True)

    def _annotate_apart(self, batch: RowBatch, call: Call, error: Exception) -> None:
        """Finds out which of the splits in a batch it was that failed."""
        parts = {piece.part.split.id: piece.part for piece in batch.pieces}
        if len(parts) == 1:
            (part,) = parts.values()
            part.fail(error)
            return
        for part in parts.values():
            self._annotate(self._prepared([p for p in batch.pieces if p.part is part]), call)


def _publish(part: SplitWriter, call: Call) -> None:
    """Commits a split; an upload shows no moves, but takes as long as its bytes need."""
    with working(call.moves):
        call.moves.vouch(part.bytes_written / SLOWEST_UPLOAD)
        part.publish()
        moved()


def _share_tokens(batch: RowBatch, window: AnnotatedRows) -> None:
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
