"""The loop of writing: rows join as others end, so that steps are about as many as there is room.

A row that makes the module raise is found by halving the rows that were in it, and one that does
not fit the memory makes the loop narrower. Either way what has ended stays, and only rows that were
being written begin anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import numpy as np

from pipeline.errors import RowError
from pipeline.models.faults import is_out_of_memory, raise_if_fatal, row_error
from pipeline.models.torch.faults import own_errors
from pipeline.models.torch.rules import Live, Rule

# So many times fewer tokens than a batch may have are read at once if there are as many to read:
# reading 256 tokens costs as much a token as 2,048 do.
WORTHWHILE = 8


class Steps(Protocol):
    """A module whose rows are written, each in a slot; those that are live are the first ones."""

    @property
    def slots(self) -> int:
        """How many rows at once."""
        ...

    def admit(self, rows: Sequence[int], slots: Sequence[int]) -> Any:
        """Reads prompts.

        Args:
            rows: Which of the call.
            slots: Where each goes.

        Returns:
            Float32 scores of what comes first, of shape [rows, vocabulary].
        """
        ...

    def step(self, tokens: np.ndarray) -> Any:
        """Goes on with a token in each of the first slots; what raises may be called again.

        Returns:
            Float32 scores of what comes next, of shape [tokens, vocabulary].
        """
        ...

    def move(self, source: int, target: int) -> None:
        """A slot becomes what another is."""
        ...


class WritingRoom:
    """What fits the memory, as far as it is known; out of memory makes it smaller for good.

    Args:
        tokens: Prompts' tokens that are read at once.
        rows: The most that are written at once.
    """

    def __init__(self, *, tokens: int, rows: int) -> None:
        self.tokens = tokens
        self.rows = rows


class Loop:
    """Writes the rows of one call.

    Args:
        lengths: Tokens of each prompt.
        most: The most tokens that are written for one.
        ends: Tokens that end a row.
        rules: What changes scores, one after the other.
        stops: Says which rows have ended, given what they wrote; None where only tokens end one.
        room: What fits the memory.
        report: Hears how far the call is, 0 to 1.

    Attributes:
        written: Of shape [rows, most].
        steps: How many tokens each row wrote, the end token included.
        stopped: Which rows `stops` has ended.
        failures: Why, by row.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        most: int,
        ends: Collection[int],
        rules: Sequence[Rule],
        room: WritingRoom,
        stops: Callable[[Live], np.ndarray] | None = None,
        report: Callable[[float], None] = lambda fraction: None,
    ) -> None:
        self.lengths = lengths
        self.written = np.zeros((len(lengths), most), dtype=np.int64)
        self.steps = np.zeros(len(lengths), dtype=np.int64)
        self.stopped = np.zeros(len(lengths), dtype=bool)
        self.failures: dict[int, RowError] = {}
        self._most = most
        self._ends = np.array(sorted(ends), dtype=np.int64)
        self._rules = rules
        self._stops = stops
        self._room = room
        self._report = report
        self._total = int(lengths.sum()) + most * len(lengths)
        self._done = 0
        self._said = 0.0

    def run(self, groups: Sequence[Sequence[int]], make: Callable[[Sequence[int]], Steps]) -> None:
        """Writes groups of rows.

        Args:
            groups: Rows of about one length each; all of a group may be written in one loop.
            make: Takes the memory for a group.

        Raises:
            ShardscribeError: What no halving can heal.
        """
        waiting = deque(list(group) for group in groups)
        while waiting:
            group = waiting.popleft()
            try:
                with own_errors():
                    steps = make(group)
            except Exception as error:  # a library may raise anything
                raise_if_fatal(error)
                waiting.extendleft(reversed(self._without_room(group, error)))
                continue
            waiting.extendleft(reversed(self._group(group, steps)))

    def _without_room(self, group: list[int], error: Exception) -> list[list[int]]:
        """What is left of a group that there was no memory for."""
        if not is_out_of_memory(error) or self._room.rows == 1:
            self._fail(group[0], error)  # the longest
            return [group[1:]] if group[1:] else []
        self._room.rows = max(1, min(self._room.rows, len(group)) // 2)
        return [group]

    def _group(self, group: Sequence[int], steps: Steps) -> list[list[int]]:
        """Writes a group.

        Returns:
            What is left of it, to be written in groups of their own.
        """
        queue, live = deque(group), np.zeros(0, dtype=np.int64)
        left: list[list[int]] = []
        while queue or len(live):
            joining = self._joining(queue, live, min(steps.slots, self._room.rows))
            computed = joining if len(joining) else live
            chosen = False
            try:
                with own_errors():
                    if len(joining):
                        self.steps[joining] = 0
                        slots = range(len(live), len(live) + len(joining))
                        scores = steps.admit(joining.tolist(), slots)
                    else:
                        scores = steps.step(self.written[live, self.steps[live] - 1])
                    chosen = True
                    ended = self._choose(computed, scores)
            except Exception as error:  # a model may raise anything for a row
                raise_if_fatal(error)
                if not is_out_of_memory(error):
                    left += self._halves(computed, error)
                    live = live if len(joining) else live[:0]
                elif len(joining):
                    self._narrower_reading(joining, live, queue, error)
                else:
                    # Rules that were asked once for a token can't be asked again.
                    live = self._narrower_writing(
                        live, 0 if chosen else len(live) // 2, queue, error
                    )
                continue
            if len(joining):
                self._done += int(self.lengths[joining].sum())
                ended = np.concatenate([np.zeros(len(live), dtype=bool), ended])
                live = np.concatenate([live, joining])
            self._done += len(computed)
            live = self._leave(live, ended, steps)
            self._say()
        return left

    def _joining(self, queue: deque[int], live: np.ndarray, slots: int) -> np.ndarray:
        """Takes the rows from the queue that are to be read now; none where it is not worth it."""
        free, tokens, count = slots - len(live), 0, 0
        for row in queue:
            length = int(self.lengths[row])
            if count == free or (count and tokens + length > self._room.tokens):
                break
            tokens, count = tokens + length, count + 1
        few = tokens < self._room.tokens // WORTHWHILE and count < min(len(queue), slots // 4)
        if len(live) and few:
            count = 0
        return np.array([queue.popleft() for _ in range(count)], dtype=np.int64)

    def _choose(self, rows: np.ndarray, scores: Any) -> np.ndarray:
        """Appends a token to each row.

        Returns:
            Which rows have ended with it.
        """
        live = Live(rows, self.steps[rows], self.written[rows])
        for rule in self._rules:
            scores = rule(live, scores)
        tokens = likeliest(scores)
        self.written[rows, live.steps] = tokens
        self.steps[rows] += 1
        ended = np.isin(tokens, self._ends)
        if self._stops is not None:
            live = Live(rows, self.steps[rows], self.written[rows])
            self.stopped[rows] = self._stops(live)
            ended |= self.stopped[rows]
        return np.asarray(ended | (self.steps[rows] == self._most))

    def _leave(self, live: np.ndarray, ended: np.ndarray, steps: Steps) -> np.ndarray:
        """Fills the slots of rows that have ended from behind."""
        stay = len(live) - int(ended.sum())
        self._done += int((self._most - self.steps[live[ended]]).sum())
        holes = np.flatnonzero(ended[:stay])
        for hole, last in zip(holes, stay + np.flatnonzero(~ended[stay:]), strict=True):
            steps.move(int(last), int(hole))
            live[hole] = live[last]
        return live[:stay]

    def _halves(self, rows: np.ndarray, error: Exception) -> list[list[int]]:
        """What raised, in halves; of one row it is the row's error."""
        self._begin_anew(rows)
        half = len(rows) // 2
        if half:
            return [rows[:half].tolist(), rows[half:].tolist()]
        self._fail(int(rows[0]), error)
        return []

    def _narrower_reading(
        self, joining: np.ndarray, live: np.ndarray, queue: deque[int], error: Exception
    ) -> None:
        """Prompts that did not fit the memory go back into the queue, or alone into failures."""
        if len(joining) > 1:
            self._room.tokens = max(1, int(self.lengths[joining].sum()) // 2)
        elif len(live):
            self._room.rows = len(live)
        else:
            self._fail(int(joining[0]), error)
            return
        queue.extendleft(reversed(joining.tolist()))

    def _narrower_writing(
        self, live: np.ndarray, kept: int, queue: deque[int], error: Exception
    ) -> np.ndarray:
        """Rows that do not fit the memory go back into the queue; the first ones go on."""
        if len(live) == 1:
            self._begin_anew(live)
            self._fail(int(live[0]), error)
            return live[:0]
        self._room.rows = len(live) // 2
        self._begin_anew(live[kept:])
        queue.extendleft(reversed(live[kept:].tolist()))
        return live[:kept]

    def _begin_anew(self, rows: np.ndarray) -> None:
        """What they wrote is not counted: they are read again."""
        read = rows[self.steps[rows] > 0]
        self._done -= int((self.lengths[read] + self.steps[read]).sum())
        self.steps[rows] = 0

    def _fail(self, row: int, error: Exception) -> None:
        self.failures[row] = row_error(error)
        self._done += int(self.lengths[row]) + self._most
        self._say()

    def _say(self) -> None:
        """How far it is; rows that begin anew do not take it back."""
        self._said = max(self._said, self._done / self._total)
        self._report(self._said)


def likeliest(scores: Any) -> np.ndarray:
    """The token of the highest score of each row; the first of those that are equal."""
    if scores.device.type == "cpu":  # torch takes 2.7 ms for 64 rows of 49,152, numpy 0.2
        return np.asarray(scores.numpy().argmax(axis=-1))
    return np.asarray(scores.argmax(dim=-1).cpu().numpy())
