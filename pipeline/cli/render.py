"""Annotated rows as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TEXT_WIDTH = 240


def short(text: str, width: int = TEXT_WIDTH) -> str:
    """A text on one line, cut to a width."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def brief(value: Any) -> str:
    """An annotation in a few words, whatever its type."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        if "label" in value and "start" not in value:
            return f"{value['label']} {value['score']:.3f}"
        if "text" in value and "label" not in value:
            note = " (truncated)" if value.get("truncated") else ""
            return short(str(value["text"])) + note
        if "code" in value:
            return f"{value['task']}: {value['message']}"
        if "label" in value:
            return f"{value['label']} {value['text']!r} [{value['start']}:{value['end']}]"
        return ", ".join(f"{key}: {brief(item)}" for key, item in value.items())
    if isinstance(value, str):
        return short(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Sequence):
        if not value:
            return "none"
        return "\n".join(brief(item) for item in value[:6]) + ("\n…" if len(value) > 6 else "")
    return str(value)


def print_rows(rows: Iterable[Mapping[str, Any]], *, columns: Sequence[str]) -> None:
    """Prints a table of rows.

    Args:
        rows: From `pyarrow.Table.to_pylist`.
        columns: Which to show, in this order.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=True)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_plain(brief(row.get(name))) for name in columns))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)
