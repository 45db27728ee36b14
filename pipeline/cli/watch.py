"""``shardscribe status --watch``: a run, redrawn until it ends."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from pipeline.cli.display import make_bar, move_bar, status_line
from pipeline.cli.say import say, say_json
from pipeline.escape import visible
from pipeline.records.schema import ProgressLine
from pipeline.watch import View, watch_output

LOOK_EVERY = 2.0
# Lines of a screen that are not the workers'.
OTHER_LINES = 5


class Screen(Protocol):
    """Shows what can be seen of a run."""

    def show(self, view: View) -> None:
        """Takes another look."""


def watch(address: str, *, as_json: bool) -> None:
    """Shows the run that is under way until it ends, or until Ctrl-C.

    Args:
        address: Of the output.
        as_json: An object for each change, for programs.
    """
    if not as_json and sys.stdout.isatty():
        with LiveScreen() as live:
            _follow(address, live)
    else:
        _follow(address, JsonScreen() if as_json else LineScreen())


def _follow(address: str, screen: Screen) -> None:
    for view in watch_output(address, wait=lambda: time.sleep(LOOK_EVERY)):
        screen.show(view)


class LineScreen:
    """A line for each change."""

    def __init__(self) -> None:
        self._shown: Any = None

    def show(self, view: View) -> None:
        """Says what is new."""
        new = (view.run, view.line, view.told)
        if new != self._shown:
            self._shown = new
            self.say(view)

    def say(self, view: View) -> None:
        """Writes a view."""
        if view.line is not None or view.told:
            numbers = status_line(view.line.progress) if view.line is not None else ""
            age = f"as of {view.age:.0f} s ago" if view.line is not None and view.told else ""
            text = "; ".join(filter(None, (numbers, view.told, age)))
            say(f"{time.strftime('%H:%M:%S')} {view.run}{' ' if view.run else ''}{text}")


class JsonScreen(LineScreen):
    """An object for each change."""

    def say(self, view: View) -> None:
        """Writes a view."""
        line = view.line.model_dump() if view.line is not None else None
        say_json({"event": "watch", **vars(view), "line": line})


class LiveScreen:
    """The run's own bar, and what its workers have, in one place of a terminal.

    Args:
        console: Of rich; standard output by default.
    """

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = console or Console()
        self._bar = make_bar(self._console)
        self._live = Live(console=self._console, transient=True, auto_refresh=False)

    def __enter__(self) -> LiveScreen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, view: View) -> None:
        """Redraws."""
        from rich.console import Group
        from rich.text import Text

        texts = [f"run {view.run}" if view.run else view.told]
        if view.run and view.told:
            texts.append(view.told)
        parts: list[Any] = [Text(visible(text), overflow="ellipsis") for text in texts]
        if view.line is not None:
            move_bar(self._bar, view.line.progress)
            parts.append(self._bar.get_renderable())
            rows = max(0, self._console.height - OTHER_LINES - len(parts))
            lines = [*worker_lines(view.line, most=rows), f"as of {view.age:.0f} s ago"]
            parts += [
                Text(visible(text), no_wrap=True, overflow="ellipsis", style="dim")
                for text in lines
            ]
        self._live.update(Group(*parts), refresh=True)


def worker_lines(line: ProgressLine, *, most: int) -> list[str]:
    """What workers have in flight, in at most so many lines."""
    lines = []
    for has in line.in_flight:
        worker = has.worker
        for split in has.some:
            lines.append(
                f"  {worker:<12} {split.fraction:4.0%}  {split.rows:>9,} rows  {split.told}"
            )
            worker = ""
    all_of_them = max(len(lines), line.splits_in_flight)
    if len(lines) > most or all_of_them > len(lines):
        lines = lines[: max(0, most - 1)]
        lines.append(f"  and {all_of_them - len(lines):,} more splits in flight")
    return lines
