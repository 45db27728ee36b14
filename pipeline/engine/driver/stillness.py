"""Whether a worker stands still: judged from its signs of life. Pure: no Ray, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.moves import Sign

# Time in which the driver itself did not look is no proof against a worker: of a longer pause, as
# of a stopped process, so much counts.
LONGEST_LOOK = 5.0


@dataclass
class _Line:
    limit: float
    sign: Sign | None = None
    quiet: float = 0.0


class Stillness:
    """The lines of work of one worker, and for how long each has shown nothing new."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._looked: float | None = None

    def start(self, key: str, *, limit: float) -> None:
        """A line begins.

        Args:
            key: What the worker calls it.
            limit: Seconds that it may show nothing new.
        """
        self._lines[key] = _Line(limit)

    def end(self, key: str) -> None:
        """A line has ended."""
        self._lines.pop(key, None)

    def hear(self, signs: Mapping[str, Sign]) -> None:
        """Signs of life have come."""
        for key, sign in signs.items():
            line = self._lines.get(key)
            if line is not None and sign != line.sign:
                line.sign, line.quiet = sign, 0.0

    def look(self, now: float) -> float | None:
        """Time has passed.

        Returns:
            The limit of a line that stands still; None if none does.
        """
        passed = 0.0 if self._looked is None else min(now - self._looked, LONGEST_LOOK)
        self._looked = now
        for line in self._lines.values():
            line.quiet += passed
        return next((line.limit for line in self._lines.values() if line.quiet > line.limit), None)
