"""Whether a worker stands still: judged from its signs of life. Pure: no Ray, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.moves import Sign

LONGEST_LOOK = 5.0


class WatchedTime:
    """Seconds in which the driver looked at its workers.

    Time in which it did not is no proof against them: of a longer pause, as of a stopped process,
    `LONGEST_LOOK` counts.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._looked: float | None = None

    def look(self, now: float) -> float:
        """The driver looks, at a time of its clock; gives the seconds watched so far."""
        if self._looked is not None:
            self.seconds += min(now - self._looked, LONGEST_LOOK)
        self._looked = now
        return self.seconds


@dataclass
class _Line:
    limit: float
    moved: float
    sign: Sign | None = None


class Stillness:
    """The lines of work of one worker, and when each last showed something new.

    All times are those of a `WatchedTime`.
    """

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    def start(self, key: str, now: float, *, limit: float) -> None:
        """A line begins.

        Args:
            key: What the worker calls it.
            now: When.
            limit: Seconds that it may show nothing new.
        """
        self._lines[key] = _Line(limit, now)

    def end(self, key: str) -> None:
        """A line has ended."""
        self._lines.pop(key, None)

    def hear(self, signs: Mapping[str, Sign], now: float) -> None:
        """Signs of life have come."""
        for key, sign in signs.items():
            line = self._lines.get(key)
            if line is not None and sign != line.sign:
                line.sign, line.moved = sign, now

    def judge(self, now: float) -> float | None:
        """The limit of a line that stands still; None if none does."""
        lines = self._lines.values()
        return next((line.limit for line in lines if now - line.moved > line.limit), None)
