"""The loop of writing: rows join as others end, so that steps are about as many as there is room.

Several lanes, each a thread, may write the rows of a call; a row goes to the one that has room. A
row that makes the module raise is found by halving the rows that were in it, and one that does
not fit the memory makes the loop narrower. Either way what has ended stays, and only rows that were
being written begin anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from pipeline.models.torch.lane import Lane
from pipeline.models.torch.sheet import Group, Sheet
from pipeline.models.torch.steps import Steps


class Loop(Sheet):
    """Writes the rows of one call."""

    def run(
        self,
        groups: Callable[[], Sequence[Sequence[int]]],
        make: Callable[[Sequence[int]], Steps],
    ) -> None:
        """Writes groups of rows, as one lane or as one of several: each calls it.

        Args:
            groups: Cuts rows into groups of about one length each; called by the first lane.
            make: Takes a lane's memory for a group.

        Raises:
            ShardscribeError: What no halving can heal; the other lanes end too.
        """
        lane = None
        try:
            with self.lock:
                if self.waiting is None:
                    self.waiting = deque(Group(group) for group in groups())
                self.lanes += 1
            lane = Lane(self, self.waiting, make)
            lane.work()
        except BaseException:
            self.over = True
            raise
        finally:
            if lane is not None and not lane.gone:
                with self.lock:
                    self.lanes -= 1
