"""What a run record says, for people and programs. It explains; it never decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.lake.split import RowGroups, Rows

DEATHS_KEPT = 20
# The phase in which numbers rise.
ANNOTATING = "annotating"

State = Literal[
    "done",
    "limit reached",
    "some splits failed",
    "interrupted",
    "failed",
    "nothing to do",
    "some input can't be read",
]


class Section(BaseModel):
    """A part of a summary."""

    model_config = ConfigDict(extra="forbid")


class SplitCounts(Section):
    """Splits of the dataset: total = done_before + done + failed + left."""

    total: int = 0
    done_before: int = Field(0, description="Committed by an earlier run.")
    done: int = Field(0, description="Committed by this run.")
    failed: int = 0
    left: int = Field(0, description="Not ended: the run was stopped, or had a limit.")


# No model of pydantic: a run adds up a million of them.
@dataclass
class RowCounts:
    """How rows ended, of a split, a task or a run: rows = annotated + bad + skipped."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    rows: int = 0
    annotated: int = 0
    bad: Annotated[int, Field(description="With an entry in the errors column.")] = 0
    skipped: Annotated[
        int,
        Field(
            description="Nothing to annotate: a null or blank text, or a condition that is not met."
        ),
    ] = 0
    looked_twice: Annotated[
        int,
        Field(description="Of a task in int8: near a tie, and computed again in float32."),
    ] = 0

    @classmethod
    def of(cls, said: object) -> RowCounts:
        """Those that a file's footer gives, whoever has written it."""
        given = said if isinstance(said, Mapping) else {}
        return cls(*(n if isinstance(n := given.get(f.name), int) else 0 for f in fields(cls)))

    @property
    def said(self) -> dict[str, int]:
        """By name; of int8 only where there is any."""
        return {k: v for k, v in vars(self).items() if k != "looked_twice" or v}

    def add(self, other: RowCounts) -> None:
        """Adds another's rows to these."""
        self.rows += other.rows
        self.annotated += other.annotated
        self.bad += other.bad
        self.skipped += other.skipped
        self.looked_twice += other.looked_twice


class FailedSplit(Section):
    """A split that this run gave up."""

    path: str
    row_groups: tuple[int, int] | None = Field(None, description="First and last, of a part.")
    row_range: tuple[int, int] | None = Field(None, description="First and last, of a part.")
    reason: str

    @property
    def told(self) -> str:
        """What to call it, for people."""
        if self.row_range is not None:
            return Rows(self.row_range[0], self.row_range[1] - self.row_range[0] + 1).of(self.path)
        return RowGroups(*self.row_groups).of(self.path) if self.row_groups else self.path


class Unread(Section):
    """A file or directory of the input that is there and can't be read."""

    path: str
    reason: str


class Summary(Section):
    """What a run did, as ``summary.json`` in its record."""

    run: str
    job: str
    state: State
    exit_code: int
    error: str = Field("", description="Why the run as a whole stopped.")
    started: str = Field(description="UTC, ISO 8601.")
    seconds: float = Field(description="Wall time, from planning to the summary.")
    annotate_seconds: float = Field(0.0, description="Since the first worker was ready.")
    input: str
    output: str
    input_version: int | None = Field(None, description="Of a table: the version that was read.")
    files: int = 0
    splits: SplitCounts = SplitCounts()
    rows: RowCounts = RowCounts()
    tasks: dict[str, RowCounts] = {}
    tokens: int = Field(0, description="Given to models, special tokens included, no padding.")
    padding_share: float = Field(0.0, description="Share of computed tokens that was padding.")
    device_share: float = Field(
        0.0, description="Share of the workers' time in which a model was computing."
    )
    rows_per_second: float = Field(0.0, description="Over annotate_seconds.")
    tokens_per_second: float = Field(0.0, description="Over annotate_seconds.")
    bytes_out: int = 0
    workers: int = Field(0, description="The most that were ready at once.")
    workers_lost: int = 0
    deaths: list[str] = Field(
        [], description="What workers died of and why machines were left out; the first 20."
    )
    device: str = ""
    fingerprint: str = ""
    models: dict[str, str] = Field({}, description="Revision by reference.")
    failed_splits: list[FailedSplit] = []
    unread: list[Unread] = Field([], description="Input that can't be listed; its output stays.")
    vanished_outputs: list[str] = Field([], description="Their input is gone.")
    versions: dict[str, str] = {}


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        phase: In words.
        splits: To do in this run.
        splits_done: Ended well.
        splits_failed: Given up.
        rows: Done, those of splits in flight included.
        tokens: Given to models.
        fraction: Of the bytes to read, 0 to 1.
        seconds: Since the first worker was ready.
        workers: Ready ones.
        eta: Seconds left, by the tokens that are left at the present rate; None if unknown.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    phase: str = "starting"
    splits: int = 0
    splits_done: int = 0
    splits_failed: int = 0
    rows: int = 0
    tokens: int = 0
    fraction: float = 0.0
    seconds: float = 0.0
    workers: int = 0
    eta: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Since the first worker was ready."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def rows_per_second(self) -> float:
        """Since the first worker was ready."""
        return self.rows / self.seconds if self.seconds else 0.0


class InFlight(Section):
    """A split that a worker has, as it last said."""

    split: str
    path: str
    told: str = Field(description="The path, and which part of the file it is.")
    fraction: float
    rows: int


class WorkerInFlight(Section):
    """What a worker has."""

    worker: str
    splits: int
    some: list[InFlight] = Field(description="The first of them.")


class ProgressLine(Section):
    """How far a run was at a moment: ``progress.json`` is the last, ``history.jsonl`` many."""

    time: str = Field(description="UTC, ISO 8601.")
    progress: Progress
    rows_per_second: float = Field(0.0, description="Since the first worker was ready.")
    tokens_per_second: float = Field(0.0, description="Since the first worker was ready.")
    splits_in_flight: int = 0
    in_flight: list[WorkerInFlight] = Field(
        [], description="Of the first workers that have any; in ``progress.json`` alone."
    )


class Event(Section):
    """Something that happened, as a line of ``events-*.jsonl``."""

    time: str = Field(description="UTC, ISO 8601.")


class NoticeEvent(Event):
    """A person was told something."""

    event: Literal["notice"]
    text: str


class DoneEvent(Event):
    """A split is committed."""

    event: Literal["done"]
    path: str
    row_groups: tuple[int, int] | None = None
    row_range: tuple[int, int] | None = None
    split: str
    output: str
    published: bool = Field(description="False if the file was there already.")
    rows: RowCounts
    tasks: dict[str, RowCounts]
    tokens: int
    padded_tokens: int
    seconds: float
    bytes_out: int
    bad_rows: list[tuple[int, str, str]] = Field(description="Some: row, task, message.")
    worker: str


class FailedEvent(Event):
    """An attempt at a split failed."""

    event: Literal["failed"]
    path: str
    split: str
    reason: str
    final: bool = Field(description="The split was given up.")


class RemovedEvent(Event):
    """An output file went that newer ones have replaced."""

    event: Literal["removed"]
    outdated: str


AnyEvent = Annotated[
    NoticeEvent | DoneEvent | FailedEvent | RemovedEvent, Field(discriminator="event")
]
