"""What a pool asks of its workers and of time, wherever both may be: with Ray, or in a test."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

from pipeline.engine.driver.placement import Shape
from pipeline.engine.messages import WorkPlan
from pipeline.errors import WorkerLost
from pipeline.lake.split import Split

# A question that an actor was asked. `Actors.wait` gives its answer.
Call = Hashable


class Reply(NamedTuple):
    """What became of a call.

    Attributes:
        call: Which.
        value: What the worker gave.
        died: The actor is gone, and there is no value.
    """

    call: Call
    value: Any = None
    died: bool = False


class Actor(Protocol):
    """One worker, placed or not. Asking takes no time; the calls are those of `Worker`."""

    @property
    def node(self) -> str:
        """Where it is or was; empty if nobody knows."""

    def hello(self) -> Call:
        """Asks where it is; the answer is a mapping, of whatever version."""

    def load(self, plan: WorkPlan) -> Call:
        """Asks it to load the models; the answer is None, or a `Failure`."""

    def annotate(self, splits: Sequence[Split]) -> Call:
        """Asks it to annotate; the answer has a `SplitResult` or a `Failure` for each split."""

    def heartbeat(self) -> Call:
        """Asks how far it is; the answer is a `Heartbeat`."""

    def cause(self) -> WorkerLost:
        """What it died of; may take some seconds to find out."""

    def kill(self) -> None:
        """Ends it. None of its calls is answered from now on."""


class Actors(Protocol):
    """Makes workers, and waits for what they answer."""

    def now(self) -> float:
        """Monotonic seconds."""

    def start(self, name: str, shape: Shape, *, avoid: Collection[str]) -> Actor:
        """Asks for a worker, which will be placed when there is room.

        Args:
            name: For people.
            shape: What it asks of its node.
            avoid: Nodes that it may not be placed on.
        """

    def wait(self, seconds: float) -> list[Reply]:
        """Waits for an answer, so long at most, and gives all that have come."""
