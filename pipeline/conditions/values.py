"""The values of a condition's parts, over some rows: each row's from that row alone.

Nothing is inferred from several rows together, and what can't be computed for a row (a text that
is no number, a division by zero, an overflow) is null for that row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlglot import exp

from pipeline.conditions import types as types
from pipeline.conditions.types import Make, Operand, constant, moment
from pipeline.conditions.wording import ALLOWED, HINT, unknown, wrong
from pipeline.errors import JobError, one_line

if TYPE_CHECKING:
    import pyarrow as pa


class Values:
    """Computes the parts of a condition.

    Args:
        condition: For messages.
        table: The rows, with the columns that it looks at.
    """

    def __init__(self, condition: str, table: pa.Table) -> None:
        self.condition = condition
        self.table = table

    def of(self, node: Any) -> Operand:
        """The values of a node.

        Raises:
            JobError: A name is not there, or types do not fit.
        """
        match node:
            case exp.Paren():
                return self.of(node.this)
            case exp.Column() | exp.Dot():
                return self._column(node)
            case exp.Literal() | exp.Boolean() | exp.Null():
                return self._constant(node)
            case exp.And() | exp.Or():
                return self._chain(node)
            case exp.Is():
                return self._is(node)
            case exp.In():
                return self._in(node)
            case exp.Between():
                low = exp.GTE(this=node.this, expression=node.args["low"])
                high = exp.LTE(this=node.this, expression=node.args["high"])
                return self._made("boolean", lambda a, b: a & b, self.of(low), self.of(high))
            case exp.Like() | exp.ILike():
                return self._like(node)
            case exp.Case() | exp.If():
                return self._case(node)
            case exp.Coalesce():
                given = self._alike(node, _parts(node))
                return self._made(given[0].kind, lambda *all_: pl.coalesce(*all_), *given)
            case exp.Cast():
                return self._cast(node)
        kind = type(node)
        if kind in types.COMPARISONS:
            return self._made("boolean", types.COMPARISONS[kind], *self._alike(node, _parts(node)))
        if kind in types.ARITHMETIC:
            return self._arithmetic(node)
        if kind in types.FUNCTIONS:
            wanted, result, make = types.FUNCTIONS[kind]
            return self._made(result, make, *(self._as(wanted, node, p) for p in _parts(node)))
        raise self._wrong(f"{kind.__name__.upper()} can't be used here", ALLOWED)

    def _wrong(self, reason: str, hint: str = HINT) -> JobError:
        return wrong(self.condition, reason, hint=hint)

    def _made(self, kind: str, make: Make, *values: Operand) -> Operand:
        """A new value from others, row by row."""
        fixed = all(value.constant for value in values)
        series: list[pl.Series] = []
        given: list[pl.Expr] = []
        for value in values:
            if value.constant and not fixed:
                given.append(pl.lit(value.series[0], dtype=value.series.dtype))
            else:
                given.append(pl.col(str(len(series))))
                series.append(value.series.alias(str(len(series))))
        try:
            found = pl.DataFrame(series).select(make(*given).alias("found")).to_series()
        except pl.exceptions.PolarsError as error:
            raise self._wrong(one_line(error, most=200)) from error
        return Operand(kind, found, fixed)

    def _column(self, node: Any) -> Operand:
        names = [part.name for part in node.parts if isinstance(part, exp.Identifier)]
        if len(names) != len(node.parts):
            raise self._wrong("only names stand behind a dot", ALLOWED)
        if names[0] not in self.table.column_names:
            raise unknown(self.condition, names[0], self.table.column_names, what="column")
        try:
            series = types.series_of(self.table.column(names[0]))
        except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
            raise self._wrong(f"`{names[0]}` can't be looked at: {one_line(error)}") from error
        for at, name in enumerate(names[1:], 1):
            outer = ".".join(names[:at])
            if not isinstance(series.dtype, pl.Struct):
                kind = types.of_column(series.clear()).kind
                raise self._wrong(f"`{outer}` is a {kind} and has no field `{name}`")
            fields = [field.name for field in series.dtype.fields]
            if name not in fields:
                raise unknown(self.condition, name, fields, what=f"field of `{outer}` called")
            series = series.struct.field(name)
        return types.of_column(series)

    def _constant(self, node: Any) -> Operand:
        if isinstance(node, exp.Boolean):
            return constant(bool(node.this), "boolean", pl.Boolean())
        if isinstance(node, exp.Null):
            return constant(None, "null", pl.Null())
        if node.is_string:
            return constant(node.this, "text", pl.String())
        try:
            number = float(node.this)
        except ValueError as error:
            raise self._wrong(f"{node.this[:40]} is no number") from error
        if number > types.INT_LIMIT:
            raise self._wrong(f"{node.this[:40]} is larger than numbers can be here")
        whole = node.this.isdecimal()
        return constant(
            int(node.this) if whole else number, "number", types.INT if whole else types.DOUBLE
        )

    def _as(self, kind: str, node: Any, part: Any) -> Operand:
        """A part that must be of a kind."""
        value = self.of(part)
        if value.kind == "null":
            return value.cast(kind, types.TYPES[kind])
        if value.kind != kind:
            as_type = "DOUBLE" if kind == "number" else kind.upper()
            raise self._wrong(
                f"{_name(node)} takes a {kind}, and {_shown(part)} is a {value.kind}",
                "Compare it with something" if kind == "boolean" else f"Write CAST(… AS {as_type})",
            )
        return value

    def _alike(self, node: Any, parts: Sequence[Any]) -> list[Operand]:
        """Parts that are held against each other, in one type."""
        values = [self.of(part) for part in parts]
        kinds = {value.kind for value in values} - {"null"}
        if kinds & {*types.MOMENTS} and kinds <= {*types.MOMENTS, "text"}:
            # A text that is written there is a date beside one; that of a column is a text.
            values = [self._moment(v) if v.constant and v.kind == "text" else v for v in values]
            kinds = {value.kind for value in values} - {"null"}
        if kinds == {*types.MOMENTS}:
            kinds = {"timestamp"}
        if len(kinds) > 1:
            pairs = zip(parts, values, strict=True)
            said = ", ".join(f"{_shown(part)} is a {value.kind}" for part, value in pairs)
            raise self._wrong(
                f"{_shown(node)} can't be told, as {said[:200]}",
                "Write CAST(… AS DOUBLE), AS TEXT or AS DATE around one of them",
            )
        if not kinds:
            return [value.cast("null", pl.Boolean()) for value in values]
        (kind,) = kinds
        if kind not in types.TYPES:
            raise self._wrong(
                f"{_shown(parts[0])} is a {kind}, which can only be tested with IS NULL",
                "Compare one of its fields, if it has any",
            )
        dtype = types.number_type(values) if kind == "number" else types.TYPES[kind]
        return [value.cast(kind, dtype) for value in values]

    def _moment(self, value: Operand) -> Operand:
        text = value.series[0]
        found = None if text is None else moment(text)
        if text is not None and found is None:
            raise self._wrong(
                f"{text[:40]!r} is no date", "Write '2024-12-31' or '2024-12-31 23:59:59'"
            )
        return constant(found, "timestamp", types.MOMENT)

    def _chain(self, node: Any) -> Operand:
        """ANDs or ORs, in a loop: there may be thousands."""
        make: Make = (lambda a, b: a & b) if isinstance(node, exp.And) else (lambda a, b: a | b)
        out: Operand | None = None
        waiting = [node]
        while waiting:
            part = waiting.pop()
            if type(part) is type(node):
                waiting += [part.expression, part.this]
                continue
            value = self._as("boolean", node, part)
            out = value if out is None else self._made("boolean", make, out, value)
        assert out is not None
        return out

    def _is(self, node: Any) -> Operand:
        wanted = node.expression
        if isinstance(wanted, exp.Null):
            return self._made("boolean", lambda a: a.is_null(), self.of(node.this))
        if not isinstance(wanted, exp.Boolean):
            raise self._wrong("IS stands before NULL, TRUE or FALSE only", ALLOWED)
        holds = bool(wanted.this)
        given = self._as("boolean", node, node.this)
        return self._made("boolean", lambda a: a.eq_missing(pl.lit(holds)), given)

    def _in(self, node: Any) -> Operand:
        if not node.expressions:
            raise self._wrong("IN wants a list in brackets", "Write `language IN ('en', 'de')`")
        sought, *listed = self._alike(node, [node.this, *node.expressions])
        constants = [v.series[0] for v in listed if v.constant]
        known = pl.Series([v for v in constants if v is not None], dtype=sought.series.dtype)

        def found(a: pl.Expr) -> pl.Expr:
            inside = a.is_in(known.implode())
            # Whether it is the one that is null can't be known.
            return inside if len(known) == len(constants) else pl.when(inside).then(inside)

        out = self._made("boolean", found, sought)
        for other in (v for v in listed if not v.constant):
            out = self._made("boolean", lambda a, b, c: a | (b == c), out, sought, other)
        return out

    def _like(self, node: Any) -> Operand:
        pattern = node.expression
        if not (isinstance(pattern, exp.Literal) and pattern.is_string):
            raise self._wrong(
                f"the pattern of {_name(node)} is no text in quotes", "Write it out, or contains()"
            )
        signs = {"%": ".*", "_": "."}
        pieces = re.split("(%+|_)", pattern.this)
        body = "".join(signs.get(piece[:1], "") or pl.escape_regex(piece) for piece in pieces)
        regex = f"(?s{'i' if isinstance(node, exp.ILike) else ''})^{body}$"
        # Compiled before there is any row.
        self._made("boolean", lambda a: a.str.contains(regex), constant("", "text", pl.String()))
        wanted = not node.args.get("negate")
        text = self._as("text", node, node.this)
        return self._made("boolean", lambda a: a.str.contains(regex) == wanted, text)

    def _case(self, node: Any) -> Operand:
        plain = isinstance(node, exp.Case)
        branches = node.args["ifs"] if plain else [node]
        tests = [branch.this for branch in branches]
        if plain and node.this is not None:
            tests = [exp.EQ(this=node.this, expression=test) for test in tests]
        default = node.args.get("default" if plain else "false") or exp.null()
        *values, out = self._alike(node, [*(b.args["true"] for b in branches), default])
        # From the last to the first, each by itself: there may be thousands.
        for test, value in zip(reversed(tests), reversed(values), strict=True):
            given = (self._as("boolean", node, test), value, out)
            out = self._made(out.kind, lambda a, b, c: pl.when(a).then(b).otherwise(c), *given)
        return out

    def _cast(self, node: Any) -> Operand:
        kind, dtype = types.CASTS.get(getattr(node.to.this, "name", ""), ("", None))
        value = self.of(node.this)
        if (
            not kind
            or not types.castable(value.kind, kind)
            or value.kind not in {*types.TYPES, "null"}
        ):
            wanted = kind or node.to.sql()[:40].lower()
            raise self._wrong(
                f"{_shown(node.this)} is a {value.kind}, which can't be cast to {wanted}",
                "Cast to BIGINT, DOUBLE, TEXT, BOOLEAN, DATE or TIMESTAMP",
            )
        return value.cast(kind, dtype)

    def _arithmetic(self, node: Any) -> Operand:
        make = types.ARITHMETIC[type(node)]
        given = [self._as("number", node, part) for part in _parts(node)]
        near = self._made("number", make, *(value.cast("number", types.DOUBLE) for value in given))
        if isinstance(node, exp.Div) or any(v.series.dtype.is_float() for v in given):
            return near
        exact = self._made("number", make, *given)
        fits: Make = lambda a, b: pl.when(b.abs() < types.INT_LIMIT).then(a)  # noqa: E731
        return self._made("number", fits, exact, near)


def _parts(node: Any) -> list[Any]:
    """What a node is made of, in order."""
    found = [node.args.get(name) for name in ("this", "expression")]
    return [part for part in found if part is not None] + list(node.args.get("expressions") or [])


def _name(node: Any) -> str:
    return str(node.sql_name() if isinstance(node, exp.Func) else node.key).upper()


def _shown(node: Any) -> str:
    said = node.sql()
    return f"`{said if len(said) <= 60 else said[:60] + '…'}`"
