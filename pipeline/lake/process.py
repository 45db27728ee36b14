"""Who wrote a file: a process of a machine, told apart from a later one of the same number."""

from __future__ import annotations

import socket
from pathlib import Path


def token(pid: int) -> str:
    """A process's boot and start time, in a word; empty if there is no such process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return ""  # dead, though nobody has asked for its exit code yet
    started = fields[19]
    return f"{boot[:8]}.{started}"


def is_gone(host: str, pid: int, was: str) -> bool:
    """Whether a process is known to be dead; of another machine's nothing is known."""
    return host == socket.gethostname() and token(pid) != was
