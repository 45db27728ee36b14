"""What a pool knows of one of its workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.driver.scheduler import Attempt
from pipeline.engine.driver.stillness import Stillness
from pipeline.engine.messages import Heartbeat

# Small files go through a model together, so that batches are full and a call is worth its
# millisecond: as many as a worker does in about this time, as a kill loses what is in flight.
CALL_SECONDS = 3.0
SHARED_SPLITS = 256


@dataclass(eq=False)
class Member:
    """A worker, from its birth to its end.

    Attributes:
        name: For people.
        handle: The actor.
        born: When it was asked for.
        hello: What it said when it was placed; empty before.
        ready: Whether its models are loaded.
        attempts: What it has, by call.
        heartbeat: The latest.
        heartbeat_ref: The one that is asked for.
        asked: When.
        call_splits: Splits that it may get in a call.
        still: Judges whether it stands still.
    """

    name: str
    handle: Any
    born: float
    hello: Mapping[str, Any] = field(default_factory=dict)
    ready: bool = False
    attempts: dict[Any, list[Attempt]] = field(default_factory=dict)
    heartbeat: Heartbeat | None = None
    heartbeat_ref: Any = None
    asked: float = 0.0
    call_splits: int = 1
    still: Stillness = field(default_factory=Stillness)

    @property
    def node(self) -> str:
        """Where it is; empty before it is placed."""
        return str(self.hello.get("node", ""))

    @property
    def told(self) -> str:
        """What it is called, and where it is."""
        return f"{self.name} on {self.hello['host']}" if self.hello else self.name

    def learn(self, splits: int, seconds: float) -> None:
        """Takes more splits in a call, or fewer, by how long the last one took."""
        if seconds < CALL_SECONDS and splits == self.call_splits:
            self.call_splits = min(2 * self.call_splits, SHARED_SPLITS)
        elif seconds > 2 * CALL_SECONDS:
            self.call_splits = max(1, splits // 2)

    def give(self, ref: Any, attempts: list[Attempt], *, stall: float) -> None:
        """It has a call more."""
        self.attempts[ref] = attempts
        self.still.start(attempts[0].split.id, limit=stall)

    def take(self, ref: Any) -> list[Attempt]:
        """A call has been answered."""
        attempts = self.attempts.pop(ref)
        self.still.end(attempts[0].split.id)
        if self.heartbeat is not None:
            self.heartbeat = self.heartbeat.without({attempt.split.id for attempt in attempts})
        return attempts

    def hear(self, heartbeat: Heartbeat) -> None:
        """A heartbeat has come."""
        self.heartbeat_ref = None
        self.heartbeat = heartbeat
        self.still.hear(heartbeat.moves)
