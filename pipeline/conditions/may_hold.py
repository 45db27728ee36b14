"""Whether a condition can hold for rows of which only some columns are known."""

from __future__ import annotations

from functools import reduce
from operator import and_, or_
from typing import TYPE_CHECKING, Any

import numpy as np

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
        # What is neither true nor false is told where rows are held against it.
        return found.kind not in ("boolean", "null") or bool(found.series[0])
    match node:
        case exp.Paren():
            return _may(node.this, values, known)
        case exp.And():
            return all(_may(part, values, known) for part in node.flatten())
        case exp.Or():
            return any(_may(part, values, known) for part in node.flatten())
    return True


def may_hold_between(condition: str, low: pa.Table, high: pa.Table) -> np.ndarray:
    """Whether a condition can hold for rows of which only the least and greatest values are known.

    Args:
        condition: SQL.
        low: One row for each lot of rows, with the least values of some columns, null where they
            are not known.
        high: The greatest values, likewise.

    Returns:
        For each lot, False if it holds for none of its rows.

    Raises:
        JobError: It can't be followed over these columns.
    """
    from pipeline.conditions.values import Values

    ends = (Values(condition, low), Values(condition, high))
    return _between(parse(condition).root, ends, {*low.column_names}, low.num_rows)


def _between(node: Any, ends: tuple[Any, Any], known: set[str], lots: int) -> np.ndarray:
    from sqlglot import exp

    turned = {exp.GT: exp.LT, exp.GTE: exp.LTE, exp.LT: exp.GT, exp.LTE: exp.GTE, exp.EQ: exp.EQ}
    low, high = ends
    match node:
        case exp.Paren():
            return _between(node.this, ends, known, lots)
        case exp.And() | exp.Or():
            parts = [_between(part, ends, known, lots) for part in node.flatten()]
            return reduce(and_ if isinstance(node, exp.And) else or_, parts)
        case exp.Between():
            above = exp.GTE(this=node.this, expression=node.args["low"])
            below = exp.LTE(this=node.this, expression=node.args["high"])
            return _between(exp.And(this=above, expression=below), ends, known, lots)
        case exp.In() if node.expressions:
            same = [exp.EQ(this=node.this, expression=value) for value in node.expressions]
            return reduce(or_, [_between(one, ends, known, lots) for one in same])
        case exp.GT() | exp.GTE() | exp.LT() | exp.LTE() | exp.EQ():
            kind: Any = type(node)
            column, other = node.this, node.expression
            if isinstance(other, exp.Column):
                kind, column, other = turned[kind], other, column
            if not _is_known(column, known) or other.find(exp.Column):
                return np.ones(lots, bool)
            found = np.ones(lots, bool)
            if kind in (exp.GT, exp.GTE, exp.EQ):
                at_most = exp.GTE if kind is exp.EQ else kind
                found &= _not_false(high.of(at_most(this=column, expression=other)))
            if kind in (exp.LT, exp.LTE, exp.EQ):
                at_least = exp.LTE if kind is exp.EQ else kind
                found &= _not_false(low.of(at_least(this=column, expression=other)))
            return found
    return np.ones(lots, bool)


def _is_known(node: Any, known: set[str]) -> bool:
    from sqlglot import exp

    return isinstance(node, exp.Column) and len(node.parts) == 1 and node.name in known


def _not_false(found: Any) -> np.ndarray:
    """Where a comparison holds, or can't be told for want of a value."""
    return np.asarray(found.series.fill_null(True).to_numpy(), bool)
