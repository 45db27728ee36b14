"""How far a run was, from its start on, in few lines however long it runs."""

from __future__ import annotations

# At a line every 10 s all of two hours; of a week a line every 20 minutes at worst.
MOST = 720


class History:
    """Lines at even distances: when there are too many, every second one goes."""

    def __init__(self, *, most: int = MOST) -> None:
        self.lines: list[str] = []
        self._most = most
        self._every = 1
        self._seen = 0

    def add(self, line: str) -> bool:
        """Takes a line, or passes over it; says which."""
        self._seen += 1
        if (self._seen - 1) % self._every:
            return False
        self.lines.append(line)
        if len(self.lines) > self._most:
            self.lines = self.lines[::2]
            self._every *= 2
        return True
