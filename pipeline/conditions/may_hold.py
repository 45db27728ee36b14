"""Whether a condition can hold for rows of which only some columns are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.conditions.condition import parse

if TYPE_CHECKING:
    import pyarrow as pa


def may_hold(condition: str, constants: pa.Table) -> bool:
    """Whether a row can be among those that a condition holds for.

    Args:
        condition: SQL.
        constants: One row, with the columns that are the same for all the rows in question.

    Returns:
        False if it holds for none, whatever the other columns are.

    Raises:
        JobError: It can't be followed over these columns.
    """
    # Not at the top: it needs polars.
    from pipeline.conditions.values import Values

    known = {*constants.column_names}
    if not known:
        return True
    return _may(parse(condition).root, Values(condition, constants), known)


def _may(node: Any, values: Any, known: set[str]) -> bool:
    from sqlglot import exp

    names = {column.parts[0].name for column in node.find_all(exp.Column)}
    if names <= known:
        found = values.of(node)
        return found.kind in ("boolean", "null") and bool(found.series[0])
    match node:
        case exp.Paren():
            return _may(node.this, values, known)
        case exp.And():
            return all(_may(part, values, known) for part in node.flatten())
        case exp.Or():
            return any(_may(part, values, known) for part in node.flatten())
    return True
