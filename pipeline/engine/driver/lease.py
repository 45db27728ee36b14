"""One run at a time on an output: a lease file, renewed while the run lives.

The lease is a courtesy: it keeps a second run from doing the same work. What keeps the output
right, even without it, is that every commit is create-only, and the marks of its owner.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipeline.errors import Interrupted, OutputBusy, ShardscribeError
from pipeline.lake.store.base import Store
from pipeline.lake.store.process import is_alive, is_gone, token

SECONDS = 60.0
LOOK_EVERY = 2.0
SAY_EVERY = 30.0
DAY = 24 * 3600.0
# Clocks differ by less. What has expired for so long is over; what has not may be renewed by a
# machine whose clock is behind, and is watched for longer than a renewal takes.
SKEW = 600.0
WATCH = SECONDS / 2
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
        self._watched: tuple[bytes, float] | None = None
        self._looking = threading.Lock()
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
            if not self._wait and self._watched is None:
                raise busy
            if time.monotonic() - said >= SAY_EVERY:
                said = time.monotonic()
                self._notice(f"waiting: {busy.message}")
            if self._stop():
                raise Interrupted("interrupted while waiting for another run")
            time.sleep(LOOK_EVERY)
        self._taken = True

    def refuse_loss(self) -> None:
        """Looks now whether the lease is still this run's, as a short run would not notice else.

        Raises:
            OutputBusy: Another run has taken it.
        """
        with suppress(OSError, ShardscribeError):
            self._look()
        if self.lost is not None:
            raise self.lost

    def __enter__(self) -> Lease:
        if not self._taken:
            self.take()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(OSError, ShardscribeError):
            if _parsed(self.store.read(PATH) or b"").get("run") == self.run:
                self.store.delete(PATH)

    def _take(self) -> OutputBusy | None:
        for _ in range(3):  # another run may create, end or be given up between two looks
            content = self._content()
            if self.store.create(PATH, content):
                return None
            raw = self.store.read(PATH)
            if raw is None:
                continue
            held = _parsed(raw)
            if not self._is_over(raw, held):
                return self._busy(held)
            if self.store.swap(PATH, raw, content):
                return None
        return OutputBusy("another run is taking the output at this moment", hint="Try again")

    def _is_over(self, raw: bytes, held: dict[str, Any]) -> bool:
        """Whether nobody will renew a lease: by its process, by the clock, or by watching it."""
        watched, self._watched = self._watched, None
        lives = _lives(held)
        if lives is not None:
            return not lives
        if watched is None or watched[0] != raw:
            watched = (raw, time.monotonic())
        self._watched = watched
        return time.monotonic() - watched[1] > WATCH

    def _keep(self) -> None:
        """Renews the lease; a run that finds it taken over stops."""
        while self.lost is None and not self._ended.wait(self._seconds / 3):
            # A store that is away for a moment is no reason to stop: the next look decides.
            with suppress(OSError, ShardscribeError):
                self._look()

    def _look(self) -> None:
        with self._looking:
            content = self._content()
            raw = self.store.read(PATH)
            held = _parsed(raw or b"")
            if held.get("run", self.run) != self.run:
                self.lost = self._busy(held)
            elif raw is None:
                self.store.create(PATH, content)
            else:
                self.store.swap(PATH, raw, content)

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

    def _busy(self, held: dict[str, Any]) -> OutputBusy:
        return OutputBusy(
            f"run {held.get('run')} on {held.get('host')} (process {held.get('pid')}) holds the "
            f"output {self._output}",
            hint="Let it end, or add --wait",
        )


@dataclass(frozen=True)
class Holder:
    """Who holds an output.

    Attributes:
        run: The run's id.
        lives: Whether it still runs; None if its lease has run out and nothing else is known.
    """

    run: str
    lives: bool | None


def holder(store: Store) -> Holder | None:
    """Who holds an output, as far as one look tells; None if nobody does.

    Args:
        store: Where the lease is.

    Raises:
        OSError: It can't be read.
        JobError: The store does not answer.
    """
    held = _parsed(store.read(PATH) or b"")
    return Holder(str(held["run"]), _lives(held)) if "run" in held else None


def _lives(held: dict[str, Any]) -> bool | None:
    """Whether a lease will be renewed, by its process and by the clock; None if that is open."""
    with suppress(KeyError, TypeError, ValueError):  # it makes no sense; its holder mends it
        expires, pid = float(held["expires"]), int(held["pid"])
        host, process = str(held.get("host")), str(held.get("process"))
        if is_alive(host, pid, process):
            return True
        late = time.time() - expires
        if is_gone(host, pid, process) or late > SKEW or late < -DAY:
            return False
        if late < 0:
            return True
    return None


def _parsed(raw: bytes) -> dict[str, Any]:
    """What a lease file says; nothing if it makes no sense."""
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
