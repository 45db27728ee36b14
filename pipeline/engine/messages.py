"""What goes to a worker and what comes back: plain data that pickles."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline import __version__
from pipeline.errors import ShardscribeError
from pipeline.job.check import Pinned
from pipeline.job.job import Job
from pipeline.lake.sink.base import Sink
from pipeline.lake.source.base import Source
from pipeline.models.resolve import ModelInfo
from pipeline.moves import Sign
from pipeline.records.schema import RowCounts

# What a worker calls the loading of its models, among its calls, which are named after splits.
LOADING = ""
# Calls that a worker has at once: while one holds the device, the other is read and tokenized.
IN_FLIGHT = 2


@dataclass(frozen=True)
class WorkPlan:
    """Everything a worker needs to know before its first split.

    Attributes:
        job: With absolute input and output addresses.
        infos: The models as the driver found them, by reference.
        revisions: What pins their weights, by reference.
        parts: What the fingerprint is made of.
        fingerprint: Of the job with these revisions.
        version: Of shardscribe.
        device: ``cpu`` or ``cuda``.
        threads: Cores that a worker may use.
        source: Where splits are read.
        sink: Where they are committed.
    """

    job: Job
    infos: Mapping[str, ModelInfo]
    revisions: Mapping[str, str]
    parts: Mapping[str, Any]
    fingerprint: str
    version: str
    device: str
    threads: int
    source: Source
    sink: Sink

    @classmethod
    def of(cls, pinned: Pinned, *, device: str, threads: int) -> WorkPlan:
        """What a worker of a job needs to know."""
        return cls(
            pinned.checked.job,
            pinned.checked.infos,
            pinned.revisions,
            pinned.parts,
            pinned.fingerprint,
            __version__,
            device,
            threads,
            pinned.checked.source,
            pinned.checked.sink,
        )


@dataclass
class SplitResult:
    """What a successful attempt at a split gives back.

    Attributes:
        split: The split's id.
        output: The committed file, relative to the output.
        published: False if the file was there already.
        rows: How the rows ended; a row is bad if any task failed on it.
        tasks: The same by task.
        tokens: Tokens given to models, special tokens included, padding not.
        padded_tokens: The same with padding.
        seconds: From start to commit.
        bytes_out: Size of the committed file.
        bad_rows: Up to ten of them, as (row, task, message).
        worker: Who did it.
    """

    split: str
    output: str
    published: bool = True
    rows: RowCounts = field(default_factory=RowCounts)
    tasks: dict[str, RowCounts] = field(default_factory=dict)
    tokens: int = 0
    padded_tokens: int = 0
    seconds: float = 0.0
    bytes_out: int = 0
    bad_rows: list[tuple[int, str, str]] = field(default_factory=list)
    worker: str = ""

    def fields(self) -> dict[str, Any]:
        """Plain data; `dataclasses.asdict` copies deeply, at 30 times the cost."""
        return {
            **vars(self),
            "rows": self.rows.said,
            "tasks": {name: counts.said for name, counts in self.tasks.items()},
        }


@dataclass(frozen=True)
class Failure:
    """What a failed attempt at a split gives back, and a worker that can't load its models.

    Attributes:
        error: Its class says what follows: a `RunError` ends the run, with its exit code; with a
            `WorkerLost` the worker goes; any other is this attempt's alone.
    """

    error: ShardscribeError

    @property
    def message(self) -> str:
        """For people, naming the file."""
        return str(self.error)


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life of a worker.

    Attributes:
        tokens: Given to models since it started.
        padded_tokens: The same with padding.
        busy_seconds: The device was held.
        seconds: Since it was ready.
        fractions: By split in flight, the share that is done, 0 to 1.
        rows: By split in flight, about how many rows that is.
        moves: By call in flight, named by its first split, its signs of life.
    """

    tokens: int
    padded_tokens: int
    busy_seconds: float
    seconds: float
    fractions: Mapping[str, float]
    rows: Mapping[str, int]
    moves: Mapping[str, Sign] = field(default_factory=dict)

    def only(self, splits: Container[str]) -> Heartbeat:
        """The same, with no splits in flight but these."""
        return replace(
            self,
            fractions={split: f for split, f in self.fractions.items() if split in splits},
            rows={split: rows for split, rows in self.rows.items() if split in splits},
        )
