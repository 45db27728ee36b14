"""What a process died of, for people: its last words, and what the kernel of its machine says."""

from __future__ import annotations

import re
import textwrap
from contextlib import suppress
from pathlib import Path

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
