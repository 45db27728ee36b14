"""Getting a Ray cluster: connecting to one that is there, or starting Ray on this machine."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pipeline.engine.driver.placement import shape_of
from pipeline.errors import Interrupted, RunError, one_line
from pipeline.job.compute import Compute

# Ray's own store; what passes through it here is results.
RAY_STORE_BYTES = 128 * 1024 * 1024
CONNECT_SECONDS = 10.0
# A driver whose head is gone is ended by Ray after 60 s, without a word and with all that it held.
HEAD_SECONDS = 40.0
KNOCK_EVERY = 2.0
ASK = "/ray.rpc.NodeInfoGcsService/GetClusterId"
# Set while Ray is imported. Its handler of fatal signals takes SIGTERM for one.
NO_SIGNAL_HANDLER = "RAY_DISABLE_FAILURE_SIGNAL_HANDLER"


class Cluster:
    """A Ray cluster that this process is connected to.

    Args:
        address: How it is told of.
        head: Host and port at which its head answers; None if nothing is known of it.
        clock: Monotonic seconds.

    Attributes:
        lost: Why it is of no use any more.
    """

    def __init__(
        self,
        address: str,
        head: tuple[str, int] | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self.lost: RunError | None = None
        self._head = head
        self._clock = clock
        self._answered = clock()
        self._nodes: dict[str, dict[str, float]] = {}

    def nodes(self) -> dict[str, dict[str, float]]:
        """The resources of each living node, by its id; as last known while the head is away."""
        import ray

        if self.answers():  # Ray would wait for an answer, till it is ended
            living = [node for node in ray.nodes() if node["Alive"]]
            self._nodes = {node["NodeID"]: node["Resources"] for node in living}
        return self._nodes

    def answers(self) -> bool:
        """Whether Ray may be asked something, as far as can be known."""
        return self.lost is None and (self._head is None or self.knock())

    def knock(self) -> bool:
        """Looks whether the head answers, and gives the cluster up if it has not for long."""
        try:
            assert self._head is not None
            socket.create_connection(self._head, timeout=KNOCK_EVERY).close()
        except OSError:
            away = self._clock() - self._answered
            if away > HEAD_SECONDS:
                self.lost = RunError(
                    f"the head of the Ray cluster at {self.address} has not answered for "
                    f"{away:.0f} s",
                    hint="Start it again, and run the same command",
                )
            return False
        self._answered = self._clock()
        return True

    @contextmanager
    def watched(self) -> Iterator[Cluster]:
        """Looks for its head from time to time, for as long as the block runs."""
        ended = threading.Event()

        def watch() -> None:
            while self.lost is None and not ended.wait(KNOCK_EVERY):
                self.knock()

        if self._head is None or not self.knock():
            self._head = None
            yield self
            return
        thread = threading.Thread(target=watch, name="head", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()


# Ray connects a process once; so its head is watched once, whoever asks inside.
_open: list[Cluster] = []


@contextmanager
def ray_cluster(address: str | None) -> Iterator[Cluster]:
    """Connects to Ray, or starts it on this machine for as long as the block runs.

    Inside such a block it gives the same again.

    Raises:
        RunError: There is no cluster at the address, or it lets nobody in.
        Interrupted: A signal came while Ray started.
    """
    if _open:
        yield _open[0]
        return
    with _connected_to(address) as cluster, cluster.watched():
        _open.append(cluster)
        try:
            yield cluster
        finally:
            _open.clear()


@contextmanager
def _connected_to(address: str | None) -> Iterator[Cluster]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = _import_ray()
    address = address or os.environ.get("RAY_ADDRESS") or None
    if ray.is_initialized():
        yield Cluster(address or "this machine", _head(address))
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": RAY_STORE_BYTES,
        }
    else:
        options["address"] = address
    try:
        if address is not None:
            _knock(address)
        _init(options)
    except Exception as error:  # a node that starts too slowly raises no class of its own
        with suppress(Exception):
            ray.shutdown()
        if isinstance(error, RunError):
            raise
        raise _refused(address, error) from error
    cluster = Cluster(address or "this machine", _head(address))
    try:
        yield cluster
    finally:
        # It would wait for a head that is gone, and then end the process. Whether it is gone, this
        # watch may not have noticed yet.
        if cluster.answers():
            ray.shutdown()


def _import_ray() -> Any:
    """Imports Ray so that SIGTERM stays ours, here and not in the processes that it starts."""
    asked = os.environ.setdefault(NO_SIGNAL_HANDLER, "1")
    import ray

    if asked == "1":
        os.environ.pop(NO_SIGNAL_HANDLER, None)
    return ray


def _refused(address: str | None, error: Exception) -> RunError:
    """What to say of a cluster that can't be had."""
    from ray.exceptions import AuthenticationError

    reason = one_line(error)
    wrong = isinstance(error, ConnectionError) and address is not None and _wants_token(address)
    if wrong or isinstance(error, AuthenticationError):
        return RunError(
            f"the Ray cluster at {address} lets nobody in without its token: {reason}",
            hint="Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH",
        )
    if address is None:
        return RunError(
            f"Ray can't be started on this machine: {reason}",
            hint="Free memory and disk space, or use a cluster that is there with --address",
        )
    return RunError(
        f"no Ray cluster at {address}: {reason}",
        hint="Start one with `ray start --head`, or leave out --address to use this machine",
    )


def _wants_token(address: str) -> bool:
    """Whether a head refuses whoever shows no token; Ray says only that it can't connect."""
    import grpc

    with grpc.insecure_channel(address.rpartition("://")[2]) as channel:
        try:
            channel.unary_unary(ASK)(b"", timeout=CONNECT_SECONDS)
        except grpc.RpcError as error:
            return isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNAUTHENTICATED
    return False


def _head(address: str | None) -> tuple[str, int] | None:
    """Where the head of the connected cluster answers, as seen from here."""
    import ray

    if address is not None and address.startswith("ray://"):
        return None  # what the cluster calls its head is no address here
    try:
        host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
        return host.strip("[]"), int(port)
    except (RuntimeError, ValueError, AttributeError):
        return None


@contextmanager
def cluster_device(compute: Compute, address: str | None) -> Iterator[str]:
    """What `compute.device` becomes where the dtype, and so the fingerprint, depends on it.

    On this machine that is known without Ray. Of a cluster its nodes say; the connection is kept
    for the run.

    Yields:
        The device; empty where nobody needs to be asked.
    """
    elsewhere = address or os.environ.get("RAY_ADDRESS") or _connected()
    if compute.device != "auto" or compute.dtype != "auto" or not elsewhere:
        yield ""
        return
    with ray_cluster(address) as cluster:
        yield shape_of(compute, list(cluster.nodes().values())).device


def _connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _init(options: Mapping[str, Any]) -> None:
    """Starts or connects to Ray, which puts its own handler for SIGTERM in the place of ours.

    That one ends the process; ours knows how to drain. Connecting in another thread would spare
    it, but the processes that Ray starts end with the thread that started them.

    Raises:
        Interrupted: A signal came that Ray's handler took, or that made it fail.
    """
    import ray

    if threading.current_thread() is not threading.main_thread():
        ray.init(**options)
        return
    ours = signal.getsignal(signal.SIGTERM)
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    # Whoever handles a signal, its number is written there first.
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        ray.init(**options)
    except (Exception, SystemExit) as error:
        with suppress(BlockingIOError):
            if {signal.SIGTERM, signal.SIGINT} & set(os.read(reading, 100)):
                raise Interrupted("interrupted while Ray started") from error
        if isinstance(error, SystemExit):
            raise RunError(f"Ray ended while it started: {error}") from error
        raise
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGTERM, ours)
        os.close(reading)
        os.close(writing)


def _knock(address: str) -> None:
    """Ray tries an address that nobody answers for many minutes; one look tells as much."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
