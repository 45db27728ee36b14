"""Splits in flight, as workers last said: their sums, and some of them to be shown."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from pipeline.engine.messages import Heartbeat
from pipeline.lake.split import Split
from pipeline.records.schema import InFlight, WorkerInFlight

# A line of progress stays small, however many workers there are.
WORKERS_SHOWN = 16
SPLITS_SHOWN = 4


class Flying:
    """What workers have in flight. Each split counts once, by what was said of it last.

    Args:
        splits: All that may be.
    """

    def __init__(self, splits: Iterable[Split]) -> None:
        self.rows = 0
        self.bytes = 0
        self._splits = {split.id: split for split in splits}
        self._worker: dict[str, str] = {}
        # By worker and split: rows, fraction, bytes.
        self._said: dict[str, dict[str, tuple[int, float, int]]] = {}

    def hear(self, worker: str, heartbeat: Heartbeat) -> None:
        """A worker says how far its splits are."""
        for name, rows in heartbeat.rows.items():
            if name in self._splits:
                self.land(name)
                fraction = min(1.0, heartbeat.fractions.get(name, 0.0))
                size = int(self._splits[name].size * fraction)
                self._worker[name] = worker
                self._said.setdefault(worker, {})[name] = rows, fraction, size
                self.rows += rows
                self.bytes += size

    def land(self, name: str) -> None:
        """What was said of a split counts no more."""
        worker = self._worker.pop(name, None)
        if worker is not None:
            rows, _, size = self._said[worker].pop(name)
            self.rows -= rows
            self.bytes -= size
            if not self._said[worker]:
                del self._said[worker]

    def end(self, name: str) -> int:
        """A split is done or given up, and whoever still speaks of it is late; gives its bytes."""
        self.land(name)
        split = self._splits.pop(name, None)
        return split.size if split is not None else 0

    def __len__(self) -> int:
        return len(self._worker)

    def some(self) -> list[WorkerInFlight]:
        """Some workers, and some of what each has."""
        workers = sorted(islice(self._said, WORKERS_SHOWN), key=lambda name: (len(name), name))
        return [
            WorkerInFlight(
                worker=worker,
                splits=len(self._said[worker]),
                some=[
                    self._shown(*item) for item in islice(self._said[worker].items(), SPLITS_SHOWN)
                ],
            )
            for worker in workers
        ]

    def _shown(self, name: str, said: tuple[int, float, int]) -> InFlight:
        split = self._splits[name]
        return InFlight(
            split=name,
            path=split.path,
            told=split.told,
            fraction=round(said[1], 4),
            rows=said[0],
        )
