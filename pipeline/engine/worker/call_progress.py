"""How far one call of a worker is, by split: what a heartbeat shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.lake.split import Split
from pipeline.moves import Moves


@dataclass(frozen=True)
class Portion:
    """Some rows of a split, and what fraction of it they are."""

    rows: int = 0
    fraction: float = 0.0

    def __add__(self, other: Portion) -> Portion:
        return Portion(self.rows + other.rows, min(1.0, self.fraction + other.fraction))


class CallProgress:
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
        self._written: Mapping[str, Portion] = {split.id: Portion() for split in splits}
        self._batch: Mapping[str, Portion] = {}
        self._done = 0.0

    def begin(self, batch: Iterable[tuple[str, Portion]]) -> None:
        """Rows of these splits go through the tasks together."""
        self._done, self._batch = 0.0, _added({}, batch)

    def report(self, done: float) -> None:
        """How far that batch is, 0 to 1.

        It is never further back than it was: what a task begins anew, as one that summarizes its
        own summaries does, is the smaller part of its work.
        """
        self._done = max(self._done, done)
        self.moves.moved()

    def end(self, *, written: bool) -> None:
        """That batch is through the tasks, or has failed."""
        batch, self._batch, self._done = self._batch, {}, 0.0
        if written:
            self._written = _added(self._written, batch.items())
        self.moves.moved()

    def progress(self) -> dict[str, tuple[float, int]]:
        """By split: the fraction that is done, and about how many rows that is."""
        done, batch, written = self._done, self._batch, self._written
        return {
            split: (
                min(1.0, rows.fraction + done * batch.get(split, Portion()).fraction),
                rows.rows + int(done * batch.get(split, Portion()).rows),
            )
            for split, rows in written.items()
        }


def _added(to: Mapping[str, Portion], rows: Iterable[tuple[str, Portion]]) -> dict[str, Portion]:
    out = dict(to)
    for split, more in rows:
        out[split] = out.get(split, Portion()) + more
    return out
