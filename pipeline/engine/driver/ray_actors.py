"""The actors of a pool, as Ray has them."""

from __future__ import annotations

import socket
import textwrap
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.engine.driver.actors import Reply
from pipeline.engine.driver.placement import Shape
from pipeline.engine.last_words import CODE, MEMORY, last_words
from pipeline.engine.messages import IN_FLIGHT, WorkPlan
from pipeline.engine.worker.actor import Worker
from pipeline.errors import WorkerLost
from pipeline.lake.split import Split

LOOK_SECONDS = 10.0

Hello = Mapping[str, Any]


class RayActor:
    """A worker that is a Ray actor.

    Args:
        handle: Ray's.
        answered: Takes what is answered, in a thread of Ray's.
        doomed: Takes the handle when the actor is to end.
        head_answers: Whether Ray may be asked something.
    """

    def __init__(
        self,
        handle: Any,
        *,
        answered: Callable[[tuple[RayActor, Future[Any]]], None],
        doomed: Callable[[Any], None],
        head_answers: Callable[[], bool],
    ) -> None:
        self.killed = False
        self._handle = handle
        self._answered = answered
        self._doomed = doomed
        self._head_answers = head_answers
        self._hello: Future[Hello] | None = None
        self._error: BaseException | None = None

    @property
    def node(self) -> str:
        """Where it is or was; empty if nobody knows."""
        said = self._said.get("node")
        if not said and self._head_answers():
            said = _node_of(self._handle)
        return str(said or "")

    def hello(self) -> Future[Any]:
        """Asks where it is."""
        self._hello = self._ask(self._handle.hello)
        return self._hello

    def load(self, plan: WorkPlan) -> Future[Any]:
        """Asks it to load the models."""
        # Unpacked by our code there: a store that can't be opened on that machine says so.
        return self._ask(self._handle.load, cloudpickle.dumps(plan))

    def annotate(self, splits: Sequence[Split]) -> Future[Any]:
        """Asks it to annotate."""
        return self._ask(self._handle.annotate, list(splits))

    def heartbeat(self) -> Future[Any]:
        """Asks how far it is."""
        return self._ask(self._handle.heartbeat)

    def cause(self) -> WorkerLost:
        """What it died of."""
        return cause(self._error or RayError("it does not answer"), self._said)

    def kill(self) -> None:
        """Ends it; waits for nothing."""
        self.killed = True
        self._doomed(self._handle)

    def answer(self, future: Future[Any]) -> Reply:
        """What became of a call of it that has ended."""
        error = future.exception()
        if error is None:
            return Reply(future, future.result())
        self._error = error
        return Reply(future, died=True)

    @property
    def _said(self) -> Hello:
        """What it said when it was placed; empty if it never was."""
        hello = self._hello
        if hello is None or not hello.done() or hello.exception() is not None:
            return {}
        return hello.result()

    def _ask(self, method: Any, *args: Any) -> Future[Any]:
        # Not `ray.wait`, which looks at all that it is given: with 20,000 calls open, an answer
        # takes it 65 ms, and this way 1 ms.
        future: Future[Any] = method.remote(*args).future()
        future.add_done_callback(lambda ended: self._answered((self, ended)))
        return future


class RayActors:
    """Makes Ray actors around `Worker`, and waits for what they answer.

    Args:
        head_answers: Whether Ray may be asked something. Where its head is gone, it waits for it
            and then ends this process, without a word.
    """

    def __init__(self, *, head_answers: Callable[[], bool] = lambda: True) -> None:
        self._head_answers = head_answers
        self._doomed: SimpleQueue[Any] = SimpleQueue()
        self._reaper: Thread | None = None
        self._closed = False
        self._answers: SimpleQueue[tuple[RayActor, Future[Any]]] = SimpleQueue()
        self._classes: dict[Shape, Any] = {}

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def start(self, name: str, shape: Shape, *, avoid: Collection[str]) -> RayActor:
        """Asks for a worker, which Ray places when there is room."""
        actor = self._classes.get(shape)
        if actor is None:
            groups = {"work": IN_FLIGHT, "watch": 1}
            actor = self._classes[shape] = ray.remote(
                num_cpus=shape.cpus,
                num_gpus=shape.num_gpus,
                max_restarts=0,
                concurrency_groups=groups,
            )(Worker)
        if avoid:
            actor = actor.options(label_selector={"ray.io/node-id": f"!in({','.join(avoid)})"})
        return RayActor(
            actor.remote(name, shape.cpus),
            answered=self._answers.put,
            doomed=self._kill,
            head_answers=self._head_answers,
        )

    def _kill(self, handle: Any) -> None:
        """Kills in a thread: an actor that is not registered yet can't be before the head answers.

        One that is left when this process ends goes with it.
        """
        self._doomed.put(handle)
        if self._reaper is None:
            self._reaper = Thread(target=self._reap, name="reaper", daemon=True)
            self._reaper.start()

    def _reap(self) -> None:
        # Asked after Ray was shut down, it would start anew to do as it is told.
        while (handle := self._doomed.get()) is not None and not self._closed:
            with suppress(Exception):  # it is gone, or Ray is
                ray.kill(handle)

    def close(self) -> None:
        """Waits until all that were killed are, as long as Ray answers."""
        self._doomed.put(None)
        if self._reaper is not None:
            self._reaper.join(LOOK_SECONDS if self._head_answers() else 0.0)
        self._closed = True

    def wait(self, seconds: float) -> list[Reply]:
        """Waits for an answer, so long at most, and gives all that have come."""
        answers: list[Reply] = []
        with suppress(Empty):
            actor, future = self._answers.get(timeout=seconds)
            while True:
                if not actor.killed:
                    answers.append(actor.answer(future))
                actor, future = self._answers.get_nowait()
        return answers


def cause(error: BaseException, hello: Hello) -> WorkerLost:
    """What a dead actor died of.

    Args:
        error: What Ray raised.
        hello: What the worker said when it was placed; empty if it never was.
    """
    if isinstance(error, OutOfMemoryError):
        return WorkerLost("its machine ran out of memory", hint=MEMORY)
    if isinstance(error, NodeDiedError):
        return WorkerLost("its machine is gone")
    if isinstance(error, RayTaskError):
        last = [line for line in error.traceback_str.splitlines() if line.strip()][-1]
        return WorkerLost(f"it raised {textwrap.shorten(last, 300)}", hint=CODE)
    text = " ".join(str(error).split())
    _, found, detail = text.partition("Worker exit detail: ")
    if not found:
        _, found, detail = text.partition("The actor is dead because ")
    said = textwrap.shorten(detail if found else f"{type(error).__name__}: {text}", 160)
    looked = _look(hello) if hello else None
    if looked is None:
        return WorkerLost(f"its process ended unexpectedly ({said})", hint=MEMORY)
    words, kills = looked
    if words:
        return WorkerLost(f"its process crashed: {words}", hint=CODE)
    if kills > hello["memory_kills"]:
        return WorkerLost(
            "killed by signal 9: its machine has no memory left, and the kernel ends processes",
            hint=MEMORY,
        )
    return WorkerLost(
        "its process ended without a word, as one does that is killed by signal 9: the kernel does "
        f"so when memory runs out ({said})",
        hint=MEMORY,
    )


def _look(hello: Hello) -> tuple[str, int] | None:
    """Reads the last words, on the worker's machine; None if it does not answer."""
    if hello["host"] == socket.gethostname() and Path(hello["log"]).exists():
        return last_words(hello["log"])
    if not ray.is_initialized():
        return None
    there = NodeAffinitySchedulingStrategy(hello["node"], soft=False)
    ask = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(last_words)
    try:
        found: tuple[str, int] = ray.get(ask.remote(hello["log"]), timeout=LOOK_SECONDS)
    except RayError:
        return None
    return found


def _node_of(handle: Any) -> str:
    """Where an actor is or was that never said so; empty if Ray does not know."""
    with suppress(Exception):  # no public call tells this without a dashboard
        from ray._private.state import actors

        return str(actors(handle._actor_id.hex())["Address"]["NodeID"])
    return ""
