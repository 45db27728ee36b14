"""Getting a Ray cluster: signals while it starts, why it can't be had, a head that is gone."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest
import ray
from helpers import PATIENCE, wait_for
from ray.exceptions import AuthenticationError

from pipeline.engine.driver import cluster as clusters
from pipeline.engine.driver.cluster import HEAD_SECONDS, Cluster, ray_cluster
from pipeline.errors import Interrupted, RunError

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def start(monkeypatch: pytest.MonkeyPatch, init: Callable[..., Any], address: Any = None) -> None:
    monkeypatch.setattr(ray, "init", init)
    with ray_cluster(address):
        raise AssertionError("Ray did not start")


def end_with(how: BaseException) -> Callable[..., Any]:
    """Starts as Ray does: its own handler first, which ends the process; then SIGTERM comes."""

    def on_signal(*_: object) -> NoReturn:
        raise how

    def init(**_: Any) -> None:
        signal.signal(signal.SIGTERM, on_signal)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal did not come")

    return init


@pytest.mark.parametrize("how", [SystemExit(15), RuntimeError("the raylet is gone")])
def test_sigterm_while_ray_starts_interrupts_the_run(
    monkeypatch: pytest.MonkeyPatch, how: BaseException
) -> None:
    seen: list[int] = []

    def ours(number: int, frame: Any) -> None:
        seen.append(number)

    signal.signal(signal.SIGTERM, ours)
    with pytest.raises(Interrupted, match="interrupted while Ray started"):
        start(monkeypatch, end_with(how))
    assert signal.getsignal(signal.SIGTERM) is ours
    os.kill(os.getpid(), signal.SIGTERM)
    wait_for(lambda: seen == [signal.SIGTERM])


def failing(error: BaseException) -> Callable[..., Any]:
    def init(**_: Any) -> None:
        raise error

    return init


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node timed out during startup."),
        SystemExit(1),
        OSError(28, "No space left on device"),
        ConnectionError("no"),
        ray.exceptions.RaySystemError("no"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_ray_that_does_not_start_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    with pytest.raises(RunError) as caught:
        start(monkeypatch, failing(error))
    assert not isinstance(caught.value, Interrupted)
    assert "Ray" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cluster_that_wants_a_token_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        address = f"127.0.0.1:{there.getsockname()[1]}"
        with pytest.raises(RunError, match="without its token") as caught:
            start(monkeypatch, failing(AuthenticationError("no token")), address)
    assert "RAY_AUTH_TOKEN" in caught.value.hint
    assert address in caught.value.message


@pytest.mark.parametrize("wants", [True, False])
def test_a_wrong_token_is_told_from_a_head_that_does_not_work(
    monkeypatch: pytest.MonkeyPatch, wants: bool
) -> None:
    """Ray raises the same for both."""

    class Head(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            def answer(request: bytes, context: Any) -> bytes:
                assert details.method == clusters.ASK
                if wants:
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Head()])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        said = "without its token" if wants else f"no Ray cluster at {address}"
        with pytest.raises(RunError, match=said):
            start(monkeypatch, failing(ConnectionError("Failed to connect")), address)
    finally:
        server.stop(None).wait()


def test_an_address_that_nobody_answers_is_told_without_asking_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(RunError, match=f"no Ray cluster at {address}"):
            start(monkeypatch, failing(AssertionError("asked")), address)


def test_a_head_that_does_not_answer_for_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    asked: list[int] = []

    def nodes() -> list[dict[str, Any]]:
        asked.append(1)
        return [
            {"NodeID": "a", "Alive": True, "Resources": {"CPU": 2.0}},
            {"NodeID": "b", "Alive": False, "Resources": {}},
        ]

    monkeypatch.setattr(ray, "nodes", nodes)
    with socket.create_server(("127.0.0.1", 0)) as head:
        cluster = Cluster("there", head.getsockname()[:2], clock=lambda: now[0])
        assert cluster.nodes() == {"a": {"CPU": 2.0}}
        now[0] += 1000
        assert cluster.knock(), "it was not asked for long, and answers"
    now[0] += HEAD_SECONDS
    assert cluster.nodes() == {"a": {"CPU": 2.0}}, "as it was; Ray would wait for the head"
    assert len(asked) == 1
    assert cluster.lost is None
    now[0] += 1
    assert not cluster.knock()
    assert "the head of the Ray cluster at there has not answered for 41 s" in str(cluster.lost)


def test_a_head_is_watched_while_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "KNOCK_EVERY", 0.02)
    monkeypatch.setattr(clusters, "HEAD_SECONDS", 0.1)
    head = socket.create_server(("127.0.0.1", 0))
    with Cluster("there", head.getsockname()[:2]).watched() as cluster:
        head.close()
        wait_for(lambda: cluster.lost is not None)


@pytest.mark.parametrize("dies", [True, False])
def test_ray_is_not_asked_to_end_what_a_head_that_is_gone_would_have_to_end(
    monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    """Not even where the watch has not noticed: the head died a moment ago."""
    ended: list[bool] = []
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    monkeypatch.setattr(clusters, "KNOCK_EVERY", PATIENCE)
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        monkeypatch.setattr(clusters, "_head", lambda _: head.getsockname())
        with ray_cluster(address) as cluster:
            if dies:
                head.close()
        assert cluster.lost is None
    assert ended == [True] * (not dies)


def test_a_head_is_watched_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the device is asked of before the run begins is what the run works with."""
    started: list[int] = []
    monkeypatch.setattr(ray, "init", lambda **_: started.append(1))
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        monkeypatch.setattr(clusters, "_head", lambda _: head.getsockname())
        with ray_cluster(address) as outer, ray_cluster(address) as inner:
            assert inner is outer
            assert [thread.name for thread in threading.enumerate()].count("head") == 1
        assert not any(thread.name == "head" for thread in threading.enumerate())
        with ray_cluster(address) as later:
            assert later is not outer
    assert started == [1, 1]


def test_a_head_that_never_answered_here_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a gateway."""
    node = {"NodeID": "a", "Alive": True, "Resources": {"CPU": 2.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with Cluster("there", closed.getsockname()).watched() as cluster:
            assert not any(thread.name == "head" for thread in threading.enumerate())
            assert cluster.nodes() == {"a": {"CPU": 2.0}}
        assert cluster.lost is None


def test_sigterm_stays_ours_here_and_ray_keeps_its_handler_in_other_processes() -> None:
    code = (
        "import os\n"
        "from pipeline.engine.driver.cluster import NO_SIGNAL_HANDLER, _import_ray\n"
        "ray = _import_ray()\n"
        "from ray._private import ray_constants\n"
        "print(ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER, NO_SIGNAL_HANDLER in os.environ)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=PATIENCE,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "True False", done.stderr
