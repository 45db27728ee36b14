"""Who gets which split, and what an answer means. No Ray, no clock, no input or output.

Each split ends exactly once, as done or failed. It has two budgets: its own failures (it raised)
and worker losses (its worker died or stood still). A split that was there when a worker was lost
runs alone from then on, so that one that kills its worker spends only its own budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.engine.driver.fresh import Fresh
from pipeline.lake.split import Split

FAILURES = 3
LOSSES = 5
# Splits to be tried again that one call looks at; the rest come up at the next call.
LOOK_AHEAD = 64


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a split by one worker; answers are taken by this, so late ones are refused."""

    split: Split
    number: int
    worker: str


@dataclass
class _Trouble:
    failures: int = 0
    losses: int = 0
    reasons: list[str] = field(default_factory=list)
    avoid: set[str] = field(default_factory=set)


class Scheduler:
    """Hands out splits and takes answers.

    Args:
        splits: What is to be done, in the order to start it.
        failures: Attempts that may raise before a split fails.
        losses: Workers that may be lost over a split before it fails.
    """

    def __init__(
        self, splits: Iterable[Split], *, failures: int = FAILURES, losses: int = LOSSES
    ) -> None:
        self._fresh = Fresh(splits)
        self._again: deque[Split] = deque()
        self._suspect: deque[Split] = deque()
        self._trouble: dict[str, _Trouble] = {}
        self._running: dict[str, Attempt] = {}
        self._by_worker: dict[str, dict[str, None]] = {}
        self._alone: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._max_failures = failures
        self._max_losses = losses
        self.total = len(self._fresh)
        self.done = 0
        self.failed: dict[str, tuple[Split, str]] = {}

    @property
    def waiting(self) -> int:
        """Splits that no worker has."""
        return self.waiting_for_any + len(self._suspect)

    @property
    def waiting_for_any(self) -> int:
        """Those of them that a worker may get that has others: not one that may kill its worker."""
        return len(self._fresh) + len(self._again)

    @property
    def running(self) -> int:
        """Splits that a worker has."""
        return len(self._running)

    @property
    def finished(self) -> bool:
        """Whether every split has ended."""
        return self.done + len(self.failed) == self.total

    def join(self, worker: str) -> None:
        """A worker is ready."""
        self._by_worker.setdefault(worker, {})

    def has_room(self, worker: str) -> bool:
        """Whether a worker may get a split more: not beside one that may kill it."""
        return worker not in self._alone

    def next(self, worker: str, *, at_most: int | None = None) -> Attempt | None:
        """A split for a worker that has room for one more; None if there is none for it now.

        Args:
            worker: Who asks.
            at_most: Only a split that no worker has tried, of at most so many bytes.
        """
        if not self.has_room(worker):
            return None
        if self._fresh:
            if at_most is not None and self._fresh.first(worker).size > at_most:
                return None
            return self._start(self._fresh.take(worker), worker)
        if at_most is not None:
            return None
        found = self._untried(worker, self._again)
        if found is None and not self._by_worker[worker]:
            found = self._untried(worker, self._suspect)
            if found is not None:
                self._alone.add(worker)
        return None if found is None else self._start(found, worker)

    def _untried(self, worker: str, splits: deque[Split]) -> Split | None:
        """The first one that the worker has not failed, or that every worker has."""
        for _ in range(min(len(splits), LOOK_AHEAD)):
            split = splits.popleft()
            avoid = self._trouble[split.id].avoid
            if worker not in avoid or self._by_worker.keys() <= avoid:
                return split
            splits.append(split)
        return None

    def take(self, worker: str, *, most: int, size: int) -> list[Attempt]:
        """What a worker gets in one call: a split, or several small ones.

        Args:
            worker: Who asks.
            most: How many.
            size: Bytes of them together, where they are several.
        """
        attempts: list[Attempt] = []
        while len(attempts) < most and size > 0:
            attempt = self.next(worker, at_most=size if attempts else None)
            if attempt is None:
                break
            attempts.append(attempt)
            size -= attempt.split.size
        return attempts

    def succeed(self, attempt: Attempt) -> bool:
        """An attempt gave a result. False if the split was taken from it meanwhile."""
        if not self._end(attempt):
            return False
        self._trouble.pop(attempt.split.id, None)
        self._numbers.pop(attempt.split.id, None)
        self.done += 1
        return True

    def fail(self, attempt: Attempt, reason: str) -> bool:
        """An attempt raised. False if the split was taken from it meanwhile."""
        if not self._end(attempt):
            return False
        trouble = self._trouble.setdefault(attempt.split.id, _Trouble())
        trouble.failures += 1
        trouble.avoid.add(attempt.worker)
        trouble.reasons.append(reason)
        self._again_or_failed(attempt.split, trouble)
        return True

    def lose(self, worker: str, reason: str) -> list[Split]:
        """A worker is gone; its splits go back.

        Returns:
            The splits that it had.
        """
        self._fresh.leave(worker)
        held = [self._running[split] for split in self._by_worker.pop(worker, {})]
        self._alone.discard(worker)
        for attempt in held:
            del self._running[attempt.split.id]
            trouble = self._trouble.setdefault(attempt.split.id, _Trouble())
            trouble.losses += 1
            trouble.reasons.append(reason)
            self._again_or_failed(attempt.split, trouble)
        return [attempt.split for attempt in held]

    def left(self) -> list[Split]:
        """Splits that have not ended, running ones included."""
        running = (attempt.split for attempt in self._running.values())
        return [*running, *self._again, *self._suspect, *self._fresh]

    def _start(self, split: Split, worker: str) -> Attempt:
        number = self._numbers.get(split.id, 0) + 1
        self._numbers[split.id] = number
        attempt = Attempt(split, number, worker)
        self._running[split.id] = attempt
        self._by_worker[worker][split.id] = None
        return attempt

    def _end(self, attempt: Attempt) -> bool:
        if self._running.get(attempt.split.id) != attempt:
            return False
        del self._running[attempt.split.id]
        mine = self._by_worker[attempt.worker]
        mine.pop(attempt.split.id, None)
        if not mine:
            self._alone.discard(attempt.worker)
        return True

    def _again_or_failed(self, split: Split, trouble: _Trouble) -> None:
        if trouble.failures >= self._max_failures or trouble.losses >= self._max_losses:
            self.failed[split.id] = (split, trouble.reasons[-1])
            self._trouble.pop(split.id)
            self._numbers.pop(split.id, None)
        else:
            (self._suspect if trouble.losses else self._again).append(split)
