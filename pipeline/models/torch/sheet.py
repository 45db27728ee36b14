"""What the lanes that write the rows of a call have in common: what waits, what is written."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import RowError
from pipeline.models.faults import row_error
from pipeline.models.torch.rules import Live, Rule
from pipeline.models.torch.steps import WritingRoom


@dataclass
class Group:
    """Rows of about one length.

    Attributes:
        rows: All of them.
        queue: Those that no lane has taken, or that were given back.
    """

    rows: Sequence[int]
    queue: deque[int] = field(init=False)

    def __post_init__(self) -> None:
        self.queue = deque(self.rows)


class Sheet:
    """The rows of one call, as its lanes have them.

    Args:
        lengths: Tokens of each prompt.
        most: The most tokens that are written for one.
        ends: Tokens that end a row.
        rules: Makes what changes scores, one after the other, for a lane.
        stops: Says which rows have ended, given what they wrote; None where only tokens end one.
        room: What fits the memory.
        report: Hears how far the call is, 0 to 1; from one lane at a time.

    Attributes:
        written: Of shape [rows, most].
        steps: How many tokens each row wrote, the end token included.
        given: How many of them its module has gone on with.
        stopped: Which rows `stops` has ended.
        failures: Why, by row.
        over: Set where nobody waits for the rest; lanes end after the step that they are at.
        lanes: How many are at work.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        most: int,
        ends: Collection[int],
        rules: Callable[[], Sequence[Rule]],
        room: WritingRoom,
        stops: Callable[[Live], np.ndarray] | None = None,
        report: Callable[[float], None] = lambda fraction: None,
    ) -> None:
        self.lengths = lengths
        self.written = np.zeros((len(lengths), most), dtype=np.int64)
        self.steps = np.zeros(len(lengths), dtype=np.int64)
        self.given = np.zeros(len(lengths), dtype=np.int64)
        self.stopped = np.zeros(len(lengths), dtype=bool)
        self.failures: dict[int, RowError] = {}
        self.over = False
        self.most = most
        self.ends = np.array(sorted(ends), dtype=np.int64)
        self.rules = rules
        self.stops = stops
        self.room = room
        # Held for what lanes share: the groups, who is at work, how far it is.
        self.lock = threading.Lock()
        self.waiting: deque[Group] | None = None
        self._report = report
        self._total = int(lengths.sum()) + most * len(lengths)
        self.lanes, self._done, self._said = 0, 0, 0.0

    def unread(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """What rows wrote that their module has not gone on with, as `Steps.step` takes it."""
        counts = self.steps[rows] - self.given[rows]
        if (counts == 1).all():
            return (self.written[rows, self.given[rows]],)
        bounds = zip(rows, self.given[rows], self.steps[rows], strict=True)
        return np.concatenate(
            [self.written[row, start:stop] for row, start, stop in bounds]
        ), counts

    def fail(self, row: int, error: Exception) -> None:
        """A row has an error in place of a text."""
        self.failures[row] = row_error(error)
        self.went_on(int(self.lengths[row]) + self.most)

    def went_on(self, tokens: int) -> None:
        """Counts tokens that were read, written, or need not be; rows that begin anew take back."""
        with self.lock:
            self._done += tokens
            self._said = max(self._said, self._done / self._total)
            self._report(self._said)
