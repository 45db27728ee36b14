"""A lane of writing: a thread that writes rows, each in a slot, and takes more as they end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.models.faults import is_out_of_memory, raise_if_fatal
from pipeline.models.torch.faults import own_errors
from pipeline.models.torch.rules import Foreseeing, Live
from pipeline.models.torch.sheet import Group, Sheet
from pipeline.models.torch.steps import Steps, likeliest

# So many times fewer tokens than a batch may have are read at once if there are as many to read:
# reading 256 tokens costs as much a token as 2,048 do.
WORTHWHILE = 8


class Lane:
    """Writes rows of a call until none is left.

    Args:
        sheet: Of the call.
        waiting: Its groups, which the lanes share.
        make: Takes the memory for a group.

    Attributes:
        gone: Whether it has ended: nothing was left to take, or it left its rows to other lanes
            for want of memory.
    """

    def __init__(
        self, sheet: Sheet, waiting: deque[Group], make: Callable[[Sequence[int]], Steps]
    ) -> None:
        self.gone = False
        self._sheet = sheet
        self._waiting = waiting
        self._make = make
        self._rules = sheet.rules()
        self._foreseeing = [rule for rule in self._rules if isinstance(rule, Foreseeing)]

    def work(self) -> None:
        """Writes.

        Raises:
            ShardscribeError: What no halving can heal.
        """
        while not self._over and (group := self._next()) is not None:
            try:
                with own_errors():
                    steps = self._make(group.rows)
            except Exception as error:  # a library may raise anything
                raise_if_fatal(error)
                self._without_room(group, error)
                continue
            self._write(group, steps)
            del steps  # before memory is taken for the next

    @property
    def _over(self) -> bool:
        return self.gone or self._sheet.over

    def _next(self) -> Group | None:
        """The first group of which there are rows to take; without one, the lane is gone."""
        with self._sheet.lock:
            while self._waiting and not self._waiting[0].queue:
                self._waiting.popleft()
            if self._waiting:
                return self._waiting[0]
            self._go()
            return None

    def _go(self) -> None:
        self.gone = True
        self._sheet.lanes -= 1

    def _without_room(self, group: Group, error: Exception) -> None:
        """Goes on with what is left of a group that there was no memory for."""
        room, full = self._sheet.room, is_out_of_memory(error)
        if full and room.rows > 1:
            room.rows = max(1, min(room.rows, len(group.rows)) // 2)
            return
        if full and self._leave([]):
            return
        with self._sheet.lock:
            rows = list(group.queue)
            group.queue.clear()
            self._waiting.appendleft(Group(rows[1:]))
        if rows:
            self._sheet.fail(rows[0], error)  # the longest

    def _leave(self, rows: Sequence[int]) -> bool:
        """Leaves rows to the other lanes, which have the memory that there is not; if any is."""
        with self._sheet.lock:
            if self._sheet.lanes == 1:
                return False
            self._waiting.appendleft(Group(rows))
            self._go()
            return True

    def _write(self, group: Group, steps: Steps) -> None:
        """Writes rows of a group, until none is left to take."""
        sheet, room, live = self._sheet, self._sheet.room, np.zeros(0, dtype=np.int64)
        while not self._over:
            joining = self._joining(group.queue, live, min(steps.slots, room.rows))
            computed = joining if len(joining) else live
            if not len(computed):
                return
            chosen = False
            try:
                with own_errors():
                    if len(joining):
                        sheet.steps[joining] = sheet.given[joining] = 0
                        slots = range(len(live), len(live) + len(joining))
                        scores = steps.admit(joining.tolist(), slots)
                    else:
                        scores = steps.step(*sheet.unread(live))
                        sheet.given[live] = sheet.steps[live]
                    chosen, before = True, int(sheet.steps[computed].sum())
                    ended = self._choose(computed, scores)
            except Exception as error:  # a model may raise anything for a row
                raise_if_fatal(error)
                if not is_out_of_memory(error):
                    self._halve(computed, error)
                    live = live if len(joining) else live[:0]
                elif len(joining):
                    self._narrower_reading(joining, live, group.queue, error)
                else:
                    # Rules that were asked once for a token can't be asked again.
                    kept = 0 if chosen else len(live) // 2
                    live = self._narrower_writing(live, kept, group.queue, error)
                continue
            gone_through = int(sheet.steps[computed].sum()) - before
            if len(joining):
                gone_through += int(sheet.lengths[joining].sum())
                ended = np.concatenate([np.zeros(len(live), dtype=bool), ended])
                live = np.concatenate([live, joining])
            gone_through += int((sheet.most - sheet.steps[live[ended]]).sum())
            live = _leave_slots(live, ended, steps)
            sheet.went_on(gone_through)
        self._give_back(live, group.queue)

    def _joining(self, queue: deque[int], live: np.ndarray, slots: int) -> np.ndarray:
        """Takes the rows from the queue that are to be read now; none where it is not worth it."""
        sheet, tokens, count = self._sheet, 0, 0
        # Another lane may have found less room than this one has rows already.
        free, most = max(0, slots - len(live)), sheet.room.tokens
        with sheet.lock:
            for row in queue:
                length = int(sheet.lengths[row])
                if count == free or (count and tokens + length > most):
                    break
                tokens, count = tokens + length, count + 1
            few = tokens < most // WORTHWHILE and count < min(len(queue), slots // 4)
            if len(live) and few:
                count = 0
            return np.array([queue.popleft() for _ in range(count)], dtype=np.int64)

    def _choose(self, rows: np.ndarray, scores: Any) -> np.ndarray:
        """Appends a token to each row.

        Returns:
            Which rows have ended with it.
        """
        sheet = self._sheet
        live = Live(rows, sheet.steps[rows], sheet.written[rows])
        for rule in self._rules:
            scores = rule(live, scores)
        tokens = likeliest(scores)
        sheet.written[rows, live.steps] = tokens
        sheet.steps[rows] += 1
        ended = np.isin(tokens, sheet.ends)
        if sheet.stops is not None:
            live = Live(rows, sheet.steps[rows], sheet.written[rows])
            sheet.stopped[rows] = sheet.stops(live)
            ended |= sheet.stopped[rows]
        for rule in self._foreseeing:
            on = np.flatnonzero(~ended & (sheet.steps[rows] < sheet.most))
            ended[on] = self._append(rows[on], rule)
        return np.asarray(ended | (sheet.steps[rows] == sheet.most))

    def _append(self, rows: np.ndarray, rule: Foreseeing) -> np.ndarray:
        """Appends to each row what a rule knows that comes.

        Returns:
            Which rows have ended with it.
        """
        sheet = self._sheet
        ahead = rule.ahead(Live(rows, sheet.steps[rows], sheet.written[rows]))
        for row, tokens in zip(rows.tolist(), ahead, strict=True):
            start, stop = sheet.steps[row], sheet.steps[row] + len(tokens)
            sheet.written[row, start:stop] = tokens
            sheet.steps[row] = stop
        return np.isin(sheet.written[rows, sheet.steps[rows] - 1], sheet.ends)

    def _halve(self, rows: np.ndarray, error: Exception) -> None:
        """What raised comes again, in halves; of one row it is the row's error."""
        self._begin_anew(rows)
        half = len(rows) // 2
        if not half:
            self._sheet.fail(int(rows[0]), error)
            return
        with self._sheet.lock:
            self._waiting.append(Group(rows[:half].tolist()))
            self._waiting.append(Group(rows[half:].tolist()))

    def _narrower_reading(
        self, joining: np.ndarray, live: np.ndarray, queue: deque[int], error: Exception
    ) -> None:
        """Prompts that did not fit the memory go back into the queue, or alone into failures."""
        if len(joining) > 1:
            self._sheet.room.tokens = max(1, int(self._sheet.lengths[joining].sum()) // 2)
        elif len(live):
            self._sheet.room.rows = len(live)
        else:
            if not self._leave(joining.tolist()):
                self._sheet.fail(int(joining[0]), error)
            return
        self._give_back(joining, queue)

    def _narrower_writing(
        self, live: np.ndarray, kept: int, queue: deque[int], error: Exception
    ) -> np.ndarray:
        """Rows that do not fit the memory go back into the queue; the first ones go on."""
        if len(live) == 1:
            self._begin_anew(live)
            if not self._leave(live.tolist()):
                self._sheet.fail(int(live[0]), error)
            return live[:0]
        self._sheet.room.rows = len(live) // 2
        self._give_back(live[kept:], queue)
        return live[:kept]

    def _give_back(self, rows: np.ndarray, queue: deque[int]) -> None:
        """Rows wait again."""
        self._begin_anew(rows)
        with self._sheet.lock:
            queue.extendleft(reversed(rows.tolist()))

    def _begin_anew(self, rows: np.ndarray) -> None:
        """What they wrote is not counted: they are read again."""
        sheet = self._sheet
        read = rows[sheet.steps[rows] > 0]
        if len(read):
            sheet.went_on(-int((sheet.lengths[read] + sheet.steps[read]).sum()))
        sheet.steps[rows] = 0


def _leave_slots(live: np.ndarray, ended: np.ndarray, steps: Steps) -> np.ndarray:
    """Fills the slots of rows that have ended from behind.

    Returns:
        The rows that are live, in the order of their slots.
    """
    stay = len(live) - int(ended.sum())
    holes = np.flatnonzero(ended[:stay])
    for hole, last in zip(holes, stay + np.flatnonzero(~ended[stay:]), strict=True):
        steps.move(int(last), int(hole))
        live[hole] = live[last]
    return live[:stay]
