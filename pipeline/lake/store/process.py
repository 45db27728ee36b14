"""Who wrote a file: a process of a machine, told apart from a later one of the same number."""

from __future__ import annotations

import os
import socket
import uuid
from functools import lru_cache
from pathlib import Path


def scratch_name() -> str:
    """A new name for an unfinished file; it can be removed when its process is dead."""
    return f"{_own_name(os.getpid())}~{uuid.uuid4().hex[:12]}.tmp"


@lru_cache(maxsize=1)
def _own_name(pid: int) -> str:
    return f"{socket.gethostname()}~{pid}~{token(pid)}"


def token(pid: int) -> str:
    """A process's boot, pid namespace and start time, in a word; empty if there is no such one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return ""  # dead, though nobody has asked for its exit code yet
    return f"{_realm()}.{fields[19]}"


def is_gone(host: str, pid: int, was: str) -> bool:
    """Whether a process is known to be dead.

    Nothing is known of another machine's, nor of one in another container of this machine, which
    may go by the same host name.
    """
    if host != socket.gethostname():
        return False
    boot, _, inner = was.partition(".")
    here, _, mine = _realm().partition(".")
    if boot != here:
        return True
    return inner.partition(".")[0] == mine and token(pid) != was


def is_alive(host: str, pid: int, was: str) -> bool:
    """Whether a process is known to live: of this machine and this container."""
    return host == socket.gethostname() and bool(was) and token(pid) == was


def _realm() -> str:
    """Within which a pid means something: the boot and the pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "unknown.0"
    return f"{boot[:8]}.{''.join(filter(str.isdigit, namespace))}"
