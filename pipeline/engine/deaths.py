"""What a worker died of, for people: from its last words, its machine and what Ray knows."""

from __future__ import annotations

import re
import socket
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.errors import WorkerLost

LOOK_SECONDS = 10.0
TAIL_BYTES = 64 * 1024
MEMORY = "Look for memory: a model and torch must fit beside each other there"
CODE = "Not the machine is at fault but the model, or shardscribe"
SIGNAL = re.compile(r"\*\*\* (SIG[A-Z]+) received")
FATAL = re.compile(r"^Fatal Python error: (.*)$", re.MULTILINE)
THROWN = re.compile(r"^(?:terminate called .*|\s*what\(\): .*)$", re.MULTILINE)


def memory_kills() -> int:
    """Processes of this machine that the kernel has killed for want of memory."""
    with suppress(OSError):
        found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


def last_words(log: str) -> tuple[str, int]:
    """What a dead process of this machine left.

    Args:
        log: Where its standard error went.

    Returns:
        What it crashed with, empty if it does not say; and `memory_kills` of now.
    """
    text = ""
    with suppress(OSError), Path(log).open("rb") as stream:
        stream.seek(max(0, Path(log).stat().st_size - TAIL_BYTES))
        text = stream.read().decode(errors="replace")
    fatal, signal = FATAL.search(text), SIGNAL.search(text)
    if fatal is None and signal is None:
        return "", memory_kills()
    words = fatal[1] if fatal else "it crashed"
    if signal:
        words += f" ({signal[1]})"
    if thrown := " ".join(" ".join(THROWN.findall(text)).split()):
        words += f": {thrown}"
    return textwrap.shorten(words, 300), memory_kills()


def cause(error: Exception, hello: Mapping[str, Any]) -> WorkerLost:
    """What a dead actor died of.

    Args:
        error: What Ray raised.
        hello: What the worker said when it was placed; empty if it never was.
    """
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError

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
    if not hello:
        return WorkerLost(f"its process ended unexpectedly ({said})", hint=MEMORY)
    looked = _look(hello)
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


def node_of(handle: Any) -> str:
    """Where an actor is or was that never said so; empty if Ray does not know."""
    with suppress(Exception):  # no public call tells this without a dashboard
        from ray._private.state import actors

        return str(actors(handle._actor_id.hex())["Address"]["NodeID"])
    return ""


def _look(hello: Mapping[str, Any]) -> tuple[str, int] | None:
    """Reads the last words, on the worker's machine; None if it does not answer."""
    if hello["host"] == socket.gethostname() and Path(hello["log"]).exists():
        return last_words(hello["log"])
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not ray.is_initialized():
        return None
    there = NodeAffinitySchedulingStrategy(hello["node"], soft=False)
    ask = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(last_words)
    try:
        found: tuple[str, int] = ray.get(ask.remote(hello["log"]), timeout=LOOK_SECONDS)
    except ray.exceptions.RayError:
        return None
    return found
