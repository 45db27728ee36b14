"""What the tasks made of some rows: their columns, what went wrong, and how the rows ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.errors import RowError
from pipeline.job.columns import ERRORS_TYPE
from pipeline.records.schema import RowCounts


@dataclass
class AnnotatedRows:
    """The annotations of some rows.

    Attributes:
        rows: How many they are.
        columns: By task, one entry per row.
        errors: What went wrong, by row and task; most rows are not in it.
        skipped: By task, whether each row was skipped.
        twice: By task in int8, whether each row was computed again in float32.
        tokens: Tokens given to models.
        padded_tokens: The same with padding.
    """

    rows: int = 0
    columns: dict[str, pa.Array] = field(default_factory=dict)
    errors: dict[int, dict[str, RowError]] = field(default_factory=dict)
    skipped: dict[str, np.ndarray] = field(default_factory=dict)
    twice: dict[str, np.ndarray] = field(default_factory=dict)
    tokens: int = 0
    padded_tokens: int = 0

    def fail(self, row: int, task: str, error: RowError) -> None:
        """Notes that a task could not annotate a row."""
        self.errors.setdefault(row, {})[task] = error

    def errors_in(self, rows: slice) -> dict[int, dict[str, RowError]]:
        """What went wrong in some of the rows, counted from the first of them, in row order."""
        found = sorted(row for row in self.errors if rows.start <= row < rows.stop)
        return {row - rows.start: self.errors[row] for row in found}

    def counts(self, rows: slice) -> tuple[RowCounts, dict[str, RowCounts]]:
        """How some of the rows ended: over all tasks, and by task."""
        total, errors = rows.stop - rows.start, self.errors_in(rows)
        bad = len(errors)
        untouched = np.logical_and.reduce([s[rows] for s in self.skipped.values()])
        skipped = int(untouched.sum()) - sum(1 for row in errors if untouched[row])
        tasks = {}
        for name, mask in self.skipped.items():
            task_bad = sum(1 for found in errors.values() if name in found)
            task_skipped = int(mask[rows].sum())
            tasks[name] = RowCounts(total, total - task_bad - task_skipped, task_bad, task_skipped)
            if name in self.twice:
                tasks[name].looked_twice = int(self.twice[name][rows].sum())
        return RowCounts(total, total - bad - skipped, bad, skipped), tasks

    def errors_column(self, rows: slice) -> pa.Array:
        """The `errors` column of some of the rows."""
        total, errors = rows.stop - rows.start, self.errors_in(rows)
        if not errors:
            return pa.nulls(total, ERRORS_TYPE)
        column: list[list[dict[str, str]] | None] = [None] * total
        for row, found in errors.items():
            column[row] = [
                {"task": task, "code": e.code, "message": e.message} for task, e in found.items()
            ]
        return pa.array(column, ERRORS_TYPE)


def annotated_table(
    table: pa.Table, schema: pa.Schema, annotated: AnnotatedRows, rows: slice
) -> pa.Table:
    """Carried columns, task columns, errors.

    Args:
        table: With the carried columns.
        schema: Of the result.
        annotated: What the tasks made of some rows.
        rows: Which of them the table's are.
    """
    count = rows.stop - rows.start
    names = set(table.column_names)
    carried = [table.column(name) for name in schema.names if name in names]
    added = [column.slice(rows.start, count) for column in annotated.columns.values()]
    return pa.Table.from_arrays([*carried, *added, annotated.errors_column(rows)], schema=schema)
