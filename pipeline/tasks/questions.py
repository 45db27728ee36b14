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
        columns: Mapping[str, Sequence[Any]] = getattr(texts, "columns", {})
        if self.column not in columns:
            raise JobError(f"the texts come without the column {self.column} of questions")
        asked = []
        missing: dict[int, RowError] = {}
        for row, question in enumerate(columns[self.column]):
            if isinstance(question, str) and question.strip():
                asked.append(question)
                continue
            asked.append("")
            missing[row] = RowError(
                f"there is no question in the column {self.column}", code="no_question"
            )
        return asked, missing
