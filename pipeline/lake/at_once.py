"""The same asked of many files at once, as each answer of a store takes its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = 16
# Handing one file over costs about as much as reading its footer from a local disk.
MOST_TOGETHER = 64

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def each(ask: Callable[[Asked], Answer], of: Sequence[Asked]) -> Iterator[Answer]:
    """The answers, in order.

    Args:
        ask: May be called in several threads at once.
        of: What to ask it of.
    """
    step = max(1, min(MOST_TOGETHER, len(of) // THREADS))
    parts = [of[at : at + step] for at in range(0, len(of), step)]
    with ThreadPoolExecutor(THREADS) as threads:
        for answers in threads.map(lambda part: [ask(one) for one in part], parts):
            yield from answers
