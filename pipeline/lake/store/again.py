"""Asking a store again that could not answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Conflict(OSError):
    """The store asks to try again."""


def again(call: Callable[[], T], *, tries: int, seconds: float, pauses: tuple[float, float]) -> T:
    """Calls until there is an answer, with pauses that double.

    Args:
        call: What to call; raises obstore's `GenericError`, or `Conflict`, to be called again.
        tries: How often at most.
        seconds: For how long at most.
        pauses: The first and the longest.
    """
    from obstore.exceptions import GenericError

    until = time.monotonic() + seconds
    for number in range(tries):
        pause = min(pauses[0] * 2**number, pauses[1])
        try:
            return call()
        except (GenericError, Conflict):
            if number + 1 == tries or time.monotonic() + pause > until:
                raise
        time.sleep(pause)
    raise AssertionError("there is at least one try")
