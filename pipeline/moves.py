"""Signs of life: whether a line of work moves, waits for another that does, or stands still.

A line of work is a call of a worker, or the loading of its models. Whatever is done for it counts
in its `Moves`: a batch, a layer of a model, rows read, a file published. Several threads may work
for one line; each says so with `working`, and then whatever it does, however deep, can find it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Of a line of work: (what moved, what moved of those it waits for, what it vouches for). As long as
# these change it does not stand still.
Sign = tuple[int, int, int]

_thread = threading.local()


class Moves:
    """What has moved of one line of work.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting = 0
        self._vouched = float("-inf")
        self.count = 0

    def moved(self) -> None:
        """Something has moved. No lock: a count that is lost to another thread's has risen too."""
        self.count += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While the block runs, one of its threads waits its turn at what others use as well."""
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
            self.moved()

    def vouch(self, seconds: float) -> None:
        """Says that something is under way which shows no moves, and takes up to so long."""
        self._vouched = max(self._vouched, self._clock() + seconds)

    def sign(self, others: Moves) -> Sign:
        """What to compare with an earlier sign.

        Args:
            others: Of whoever may have what this line waits for.
        """
        now = self._clock()
        return (
            self.count,
            others.count if self._waiting else 0,
            int(now * 10) if now < self._vouched else 0,
        )


@contextmanager
def working(moves: Moves) -> Iterator[None]:
    """While the block runs, this thread works for that line."""
    before = getattr(_thread, "moves", None)
    _thread.moves = moves
    try:
        yield
    finally:
        _thread.moves = before


def line() -> Moves:
    """What this thread works for; a line that nobody looks at if it works for none."""
    found: Moves | None = getattr(_thread, "moves", None)
    return Moves() if found is None else found


def moved() -> None:
    """Something has moved of what this thread works for."""
    line().moved()
