"""Whether a condition can hold for rows of which only this is known: some columns' bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.conditions.condition import parse

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Bounds:
    """What is known of a column of some rows.

    Attributes:
        low: No value is smaller; null if nothing is known.
        high: No value is larger; null if nothing is known.
        nulls: Whether a row may have none.
        values: Whether a row may have one.
    """

    low: pa.Scalar
    high: pa.Scalar
    nulls: bool = True
    values: bool = True

    @classmethod
    def exactly(cls, value: pa.Scalar) -> Bounds:
        """Of a column that is the same for all rows."""
        return cls(value, value, nulls=not value.is_valid, values=value.is_valid)

    @property
    def constant(self) -> bool:
        """Whether all rows have the same."""
        return not self.values or (
            self.low.is_valid and not self.nulls and self.low.equals(self.high)
        )


def may_hold_within(condition: str, known: Mapping[str, Bounds]) -> bool:
    """Whether a row can be among those that a condition holds for.

    Args:
        condition: SQL.
        known: What is known of columns.

    Returns:
        False if it holds for none, whatever the other columns are.

    Raises:
        JobError: It can't be followed over these columns.
    """
    parsed = parse(condition)
    known = {name: known[name] for name in parsed.names if name in known}
    return not known or _Reading(condition, known).may(parsed.root)


class _Reading:
    def __init__(self, condition: str, known: Mapping[str, Bounds]) -> None:
        import pyarrow as pa

        # Not at the top: it needs polars.
        from pipeline.conditions.values import Values

        self.known = known
        self.constants = {name for name, bounds in known.items() if bounds.constant}
        self.lows, self.highs = (
            Values(condition, pa.table({n: pa.array([b[n].as_py()], b[n].type) for n in b}))
            for b in ({n: k.low for n, k in known.items()}, {n: k.high for n, k in known.items()})
        )

    def may(self, node: Any) -> bool:
        """Whether a part can be true."""
        from sqlglot import exp

        if self._is_constant(node):
            return _true(self.lows, node)
        match node:
            case exp.Paren():
                return self.may(node.this)
            case exp.And():
                return all(self.may(part) for part in node.flatten())
            case exp.Or():
                return any(self.may(part) for part in node.flatten())
            case exp.Between():
                low, high = node.args["low"], node.args["high"]
                return self._compared(exp.GTE, node.this, low) and self._compared(
                    exp.LTE, node.this, high
                )
            case exp.In():
                return any(self._compared(exp.EQ, node.this, part) for part in node.expressions)
            case exp.EQ() | exp.LT() | exp.LTE() | exp.GT() | exp.GTE():
                return self._compared(type(node), node.this, node.expression)
            case exp.Is(expression=exp.Null()):
                bounds = self._bounds(node.this)
                return bounds is None or bounds.nulls
            case exp.Not(this=exp.Is(expression=exp.Null())):
                bounds = self._bounds(node.this.this)
                return bounds is None or bounds.values
        return True

    def _is_constant(self, node: Any) -> bool:
        from sqlglot import exp

        names = {column.parts[0].name for column in node.find_all(exp.Column)}
        return names <= self.constants

    def _bounds(self, node: Any) -> Bounds | None:
        from sqlglot import exp

        plain = isinstance(node, exp.Column) and len(node.parts) == 1
        return self.known.get(node.parts[0].name) if plain else None

    def _compared(self, kind: Any, left: Any, right: Any) -> bool:
        """Whether a column can stand in this relation to something that is the same for all."""
        from sqlglot import exp

        turned = {exp.LT: exp.GT, exp.LTE: exp.GTE, exp.GT: exp.LT, exp.GTE: exp.LTE}
        if self._bounds(left) is None or self._is_constant(left):
            left, right, kind = right, left, turned.get(kind, kind)
        bounds = self._bounds(left)
        if bounds is None or not self._is_constant(right):
            return True
        if not bounds.values:
            return False
        if not (bounds.low.is_valid and bounds.high.is_valid):
            return True
        if kind is exp.EQ:
            return _true(self.lows, exp.LTE(this=left, expression=right)) and _true(
                self.highs, exp.GTE(this=left, expression=right)
            )
        side = self.lows if kind in (exp.LT, exp.LTE) else self.highs
        return _true(side, kind(this=left, expression=right))


def _true(values: Any, node: Any) -> bool:
    found = values.of(node)
    # What is neither true nor false is told where rows are held against it.
    return found.kind not in ("boolean", "null") or bool(found.series[0])
