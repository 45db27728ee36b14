"""What a person or a program sees of a run: a bar on a terminal, lines elsewhere, or JSON."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from pipeline.cli.say import say, say_json
from pipeline.escape import visible
from pipeline.lake.store.own import own_address
from pipeline.records.schema import ANNOTATING, Progress, Summary

LINE_EVERY = 30.0


def make_display(log_format: str) -> PlainDisplay:
    """The display for a format: ``auto``, ``plain`` or ``json``."""
    if log_format == "json":
        return JsonDisplay()
    if log_format == "auto" and sys.stderr.isatty():
        return BarDisplay()
    return PlainDisplay()


def duration(seconds: float | None) -> str:
    """Seconds as ``h:mm:ss``."""
    if seconds is None or not math.isfinite(seconds):
        return "-:--:--"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def count(number: float) -> str:
    """A number in at most five characters: 950, 12.3k, 1.6M."""
    for limit, divisor, unit in ((1e3, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M")):
        if number < limit:
            return f"{number / divisor:.1f}{unit}" if unit else f"{number:.0f}"
    return f"{number / 1e9:.1f}G"


def status_line(progress: Progress) -> str:
    """Progress in one line of text."""
    if not progress.seconds:
        return progress.phase
    failed = f", {progress.splits_failed} failed" if progress.splits_failed else ""
    then = f"ETA {duration(progress.eta)}" if progress.phase == ANNOTATING else progress.phase
    return (
        f"{progress.fraction:4.0%}  splits {progress.splits_done}/{progress.splits}{failed}  "
        f"{progress.rows:,} rows  {count(progress.rows_per_second)} rows/s  "
        f"{count(progress.tokens_per_second)} tokens/s  "
        f"{progress.workers} worker{'s' if progress.workers != 1 else ''}  "
        f"{then}"
    )


def make_bar(console: Any) -> Any:
    """A bar on a console of rich, for `move_bar`."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    bar = RichProgress(
        BarColumn(bar_width=24),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
    )
    bar.add_task("starting", total=1.0)
    return bar


def move_bar(bar: Any, progress: Progress) -> None:
    """Shows how far a run is."""
    bar.update(
        bar.tasks[0].id, completed=progress.fraction, description=visible(status_line(progress))
    )


class PlainDisplay:
    """A line when something happens, and one every 30 s."""

    def __init__(self) -> None:
        self._last = float("-inf")
        self._phase = ""

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def notice(self, text: str) -> None:
        """A line on standard error."""
        say(f"{time.strftime('%H:%M:%S')} {text}", err=True)

    def progress(self, progress: Progress) -> None:
        """A line at each new phase, then every 30 s."""
        now = time.monotonic()
        if progress.phase != self._phase or now - self._last >= LINE_EVERY:
            self._phase, self._last = progress.phase, now
            text = status_line(progress) if progress.seconds > 1 else progress.phase
            say(f"{time.strftime('%H:%M:%S')} {text}", err=True)

    def summary(self, summary: Summary, *, command: str) -> None:
        """The end of the run, in a few lines that add up."""
        for line in summary_lines(summary, command=command):
            say(line)


class BarDisplay(PlainDisplay):
    """A progress bar that stays at the bottom of the terminal."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bar = make_bar(self._console)

    def __enter__(self) -> BarDisplay:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def notice(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(visible(text), markup=False, highlight=False)

    def progress(self, progress: Progress) -> None:
        """Moves the bar."""
        move_bar(self._bar, progress)


class JsonDisplay(PlainDisplay):
    """One JSON object per line on standard output."""

    def _write(self, kind: str, **fields: Any) -> None:
        say_json({"time": round(time.time(), 3), "event": kind, **fields})

    def notice(self, text: str) -> None:
        """An event of its own."""
        self._write("notice", text=text)

    def progress(self, progress: Progress) -> None:
        """An event at each new phase, then every 30 s."""
        now = time.monotonic()
        if progress.phase != self._phase or now - self._last >= LINE_EVERY:
            self._phase, self._last = progress.phase, now
            self._write("progress", **vars(progress))

    def summary(self, summary: Summary, *, command: str) -> None:
        """The whole summary."""
        self._write("summary", **summary.model_dump(mode="json"))


def summary_lines(summary: Summary, *, command: str) -> list[str]:
    """The end of a run for people; every line's numbers add up."""
    splits, rows = summary.splits, summary.rows
    lines = [f"{summary.job}: {summary.state} in {duration(summary.seconds)}"]
    if summary.error:
        lines.append(f"  {summary.error}")
    lines.append(
        f"  splits  {splits.total:,} = {splits.done:,} done now + {splits.done_before:,} before"
        f" + {splits.failed:,} failed + {splits.left:,} left"
    )
    if rows.rows:
        lines.append(
            f"  rows    {rows.rows:,} = {rows.annotated:,} annotated + {rows.bad:,} bad"
            f" + {rows.skipped:,} skipped (null or blank text)"
        )
        for name, task in summary.tasks.items():
            if task.looked_twice:
                lines.append(
                    f"          {name}: in int8; {task.looked_twice:,} rows near a tie again in "
                    f"float32 ({task.looked_twice / max(1, task.rows):.1%})"
                )
            if task.bad or task.skipped != rows.skipped:
                lines.append(
                    f"          {name}: {task.annotated:,} annotated, {task.bad:,} bad,"
                    f" {task.skipped:,} skipped"
                )
        lines.append(
            f"  speed   {summary.rows_per_second:,.1f} rows/s, "
            f"{count(summary.tokens_per_second)} tokens/s over "
            f"{duration(summary.annotate_seconds)} on {summary.workers} {summary.device} "
            f"worker{'s' if summary.workers != 1 else ''}; device busy "
            f"{summary.device_share:.0%}, padding {summary.padding_share:.1%}"
        )
    lines += [f"  lost    {told}" for told in summary.deaths[:3]]
    if len(summary.deaths) > 3:
        lines.append("          and more in the record")
    for failed in summary.failed_splits[:10]:
        lines.append(f"  failed  {failed.told}: {failed.reason}")
    if len(summary.failed_splits) > 10:
        lines.append(f"          and {len(summary.failed_splits) - 10} more in the record")
    lines.append(f"  output  {summary.output}")
    if summary.state != "nothing to do":
        lines.append(f"  record  {own_address(summary.output)}/runs/{summary.run}")
    if summary.state == "limit reached":
        lines.append("  the limit is reached; the same command without --limit goes on")
    if summary.exit_code in (1, 3):
        lines.append(f"  what is committed stays; to go on: {command}")
    return lines
