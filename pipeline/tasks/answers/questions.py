"""What is asked of each text: one question for all, or each its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import JobError, RowError

PLACE = "{question}"  # where the question goes in an instruction


class Questions:
    """What is asked of each text.

    Args:
        fixed: The same question for all.
        column: Or the column that holds each text's own.
    """

    def __init__(self, fixed: str | None, column: str | None) -> None:
        self.fixed = fixed
        self.column = column

    def of(self, texts: Sequence[str]) -> tuple[list[str], dict[int, RowError]]:
        """The question of each text, empty where there is none, and why by row."""
        if self.fixed is not None:
            return [self.fixed] * len(texts), {}
        assert self.column is not None
        return of_column(texts, self.column, what="question", code="no_question")


def of_column(
    texts: Sequence[str], column: str, *, what: str, code: str
) -> tuple[list[str], dict[int, RowError]]:
    """What stands beside each text in a column, empty where nothing does, and why by row.

    Raises:
        JobError: The texts come without the column.
    """
    columns: Mapping[str, Sequence[Any]] = getattr(texts, "columns", {})
    if column not in columns:
        raise JobError(f"the texts come without the column {column} of {what}s")
    found = []
    missing: dict[int, RowError] = {}
    for row, value in enumerate(columns[column]):
        if isinstance(value, str) and value.strip():
            found.append(value)
            continue
        found.append("")
        missing[row] = RowError(f"there is no {what} in the column {column}", code=code)
    return found, missing
