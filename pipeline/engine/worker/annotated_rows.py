"""What the tasks made of some rows: their columns, what went wrong, and how the rows ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.errors import RowError
from pipeline.records.schema import RowCounts

ERRORS_TYPE = pa.list_(
    pa.struct([("task", pa.string()), ("code", pa.string()), ("message", pa.string())])
)


@dataclass
class AnnotatedRows:
    """The annotations of some rows.

    Attributes:
        columns: By task, one entry per row.
        errors: By row, what went wrong, by task.
        skipped: By task, whether each row was skipped.
        tokens: Tokens given to models.
        padded_tokens: The same with padding.
    """

    columns: dict[str, pa.Array] = field(default_factory=dict)
    errors: list[dict[str, RowError]] = field(default_factory=list)
    skipped: dict[str, np.ndarray] = field(default_factory=dict)
    tokens: int = 0
    padded_tokens: int = 0

    def counts(self, rows: slice) -> tuple[RowCounts, dict[str, RowCounts]]:
        """How some of the rows ended: over all tasks, and by task."""
        errors = self.errors[rows]
        total = len(errors)
        bad = sum(1 for found in errors if found)
        untouched = np.logical_and.reduce([s[rows] for s in self.skipped.values()])
        skipped = sum(1 for at in np.flatnonzero(untouched) if not errors[at])
        tasks = {}
        for name, mask in self.skipped.items():
            task_bad = sum(1 for found in errors if name in found)
            task_skipped = int(mask[rows].sum())
            tasks[name] = RowCounts(total, total - task_bad - task_skipped, task_bad, task_skipped)
        return RowCounts(total, total - bad - skipped, bad, skipped), tasks

    def errors_column(self, rows: slice) -> pa.Array:
        """The `errors` column of some of the rows."""
        errors = self.errors[rows]
        if not any(errors):
            return pa.nulls(len(errors), ERRORS_TYPE)
        return pa.array(
            [
                [{"task": task, "code": e.code, "message": e.message} for task, e in found.items()]
                if found
                else None
                for found in errors
            ],
            ERRORS_TYPE,
        )


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
    carried = table.select([f.name for f in schema if f.name in table.column_names])
    added = [column.slice(rows.start, count) for column in annotated.columns.values()]
    return pa.Table.from_arrays(
        [*carried.columns, *added, annotated.errors_column(rows)], schema=schema
    )
