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
from pipeline.engine.worker.annotated_rows import AnnotatedRows, annotated_table
from pipeline.engine.worker.call_progress import CallProgress, Portion
from pipeline.engine.worker.prefetch import prefetch
from pipeline.engine.worker.row_annotator import RowAnnotator
from pipeline.engine.worker.second_look import look_twice
from pipeline.engine.worker.split_writer import SplitWriter
from pipeline.engine.worker.worker_context import WorkerContext
from pipeline.errors import RunError, ShardscribeError, SplitError, WorkerLost
from pipeline.lake.sink.scratch import clean_up
from pipeline.lake.source import reader
from pipeline.lake.split import Split
from pipeline.models.device import Device
from pipeline.models.engines import ENGINES, Engine
from pipeline.models.resolve import here
from pipeline.moves import moved, working

# Small files are committed side by side: most of the time is waiting for the disk or the store.
PUBLISHERS = 8
# Splits whose rows are annotated together are committed together. On a CPU, so many rows are
# minutes of a language model's work, and more of them at once are no faster.
WRITTEN_ROWS = 256
# What a split's upload may take without a sign, by its size; a link of 2 Mbit a second.
SLOWEST_UPLOAD = 256 * 1024


@dataclass
class RowChunk:
    """Some rows of a split; no rows for its end."""

    writer: SplitWriter
    table: pa.Table | None
    fraction: float = 0.0


@dataclass
class RowBatch:
    """Chunks that are annotated together, with what is prepared for it."""

    chunks: list[RowChunk]
    rows: pa.Table | None = None
    known: dict[Any, Any] = field(default_factory=dict)


class Annotator:
    """Turns splits into committed files.

    Several threads may call `annotate_all` at once: the splits of one call are read and tokenized
    while those of another hold the device.

    Args:
        plan: The job and its models.
        name: Of the worker, for results.
        engine: What computes models; the one that the job names by default.
        publish: Whether what is measured of the job is kept beside its output.

    Raises:
        JobError: A model can't be loaded here.
    """

    def __init__(
        self,
        plan: WorkPlan,
        *,
        name: str = "local",
        engine: Engine | None = None,
        publish: bool = True,
    ) -> None:
        self.job = plan.job
        compute = plan.job.compute
        self.device = Device(
            plan.device,
            dtype=compute.dtype,
            threads=plan.threads,
            sharing=compute.workers_per_gpu,
        )
        budget = plan.job.compute.batch_tokens
        models = (engine or ENGINES[plan.job.compute.engine]).open(
            {ref: here(info, plan.revisions[ref]) for ref, info in plan.infos.items()},
            device=self.device,
            budget=None if budget == "auto" else budget,
        )
        tasks = self.job.bind(plan.infos)
        slow = plan.device == "cpu" and any(t.info and t.writes for t in tasks.values())
        self._most_rows = WRITTEN_ROWS if slow else reader.BATCH_ROWS
        self.rows = RowAnnotator(
            tasks, models, text=self.job.input.text, longest=self.job.limits.text
        )
        if compute.dtype == "int8":
            look_twice(self.rows, models, plan, publish=publish)
        self.source = plan.source
        self.context = WorkerContext(
            plan, plan.source, plan.sink, self.rows.types, self.device.dtype_name, name
        )
        clean_up(plan.sink)
        self.started = time.monotonic()
        self._calls: list[CallProgress] = []
        self._publishers = ThreadPoolExecutor(PUBLISHERS, thread_name_prefix="publish")
        # Loading and calibrating held the device for no row of the job.
        self.device.reset()

    def heartbeat(self) -> Heartbeat:
        """How far this worker is."""
        calls = list(self._calls)
        progress = [call.progress() for call in calls]
        return Heartbeat(
            self.device.tokens,
            self.device.padded_tokens,
            self.device.busy_seconds,
            time.monotonic() - self.started,
            {split: fraction for found in progress for split, (fraction, _) in found.items()},
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
            For each split its result, or why it failed.

        Raises:
            RunError: Something else writes to the output.
            WorkerLost: The device is broken.
        """
        started = time.monotonic()
        call = CallProgress(splits)
        writers = [SplitWriter.of(self.context, split) for split in splits]
        self._calls.append(call)
        try:
            ahead = prefetch(self._batches(writers, call))
            with working(call.moves), closing(ahead) as batches:
                for batch in batches:
                    self._annotate(batch, call)
            for writer in writers:
                if writer.commit is not None:
                    with writer.errors():
                        writer.commit.result()
                writer.result.seconds = time.monotonic() - started
            return [writer.answer for writer in writers]
        finally:
            self._calls.remove(call)
            commits = [writer.commit for writer in writers if writer.commit is not None]
            for commit in commits:
                commit.cancel()
            wait(commits)
            for writer in writers:
                writer.discard()

    def schema(self, carried: pa.Schema) -> pa.Schema:
        """The output schema of a file: carried columns, one per task, errors."""
        return self.context.schema(carried)

    def annotate_table(self, table: pa.Table, schema: pa.Schema) -> pa.Table:
        """Annotates some rows without any file.

        Args:
            table: With at least the carried columns and those that tasks read.
            schema: Of the result.
        """
        annotated = self.rows.annotate(table)
        return annotated_table(table, schema, annotated, slice(0, table.num_rows))

    def _batches(self, writers: Sequence[SplitWriter], call: CallProgress) -> Iterator[RowBatch]:
        """Reads ahead, in another thread: what is annotated together, tokenized already."""
        with working(call.moves):
            yield from self._read(writers)

    def _read(self, writers: Sequence[SplitWriter]) -> Iterator[RowBatch]:
        chunks: list[RowChunk] = []
        most = min(reader.BATCH_ROWS, self._most_rows)
        rows = held = 0
        types: list[Any] = []
        for writer in writers:
            for chunk in self._chunks(writer):
                if chunk.table is not None:
                    count, size = chunk.table.num_rows, chunk.table.nbytes
                    theirs = chunk.table.select(self.job.reads).schema.types
                    full = rows + count > most or held + size > reader.BATCH_BYTES
                    if rows and (full or theirs != types):
                        yield self._prepared(chunks)
                        chunks, rows, held = [], 0, 0
                    rows, held, types = rows + count, held + size, theirs
                chunks.append(chunk)
        if chunks:
            yield self._prepared(chunks)

    def _prepared(self, chunks: list[RowChunk]) -> RowBatch:
        batch = RowBatch(chunks)
        tables = [c.table.select(self.job.reads) for c in chunks if c.table is not None]
        if tables:
            batch.rows = pa.concat_tables([t.replace_schema_metadata() for t in tables])
            # What is raised here is raised again where the rows are annotated, split by split.
            with suppress(Exception):
                batch.known = self.rows.prepare(batch.rows)
            moved()
        return batch

    def _chunks(self, writer: SplitWriter) -> Iterator[RowChunk]:
        with writer.errors():
            writer.refuse_change()
            with closing(self.source.open(writer.split)) as found:
                for table in found.batches(writer.open(found)):
                    if writer.error is not None:
                        return
                    moved()
                    yield RowChunk(writer, table, table.num_rows / found.rows)
            yield RowChunk(writer, None)

    def _annotate(self, batch: RowBatch, call: CallProgress) -> None:
        annotated = AnnotatedRows()
        if batch.rows is not None:
            call.begin(
                (chunk.writer.split.id, Portion(chunk.table.num_rows, chunk.fraction))
                for chunk in batch.chunks
                if chunk.table is not None
            )
            try:
                annotated = self.rows.annotate(batch.rows, known=batch.known, report=call.report)
            except (RunError, WorkerLost):
                raise
            except Exception as error:
                call.end(written=False)
                self._annotate_apart(batch, call, error)
                return
            _count_tokens(batch, annotated)
        at = 0
        for chunk in batch.chunks:
            writer = chunk.writer
            if chunk.table is None:
                if writer.error is None:
                    writer.commit = self._publishers.submit(_publish, writer, call)
                continue
            here_rows = slice(at, at + chunk.table.num_rows)
            at += chunk.table.num_rows
            if writer.error is None:
                with writer.errors():
                    writer.write(chunk.table, annotated, here_rows)
        call.end(written=True)

    def _annotate_apart(self, batch: RowBatch, call: CallProgress, error: Exception) -> None:
        """Finds out which of the splits in a batch it was that failed."""
        writers = {chunk.writer.split.id: chunk.writer for chunk in batch.chunks}
        if len(writers) == 1:
            (writer,) = writers.values()
            writer.fail(error)
            return
        for writer in writers.values():
            self._annotate(self._prepared([c for c in batch.chunks if c.writer is writer]), call)


def _publish(writer: SplitWriter, call: CallProgress) -> None:
    """Commits a split; an upload shows no moves, but takes as long as its bytes need."""
    with working(call.moves):
        call.moves.vouch(writer.bytes_written / SLOWEST_UPLOAD)
        writer.publish()
        moved()


def _count_tokens(batch: RowBatch, annotated: AnnotatedRows) -> None:
    """Counts a batch's tokens for its splits, by their rows."""
    rows = max(1, annotated.rows)
    tokens = padded = at = 0
    for chunk in batch.chunks:
        if chunk.table is not None:
            at += chunk.table.num_rows
            # The difference of rounded sums, so that the parts add up.
            so_far = annotated.tokens * at // rows
            so_far_padded = annotated.padded_tokens * at // rows
            chunk.writer.result.tokens += so_far - tokens
            chunk.writer.result.padded_tokens += so_far_padded - padded
            tokens, padded = so_far, so_far_padded
