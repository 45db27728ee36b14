"""Makes the next item in another thread while the present one is used."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from queue import Queue
from typing import TypeVar

ItemT = TypeVar("ItemT")


def prefetch(items: Iterator[ItemT]) -> Generator[ItemT]:
    """Yields what an iterator yields, one item ahead.

    At most one item waits while another is made, so memory is bounded by three. When the consumer
    stops early, the iterator is closed in its own thread, after the item that it is at.
    """
    ready: Queue[tuple[ItemT | None, BaseException | None]] = Queue(maxsize=1)
    stopped = threading.Event()

    def make() -> None:
        try:
            for item in items:
                ready.put((item, None))
                if stopped.is_set():
                    return
            ready.put((None, None))
        except BaseException as error:  # raised again where the items are used
            ready.put((None, error))
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=make, name="read ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
        while thread.is_alive():
            if not ready.empty():
                ready.get_nowait()
            thread.join(timeout=0.05)
