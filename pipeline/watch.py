"""A run, watched from outside by what it records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from pipeline.engine.driver.lease import Holder, holder
from pipeline.errors import JobError, ShardscribeError, one_line
from pipeline.lake.sink.base import Sink
from pipeline.lake.sink.open import open_sink
from pipeline.records.reader import RecordedRun, read_run, run_names
from pipeline.records.schema import ProgressLine

# A run takes its lease some seconds after it was called.
BEGIN_SECONDS = 10.0
# A line comes every 10 s; a store may be slow.
SILENT_SECONDS = 45.0


@dataclass(frozen=True)
class View:
    """What can be seen of a run at a moment.

    Attributes:
        run: Its id; empty while there is none.
        line: How far it was when it last said so.
        age: Seconds since then, as far as can be told.
        told: What else to know, such as that it may have died.
        ended: There is no more to come.
    """

    run: str
    line: ProgressLine | None = None
    age: float = 0.0
    told: str = ""
    ended: bool = False


def watch_output(
    address: str,
    *,
    wait: Callable[[], None],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[View]:
    """Looks at the run that is under way, again and again until it ends; waits for the first.

    Args:
        address: Of the output.
        wait: Called between two looks.
        clock: Monotonic seconds.

    Raises:
        JobError: The address makes no sense, or nothing can be read there.
    """
    watcher = _Watcher(open_sink(address), clock)
    while True:
        view = watcher.look()
        yield view
        if view.ended:
            return
        wait()


class _Watcher:
    def __init__(self, sink: Sink, clock: Callable[[], float]) -> None:
        self._output = sink.address
        self._own = sink.own
        self._clock = clock
        self._began = clock()
        self._answered = False
        self._run = ""
        self._seen: ProgressLine | None = None
        self._changed = clock()

    def look(self) -> View:
        """What can be seen now."""
        try:
            # The lease first: who gives it up has written the summary before.
            held = holder(self._own)
            if not self._run and (view := self._find(held)) is not None:
                return view
            lives = held.lives if held is not None and held.run == self._run else False
        except (OSError, ShardscribeError) as error:
            told = f"can't be looked at: {one_line(error, most=200)}"
            if not self._answered:  # rather a wrong address than a store that is away for a while
                raise JobError(f"{self._own.root} {told}", hint="Check its permissions") from error
            return self._view(self._seen, told)
        return self._judge(read_run(self._own, self._run, lives=lives))

    def _find(self, held: Holder | None) -> View | None:
        """Finds the run to watch, or says what is waited for."""
        self._answered = True
        if held is not None and held.lives is not False:
            self._run = held.run
            return None
        names = run_names(self._own)
        if not names:
            return View("", told=f"{self._output} has no run yet; waiting for one to begin")
        if self._clock() - self._began < BEGIN_SECONDS:
            return View("", told=f"no run is under way; {BEGIN_SECONDS:.0f} s for one to begin")
        self._run = names[0]
        return None

    def _judge(self, found: RecordedRun) -> View:
        line = found.progress or self._seen
        if found.said is not None:
            return self._view(line, "", ended=True)
        if found.lives is False:
            nothing = line is None and not found.problem
            why = "nothing was to be done, or it was refused" if nothing else "it has died"
            return self._view(line, f"ended without a summary: {why}", ended=True)
        if line is None:
            return self._view(None, found.problem or "is looking at input and output")
        view = self._view(line, found.problem)
        if found.lives is None:
            return replace(view, told="may have died: its lease has run out")
        if view.age > SILENT_SECONDS and not found.problem:
            return replace(view, told="is silent, though its lease is kept: it may stand still")
        return view

    def _view(self, line: ProgressLine | None, told: str, *, ended: bool = False) -> View:
        now = self._clock()
        if line is not None and line != self._seen:
            # Of a line that was there before it is only known when it was written, by that clock.
            self._changed = now - (_age(line) if self._seen is None else 0.0)
            self._seen = line
        return View(self._run, line, now - self._changed if line else 0.0, told, ended)


def _age(line: ProgressLine) -> float:
    try:
        return max(0.0, time.time() - datetime.fromisoformat(line.time).timestamp())
    except (ValueError, OverflowError, OSError):
        return 0.0
