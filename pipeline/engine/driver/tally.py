"""Adds up what a pool reports: for the summary, the record and whoever watches."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.engine.driver.flying import Flying
from pipeline.engine.driver.work import Work
from pipeline.engine.messages import Heartbeat, SplitResult
from pipeline.errors import OutputBusy, ShardscribeError
from pipeline.lake.plan import Plan
from pipeline.lake.split import Split
from pipeline.records.schema import ANNOTATING, FailedSplit, Progress, RowCounts, Summary
from pipeline.records.writer import RunRecord

FLUSH_EVERY = 30.0
PROGRESS_EVERY = 10.0
FAILURES_SHOWN = 20
# The rate that an ETA is made from looks back this far.
RATE_SECONDS = 60.0


class Display(Protocol):
    """Shows a run to a person or a program."""

    def notice(self, text: str) -> None:
        """A line that matters now."""

    def progress(self, progress: Progress) -> None:
        """Called about twice a second."""


@dataclass
class Tally:
    """What a run has done so far. A pool's listener.

    Args:
        plan: What was to be done.
        tasks: The tasks' names.
        record: Where events go.
        display: Who is shown them.
        remove: Removes an output file that a new one has replaced.
        every: After how many splits to commit what is there; 0 for not before the end.
        commit: Does it.
        clock: Monotonic seconds.
    """

    plan: Plan
    tasks: Iterable[str]
    record: RunRecord
    display: Display
    remove: Callable[[str], None]
    every: int = 0
    commit: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    splits_done: int = 0
    rows: RowCounts = field(default_factory=RowCounts)
    task_rows: dict[str, RowCounts] = field(default_factory=dict)
    failed_splits: list[FailedSplit] = field(default_factory=list)
    bytes_out: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    bytes_seen: int = 0
    work: Work = field(default_factory=Work)
    first_ready: float | None = None
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.task_rows = {name: RowCounts() for name in self.tasks}
        self._work_of: dict[str, Work] = {}
        self._flying = Flying(self.plan.todo)
        self._bytes = max(1, sum(split.size for split in self.plan.todo))
        outdated = self.plan.outdated
        self._left = Counter(split.path for split in self.plan.todo if split.path in outdated)
        self._flushed = self.clock()
        self._noted = (float("-inf"), "")
        self._samples: deque[tuple[float, int]] = deque()
        self.progress.splits = len(self.plan.todo)

    def phase(self, text: str) -> None:
        """The run has come to a new phase."""
        self.progress.phase = text
        self.display.progress(self.progress)
        self._note(self.clock())

    def notice(self, text: str) -> None:
        """Shows and records a line."""
        self.record.event("notice", text=text)
        self.display.notice(text)

    def done(self, split: Split, result: SplitResult) -> None:
        """Takes a result; what the new file replaces goes now that it is there."""
        self.splits_done += 1
        self.rows.add(result.rows)
        for name, counts in result.tasks.items():
            self.task_rows[name].add(counts)
        self.bytes_out += result.bytes_out
        self.sizes[result.output] = result.bytes_out
        self.bytes_seen += self._flying.end(split.id)
        self.record.event("done", path=split.path, **split.region.fields, **result.fields())
        if split.path in self._left:
            self._left[split.path] -= 1
            if not self._left[split.path]:
                self._remove_outdated(split.path)
        if self.every and self.splits_done % self.every == 0:
            self._commit()

    def _commit(self) -> None:
        try:
            self.commit()
        except OutputBusy:
            raise
        except ShardscribeError as error:
            self.notice(f"the next transaction takes it along: {error}")

    def _remove_outdated(self, source: str) -> None:
        for path in self.plan.outdated.pop(source):
            try:
                self.remove(path)
            except (OSError, ShardscribeError) as error:
                self.notice(f"{path} is outdated and can't be removed; the next run will: {error}")
            else:
                self.record.event("removed", outdated=path)

    def failed(self, split: Split, reason: str, *, final: bool) -> None:
        """Takes note of a failed attempt; says so when the split is given up."""
        self._flying.land(split.id)
        self.record.event("failed", path=split.path, split=split.id, reason=reason, final=final)
        if final:
            self.bytes_seen += self._flying.end(split.id)
            self.failed_splits.append(
                FailedSplit(path=split.path, **split.region.fields, reason=reason)
            )
            if len(self.failed_splits) <= FAILURES_SHOWN:
                where = "" if split.path in reason else f"{split.told}: "
                self.display.notice(f"failed: {where}{reason}")
            if len(self.failed_splits) == FAILURES_SHOWN:
                self.display.notice("further failed splits are in the record alone")

    def heard(self, worker: str, heartbeat: Heartbeat) -> None:
        """A worker says how far it is: what came since it last did is added."""
        before = self._work_of.get(worker, Work())
        self._work_of[worker] = said = Work.of(heartbeat)
        self.work = self.work.plus(said, less=before)
        self._flying.hear(worker, heartbeat)

    def tick(self, *, ready: int) -> None:
        """Brings the progress up to date and shows it."""
        now = self.clock()
        if self.first_ready is None and ready:
            self.first_ready = now
        shown = self.progress
        shown.workers = ready
        shown.phase = ANNOTATING if self.first_ready is not None else "loading models"
        shown.splits_done, shown.splits_failed = self.splits_done, len(self.failed_splits)
        shown.rows = self.rows.rows + self._flying.rows
        shown.tokens = self.work.tokens
        # Honest rather than rising: it falls when a worker takes what it had done with it.
        shown.fraction = (self.bytes_seen + self._flying.bytes) / self._bytes
        shown.seconds = now - self.first_ready if self.first_ready is not None else 0.0
        shown.eta = self._eta(now)
        self.display.progress(shown)
        self._note(now)
        if now - self._flushed > FLUSH_EVERY:
            self._flushed = now
            self.record.flush()

    def _note(self, now: float) -> None:
        """Records the progress at each new phase, and every 10 s."""
        then, phase = self._noted
        if now - then >= PROGRESS_EVERY or phase != self.progress.phase:
            self._noted = (now, self.progress.phase)
            self.record.progress(
                self.progress, splits_in_flight=len(self._flying), in_flight=self._flying.some()
            )

    def _eta(self, now: float) -> float | None:
        """What is left in tokens, by the tokens per byte so far, at the rate of late."""
        shown = self.progress
        self._samples.append((now, shown.tokens))
        while now - self._samples[0][0] > RATE_SECONDS:
            self._samples.popleft()
        (then, tokens_then) = self._samples[0]
        if shown.fraction <= 0 or shown.tokens <= tokens_then or now <= then:
            return None
        left = shown.tokens * (1 - shown.fraction) / shown.fraction
        return left * (now - then) / (shown.tokens - tokens_then)

    def fill(self, summary: Summary) -> None:
        """Writes the totals into a summary."""
        now = self.clock()
        summary.rows = self.rows
        summary.tasks = self.task_rows
        summary.splits.done = self.splits_done
        summary.splits.failed = len(self.failed_splits)
        planned = len(self.plan.todo) + len(self.plan.held)
        summary.splits.left = planned - self.splits_done - len(self.failed_splits)
        summary.failed_splits = self.failed_splits
        summary.bytes_out = self.bytes_out
        summary.tokens, padded = self.work.tokens, self.work.padded_tokens
        summary.padding_share = round(1 - summary.tokens / padded, 4) if padded else 0.0
        if self.first_ready is not None:
            seconds = max(1e-9, now - self.first_ready)
            summary.annotate_seconds = round(seconds, 3)
            summary.rows_per_second = round(summary.rows.rows / seconds, 2)
            summary.tokens_per_second = round(summary.tokens / seconds, 1)
            worked, busy = self.work.seconds, self.work.busy_seconds
            summary.device_share = round(busy / worked, 4) if worked else 0.0
