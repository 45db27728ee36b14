"""Ray's actors as a pool sees them, and what a person is told of one that is gone."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import PATIENCE, wait_for
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError

from pipeline.engine import last_words
from pipeline.engine.driver import ray_actors
from pipeline.engine.driver.placement import Shape
from pipeline.engine.driver.ray_actors import RayActors, cause

pytestmark = pytest.mark.unit

HELLO = {"host": "elsewhere", "node": "n1", "log": "/nonexistent/log", "memory_kills": 0}


class FakeRay:
    """Ray's calls; what is asked is answered by hand."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...], Future[Any]]] = []
        self.options: list[dict[str, Any]] = []
        self.selectors: list[dict[str, str]] = []
        self.killed: list[Any] = []

    def remote(self, **options: Any) -> Any:
        self.options.append(options)
        return lambda cls: SimpleNamespace(remote=self.start, options=self.select)

    def select(self, *, label_selector: dict[str, str]) -> Any:
        self.selectors.append(label_selector)
        return SimpleNamespace(remote=self.start)

    def start(self, *args: Any) -> Any:
        return SimpleNamespace(
            **{name: self.method(name) for name in ("hello", "load", "annotate", "heartbeat")}
        )

    def method(self, name: str) -> Any:
        def remote(*args: Any) -> Any:
            future: Future[Any] = Future()
            self.asked.append((name, args, future))
            return SimpleNamespace(future=lambda: future)

        return SimpleNamespace(remote=remote)

    def kill(self, handle: Any) -> None:
        self.killed.append(handle)

    def is_initialized(self) -> bool:
        return False


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay()
    monkeypatch.setattr(ray_actors, "ray", made)
    return made


def test_all_answers_that_have_come_are_given_at_once_and_each_with_its_call(fake: FakeRay) -> None:
    actors = RayActors()
    actor = actors.start("w", Shape(1, 0), avoid=())
    calls = [actor.hello(), actor.heartbeat(), actor.annotate(())]
    assert actors.wait(seconds=0) == []
    fake.asked[2][2].set_result(["done"])
    fake.asked[0][2].set_result(HELLO)
    answers = actors.wait(PATIENCE)
    assert [(answer.call, answer.value) for answer in answers] == [
        (calls[2], ["done"]),
        (calls[0], HELLO),
    ]
    assert actor.node == "n1"
    assert actors.wait(seconds=0) == []


def test_what_a_killed_actor_answers_is_not_given(fake: FakeRay) -> None:
    actors = RayActors()
    one, other = (actors.start(name, Shape(1, 0), avoid=()) for name in "ab")
    one.heartbeat()
    call = other.heartbeat()
    fake.asked[0][2].set_result(1)
    one.kill()
    fake.asked[1][2].set_result(2)
    assert [answer.call for answer in actors.wait(PATIENCE)] == [call]
    wait_for(lambda: len(fake.killed) == 1, what=lambda: fake.killed)


def test_to_kill_an_actor_waits_for_nothing_though_the_head_is_gone(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = threading.Event()
    monkeypatch.setattr(fake, "kill", lambda handle: (back.wait(), fake.killed.append(handle)))
    actors = RayActors(head_answers=lambda: False)
    one, other = (actors.start(name, Shape(1, 0), avoid=()) for name in "ab")
    one.kill()
    other.kill()
    assert (one.killed, other.killed, fake.killed) == (True, True, [])
    assert one.node == ""
    actors.close()
    back.set()
    wait_for(lambda: len(fake.killed) == 1, what=lambda: fake.killed)


def test_at_the_end_all_that_were_killed_are(fake: FakeRay) -> None:
    actors = RayActors()
    for name in "abc":
        actors.start(name, Shape(1, 0), avoid=()).kill()
    actors.close()
    assert len(fake.killed) == 3


def test_a_call_of_a_dead_actor_is_answered_as_such(fake: FakeRay) -> None:
    actors = RayActors()
    actor = actors.start("w", Shape(1, 0), avoid=())
    call = actor.annotate(())
    fake.asked[0][2].set_exception(NodeDiedError("gone"))
    assert actors.wait(PATIENCE) == [(call, None, True)]
    assert actor.cause().message == "its machine is gone"


def test_workers_ask_for_their_shape_and_avoid_what_is_left_out(fake: FakeRay) -> None:
    actors = RayActors()
    for shape in (Shape(4, 0), Shape(4, 0), Shape(2, 1), Shape(2, 1, 4)):
        actors.start("w", shape, avoid=("n1", "n2") if shape.gpus else ())
    assert [(o["num_cpus"], o["num_gpus"]) for o in fake.options] == [(4, 0), (2, 1), (2, 0.25)]
    assert fake.selectors == [{"ray.io/node-id": "!in(n1,n2)"}] * 2


def test_what_a_worker_raised_is_told_and_not_where_ray_was() -> None:
    trace = (
        "\x1b[36mray::Worker.load()\x1b[39m (pid=1)\n"
        '  File "x.py", line 1, in load\n    ^^^^^^^^^^^^^^^\n'
        "AttributeError: 'Classify' object has no attribute 'pairs'\n"
    )
    error = RayTaskError("Worker.load", trace, AttributeError("no"))
    told = cause(error, {}).message
    assert told == "it raised AttributeError: 'Classify' object has no attribute 'pairs'"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ActorDiedError(), "its process ended unexpectedly"),
        (OutOfMemoryError("x"), "its machine ran out of memory"),
        (NodeDiedError("gone"), "its machine is gone"),
    ],
)
def test_what_ray_knows_of_a_death_is_told(error: Exception, told: str) -> None:
    assert told in cause(error, {}).message


def test_a_machine_that_can_not_be_asked_is_not_waited_for(fake: FakeRay) -> None:
    assert "its process ended unexpectedly" in cause(ActorDiedError(), HELLO).message


@pytest.mark.parametrize(
    ("text", "kills", "told"),
    [
        (
            "*** SIGSEGV received at time=1 on cpu 0 ***\nFatal Python error: Segmentation fault\n",
            0,
            "its process crashed: Segmentation fault (SIGSEGV)",
        ),
        (
            "terminate called after throwing an instance of 'std::bad_alloc'\n"
            "  what():  std::bad_alloc\n*** SIGABRT received at\nFatal Python error: Aborted\n",
            0,
            "its process crashed: Aborted (SIGABRT): terminate called after throwing an instance of"
            " 'std::bad_alloc' what(): std::bad_alloc",
        ),
        ("a warning\n", 0, "ended without a word, as one does that is killed by signal 9"),
        ("a warning\n", 1, "killed by signal 9: its machine has no memory left"),
    ],
)
def test_what_killed_a_worker_is_read_from_its_last_words_and_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, kills: int, told: str
) -> None:
    monkeypatch.setattr(last_words, "memory_kills", lambda: kills)
    (tmp_path / "worker.err").write_text(text)
    hello = {**HELLO, "host": socket.gethostname(), "log": str(tmp_path / "worker.err")}
    assert told in cause(ActorDiedError(), hello).message
