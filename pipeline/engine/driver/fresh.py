"""Splits that nobody has begun, handed out so that a worker stays with the file that it is at.

What reads a range of a file's rows has to pass over all that is before it: whoever has read the
range before goes on where it stands, and few workers read a file as long as there are others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from pipeline.lake.split import Rows, Split


class Fresh:
    """Splits in the order to start them, but for the ranges of a file, which are kept together.

    Args:
        splits: All of them; a file's ranges are side by side.
    """

    def __init__(self, splits: Iterable[Split]) -> None:
        self._waiting = deque(splits)
        self._begun: dict[str, deque[Split]] = {}
        self._at: dict[str, str] = {}
        self._count = len(self._waiting)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Split]:
        for ranges in self._begun.values():
            yield from ranges
        yield from self._waiting

    def first(self, worker: str) -> Split:
        """What a worker would get; there has to be one."""
        return self._queue(worker)[0]

    def take(self, worker: str) -> Split:
        """Gives it to the worker."""
        queue = self._queue(worker)
        split = queue.popleft()
        self._count -= 1
        if not queue and queue is not self._waiting:
            del self._begun[split.path]
        return split

    def leave(self, worker: str) -> None:
        """A worker is gone."""
        self._at.pop(worker, None)

    def _queue(self, worker: str) -> deque[Split]:
        mine = self._begun.get(self._at.get(worker, ""))
        if mine is not None:
            return mine
        if not self._waiting:
            self._at[worker] = max(self._begun, key=lambda path: len(self._begun[path]))
        elif isinstance(self._waiting[0].region, Rows):
            self._at[worker] = self._waiting[0].path
            self._begin(self._waiting[0].path)
        else:
            return self._waiting
        return self._begun[self._at[worker]]

    def _begin(self, path: str) -> None:
        ranges = self._begun.setdefault(path, deque())
        while self._waiting and self._waiting[0].path == path:
            ranges.append(self._waiting.popleft())
