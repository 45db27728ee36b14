"""Small files on their way to a store, in a thread of its own: whoever sends waits for nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pipeline.errors import one_line

# A store that is away for so long that more wait has lost the oldest of them.
MOST = 64


class Outbox:
    """Puts files in the order in which they were sent; of one name, only the latest.

    Args:
        put: Writes a file, whole or not at all.
        notice: Told once if that fails. The file is then passed over.
    """

    def __init__(self, put: Callable[[str, bytes], None], notice: Callable[[str], None]) -> None:
        self._put = put
        self._notice = notice
        self._waiting: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._putting = False
        self._closing = False
        self._told = False

    def send(self, name: str, content: bytes) -> None:
        """Takes a file."""
        with self._changed:
            self._waiting[name] = content
            lost = len(self._waiting) > MOST
            if lost:
                del self._waiting[next(iter(self._waiting))]
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="record", daemon=True)
                self._thread.start()
            self._changed.notify()
        if lost:
            self._tell("the store does not keep up")

    @property
    def busy(self) -> bool:
        """Whether there is a file that is not put yet."""
        with self._changed:
            return bool(self._waiting) or self._putting

    def close(self) -> None:
        """Waits until all are put; of a store that refuses one now, only the last is asked of."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._putting = False
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                name = next(iter(self._waiting))
                content = self._waiting.pop(name)
                self._putting = True
            try:
                self._put(name, content)
            except Exception as error:  # whatever it is, it is no reason to stop a run
                self._tell(one_line(error, most=300))
                with self._changed:
                    if self._closing:
                        self._waiting = dict(list(self._waiting.items())[-1:])

    def _tell(self, why: str) -> None:
        if not self._told:
            self._told = True
            self._notice(why)
