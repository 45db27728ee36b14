"""One run at a time on an output: a lease file, renewed while the run lives.

The lease is a courtesy: it keeps a second run from doing the same work. What keeps the output
right, even without it, is that every commit is create-only.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from pipeline.errors import Interrupted, OutputBusy, ShardscribeError
from pipeline.lake.process import is_gone, token
from pipeline.lake.store import Store

SECONDS = 60.0
LOOK_EVERY = 2.0
SAY_EVERY = 30.0
DAY = 24 * 3600.0
PATH = "lease.json"


class Lease:
    """Holds an output for as long as the block runs.

    Args:
        store: Where the lease is.
        run: The run's id.
        output: What is held, for messages.
        wait: Wait for another run to end instead of raising.
        notice: Told every 30 s what is waited for.
        stop: Not 0 when the waiting should end.
        seconds: How long the lease is good for without being renewed.

    Raises:
        OutputBusy: On entering: another run holds the output.
        Interrupted: On entering: `stop` said so.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        *,
        output: str = "",
        wait: bool = False,
        notice: Callable[[str], None] = lambda text: None,
        stop: Callable[[], int] = lambda: 0,
        seconds: float = SECONDS,
    ) -> None:
        self.store = store
        self.run = run
        self._output = output or store.root
        self.lost: OutputBusy | None = None
        self._wait = wait
        self._notice = notice
        self._stop = stop
        self._seconds = seconds
        self._taken = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def take(self) -> None:
        """Takes the lease, or waits for it.

        Raises:
            OutputBusy: Another run holds the output.
            Interrupted: `stop` said so.
            OSError: The output can't be written.
        """
        said = float("-inf")
        while True:
            busy = self._take()
            if busy is None:
                break
            if not self._wait:
                raise busy
            if time.monotonic() - said >= SAY_EVERY:
                said = time.monotonic()
                self._notice(f"waiting: {busy.message}")
            if self._stop():
                raise Interrupted("interrupted while waiting for another run")
            time.sleep(LOOK_EVERY)
        self._taken = True

    def __enter__(self) -> Lease:
        if not self._taken:
            self.take()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(OSError, ShardscribeError):
            if (self._read() or {}).get("run") == self.run:
                self.store.delete(PATH)

    def _take(self) -> OutputBusy | None:
        for _ in range(3):  # another run may create, end or be given up between two looks
            if self.store.create(PATH, self._content()):
                return None
            held = self._read()
            if held is not None and not _is_over(held):
                return self._busy(held)
            if held is not None or self.store.read(PATH) is not None:
                self.store.delete(PATH)
        return OutputBusy("another run is taking the output at this moment", mend="Try again")

    def _keep(self) -> None:
        """Renews the lease; a run that finds it taken over stops."""
        while not self._ended.wait(self._seconds / 3):
            # A store that is away for a moment is no reason to stop: the next look decides.
            with suppress(OSError, ShardscribeError):
                held = self._read()
                if held is None and self.store.create(PATH, self._content()):
                    continue
                if held is None or held.get("run") == self.run:
                    self.store.put(PATH, self._content())
                else:
                    self.lost = self._busy(held)
                    return

    def _content(self) -> bytes:
        return json.dumps(
            {
                "run": self.run,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "process": token(os.getpid()),
                "expires": time.time() + self._seconds,
            }
        ).encode()

    def _read(self) -> dict[str, Any] | None:
        raw = self.store.read(PATH)
        if raw is None:
            return None
        try:
            found = json.loads(raw)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def _busy(self, held: dict[str, Any]) -> OutputBusy:
        return OutputBusy(
            f"run {held.get('run')} on {held.get('host')} (process {held.get('pid')}) holds the "
            f"output {self._output}",
            mend="Let it end, or add --wait",
        )


def _is_over(held: dict[str, Any]) -> bool:
    """Whether a lease has expired, or was left by a process of this machine that is gone."""
    try:
        expires, pid = float(held["expires"]), int(held["pid"])
    except (KeyError, TypeError, ValueError):
        return True  # not written by us, or damaged: nobody will ever renew it
    if not 0 <= expires - time.time() < DAY:  # also a clock that was far ahead
        return True
    return is_gone(str(held.get("host")), pid, str(held.get("process")))
