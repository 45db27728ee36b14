"""What a pool knows of one of its workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.driver.actors import Actor, Call
from pipeline.engine.driver.placement import Shape
from pipeline.engine.driver.scheduler import Attempt
from pipeline.engine.driver.stillness import Stillness

# Small files go through a model together, so that batches are full and a call is worth its
# millisecond: as many as a worker does in about this time, as a kill loses what is in flight.
CALL_SECONDS = 3.0
SHARED_SPLITS = 256


@dataclass(eq=False)
class Member:
    """A worker, from its birth to its end.

    Attributes:
        name: For people.
        actor: To be asked.
        shape: What it asks of its node.
        born: When it was asked for.
        hello: What it said when it was placed; empty before.
        ready: Whether its models are loaded.
        calls: What takes the answer, by call that is not answered.
        attempts: What it has, by call.
        asked: Whether a heartbeat is asked for.
        call_splits: Splits that it may get in a call.
        still: Judges whether it stands still.
    """

    name: str
    actor: Actor
    shape: Shape
    born: float
    hello: Mapping[str, Any] = field(default_factory=dict)
    ready: bool = False
    calls: dict[Call, Callable[[Member, Call, Any], None]] = field(default_factory=dict)
    attempts: dict[Call, list[Attempt]] = field(default_factory=dict)
    asked: bool = False
    call_splits: int = 1
    still: Stillness = field(default_factory=Stillness)

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

    def in_flight(self) -> set[str]:
        """The splits that it has."""
        return {attempt.split.id for call in self.attempts.values() for attempt in call}
