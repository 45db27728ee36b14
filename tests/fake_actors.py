"""Workers that are no processes, and time that passes only while somebody waits."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from pipeline import __version__
from pipeline.engine.driver.actors import Reply
from pipeline.engine.driver.placement import Shape
from pipeline.engine.messages import Heartbeat, SplitResult, WorkPlan
from pipeline.errors import WorkerLost
from pipeline.lake.split import Split
from pipeline.records.schema import RowCounts

NEVER = float("inf")


@dataclass
class After:
    """An answer that comes some seconds after the question; `NEVER` for none."""

    seconds: float
    value: Any = None


def result_of(split: Split) -> SplitResult:
    return SplitResult(split.id, split.output_path, rows=RowCounts(1, 1), seconds=1.0)


def good(splits: Sequence[Split]) -> list[Any]:
    return [result_of(split) for split in splits]


def at_rest() -> Heartbeat:
    return Heartbeat(0, 0, 0.0, 0.0, {}, {})


@dataclass
class Script:
    """What a worker answers: values that come at once, `After`, or an error that it dies of."""

    annotate: Callable[[Sequence[Split]], Any] = good
    host: str = "here"
    version: str = __version__
    hello: Any = None
    load: Any = None
    heartbeat: Callable[[], Any] = at_rest


@dataclass(eq=False)
class FakeActor:
    """One worker, after its script."""

    actors: FakeActors
    script: Script
    name: str
    shape: Shape
    avoid: list[str]
    killed: bool = False
    plan: WorkPlan | None = None
    calls: dict[int, None] = field(default_factory=dict)
    asked: list[list[Split]] = field(default_factory=list)
    heartbeats: list[float] = field(default_factory=list)
    _error: WorkerLost | None = None

    @property
    def node(self) -> str:
        return f"node-of-{self.script.host}"

    def hello(self) -> int:
        said = {"host": self.script.host, "version": self.script.version, "node": self.node}
        return self._ask(self.script.hello or said)

    def load(self, plan: WorkPlan) -> int:
        self.plan = plan
        return self._ask(self.script.load)

    def annotate(self, splits: Sequence[Split]) -> int:
        self.asked.append(list(splits))
        return self._ask(self.script.annotate(splits))

    def heartbeat(self) -> int:
        self.heartbeats.append(self.actors.now())
        return self._ask(self.script.heartbeat())

    def cause(self) -> WorkerLost:
        assert self._error is not None, "it lives"
        return self._error

    def kill(self) -> None:
        self.killed = True

    def die(self, error: WorkerLost) -> None:
        """Its process is gone: each call that is open is answered so."""
        self._error = error
        for call in self.calls:
            self.actors.answer(self, Reply(call, died=True), after=0)

    def _ask(self, value: Any) -> int:
        assert not self.killed, f"{self.name} is asked though it was killed"
        call = next(self.actors.numbers)
        self.calls[call] = None
        after = value.seconds if isinstance(value, After) else 0
        value = value.value if isinstance(value, After) else value
        if self._error is not None:
            self.actors.answer(self, Reply(call, died=True), after=0)
        elif isinstance(value, WorkerLost):
            if after < NEVER:
                self.actors.at(self.actors.now() + after, lambda: self.die(value))
        elif after < NEVER:
            self.actors.answer(self, Reply(call, value), after=after)
        return call


class FakeActors:
    """Makes workers after scripts; whoever waits is carried to the next answer.

    Args:
        make: Gives the script of each worker, by its number.
    """

    def __init__(self, make: Callable[[int], Script]) -> None:
        self.made: list[FakeActor] = []
        self.numbers = count()
        self.waits = 0
        # What is answered though its worker was killed, as what was on its way already.
        self.late = False
        self._make = make
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], Reply | None]]] = []

    def now(self) -> float:
        return self._now

    def start(self, name: str, shape: Shape, *, avoid: Collection[str]) -> FakeActor:
        script = self._make(len(self.made))
        self.made.append(FakeActor(self, script, name, shape, list(avoid)))
        return self.made[-1]

    def at(self, when: float, what: Callable[[], Any]) -> None:
        """Something happens at a time, if anybody waits so long."""
        heapq.heappush(self._events, (when, next(self.numbers), what))

    def answer(self, actor: FakeActor, answer: Reply, *, after: float) -> None:
        """A call will be answered."""

        def come() -> Reply | None:
            if answer.call not in actor.calls or (actor.killed and not self.late):
                return None
            del actor.calls[answer.call]
            return answer

        self.at(self._now + after, come)

    def wait(self, seconds: float) -> list[Reply]:
        self.waits += 1
        assert self.waits < 100_000, "the pool never ends"
        until = self._now + seconds
        answers: list[Reply] = []
        while not answers and self._events and self._events[0][0] <= until:
            self._now = max(self._now, self._events[0][0])
            while self._events and self._events[0][0] <= self._now:
                answer = heapq.heappop(self._events)[2]()
                answers += [answer] if isinstance(answer, Reply) else []
        if not answers:
            self._now = until
        return answers
