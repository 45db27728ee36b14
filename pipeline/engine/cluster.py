"""Getting a Ray cluster: connecting to one that is there, or starting Ray on this machine."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.engine.placement import shape_of
from pipeline.errors import RunError, one_line
from pipeline.job import Compute

# Ray's own store; what passes through it here is receipts.
RAY_STORE_BYTES = 128 * 1024 * 1024
CONNECT_SECONDS = 10.0


@contextmanager
def ray_cluster(address: str | None) -> Iterator[Callable[[], list[dict[str, float]]]]:
    """Connects to Ray, or starts it on this machine for as long as the block runs.

    Yields:
        A function that gives the resources of each living node.

    Raises:
        RunError: There is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    def nodes() -> list[dict[str, float]]:
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    if ray.is_initialized():
        yield nodes
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = address or os.environ.get("RAY_ADDRESS") or None
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
    except (OSError, ValueError, RuntimeError) as error:
        reason = one_line(error)
        raise RunError(
            f"no Ray cluster at {address or 'this machine'}: {reason}",
            mend="Start one with `ray start --head`, or leave out --address to use this machine",
        ) from error
    try:
        yield nodes
    finally:
        ray.shutdown()


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
    with ray_cluster(address) as nodes:
        yield shape_of(compute, nodes()).device


def _connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _init(options: Mapping[str, Any]) -> None:
    """Ray puts its own handler for SIGTERM in the place of ours, which knows how to drain.

    Connecting in another thread would spare it, but the processes that Ray starts end with the
    thread that started them.
    """
    import ray

    ours = signal.getsignal(signal.SIGTERM)
    ray.init(**options)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ours)


def _knock(address: str) -> None:
    """Ray tries an address that nobody answers for many minutes; one look tells as much."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
