"""Annotated rows as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.escape import visible

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_WIDTH = 240


def short(text: str, width: int = TEXT_WIDTH) -> str:
    """A text on one line, cut to a width, with what steers a terminal spelled out."""
    line = " ".join(text[: 4 * width].split())
    return visible(line if len(line) <= width else line[: width - 1] + "…")


def brief(value: Any) -> str:
    """An annotation in a few words, whatever its type; each line of it is ours."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        known = _known(value)
        if known is not None:
            return known
        return ", ".join(f"{short(str(key))}: {brief(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if not value:
            return "none"
        return "\n".join(brief(item) for item in value[:6]) + ("\n…" if len(value) > 6 else "")
    return short(str(value))


def _known(value: Mapping[str, Any]) -> str | None:
    """What our own tasks make; an input's column may be a struct with some of these names."""
    match value:
        case {"task": task, "code": _, "message": message}:
            return short(f"{task}: {message}")
        case {"label": label, "text": text, "start": int(start), "end": int(end)}:
            return f"{short(str(label))} '{short(str(text))}' [{start}:{end}]"
        case {"label": label, "score": float(score), "scores": _}:
            return f"{short(str(label))} {score:.3f}"
        case {"text": text, "truncated": truncated}:
            return short(str(text)) + (" (truncated)" if truncated else "")
        case {"text": text, "spans": _}:
            return short(str(text))
        case {"text": text, "start": _, "end": _, "score": _}:
            return short(str(text))
    return None


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """A table as Python values, also where a text is not UTF-8 or a date has no year of ours."""
    try:
        return table.to_pylist()  # type: ignore[no-any-return]
    except (ValueError, OverflowError, ArithmeticError):
        pass
    columns = [[_value(cell) for cell in table.column(at)] for at in range(table.num_columns)]
    names = table.column_names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _value(cell: Any) -> Any:
    try:
        return cell.as_py()
    except (ValueError, OverflowError, ArithmeticError):
        pass
    try:
        return bytes(cell.as_buffer()).decode("utf-8", "backslashreplace")
    except (AttributeError, TypeError):
        return f"<{cell.type} that can't be shown>"


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
        table.add_column(_plain(visible(name)), overflow="fold")
    for row in rows:
        table.add_row(*(_plain(brief(row.get(name))) for name in columns))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)
