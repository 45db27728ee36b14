"""How far one call of a worker is, by split: what `pulse` shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.lake.split import Split
from pipeline.moves import Moves


@dataclass(frozen=True)
class Rows:
    """Some rows of a split, and what share of it they are."""

    rows: int = 0
    share: float = 0.0

    def __add__(self, other: Rows) -> Rows:
        return Rows(self.rows + other.rows, min(1.0, self.share + other.share))


class Call:
    """One call of `annotate_all`.

    Args:
        splits: What it was called with.

    Attributes:
        moves: Its signs of life.
    """

    def __init__(self, splits: Sequence[Split]) -> None:
        self.key = splits[0].id if splits else ""
        self.moves = Moves()
        # Swapped whole, never changed: another thread reads them.
        self._written: Mapping[str, Rows] = {split.id: Rows() for split in splits}
        self._batch: Mapping[str, Rows] = {}
        self._done = 0.0

    def begin(self, batch: Iterable[tuple[str, Rows]]) -> None:
        """Rows of these splits go through the tasks together."""
        self._done, self._batch = 0.0, _added({}, batch)

    def report(self, done: float) -> None:
        """How far that batch is, 0 to 1."""
        self._done = done
        self.moves.moved()

    def end(self, *, written: bool) -> None:
        """That batch is through the tasks, or has failed."""
        batch, self._batch, self._done = self._batch, {}, 0.0
        if written:
            self._written = _added(self._written, batch.items())
        self.moves.moved()

    def progress(self) -> dict[str, tuple[float, int]]:
        """By split: the share that is done, and about how many rows that is."""
        done, batch, written = self._done, self._batch, self._written
        return {
            split: (
                min(1.0, rows.share + done * batch.get(split, Rows()).share),
                rows.rows + int(done * batch.get(split, Rows()).rows),
            )
            for split, rows in written.items()
        }


def _added(to: Mapping[str, Rows], rows: Iterable[tuple[str, Rows]]) -> dict[str, Rows]:
    out = dict(to)
    for split, more in rows:
        out[split] = out.get(split, Rows()) + more
    return out
