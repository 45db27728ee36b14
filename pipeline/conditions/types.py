"""What a condition's parts may be: a few kinds, whatever types the files have."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlglot import exp

if TYPE_CHECKING:
    import pyarrow as pa

Make = Callable[..., pl.Expr]
INT, FLOAT, DOUBLE, MOMENT = pl.Int128(), pl.Float32(), pl.Float64(), pl.Datetime("us")
# Integers up to it are exact; far enough below 2^127 that an error of float64 does not matter.
INT_LIMIT = 1.7e38
TYPES: dict[str, Any] = {
    "number": DOUBLE,
    "text": pl.String(),
    "boolean": pl.Boolean(),
    "date": pl.Date(),
    "timestamp": MOMENT,
}
MOMENTS = ("date", "timestamp")
CASTS: dict[str, tuple[str, Any]] = {
    **dict.fromkeys(("INT", "BIGINT", "SMALLINT", "TINYINT"), ("number", INT)),
    **dict.fromkeys(("DOUBLE", "FLOAT", "DECIMAL"), ("number", DOUBLE)),
    **dict.fromkeys(("TEXT", "VARCHAR"), ("text", pl.String())),
    **dict.fromkeys(("TIMESTAMP", "DATETIME"), ("timestamp", MOMENT)),
    "BOOLEAN": ("boolean", pl.Boolean()),
    "DATE": ("date", pl.Date()),
}
COMPARISONS: dict[type, Make] = {
    exp.EQ: lambda a, b: a == b,
    exp.NEQ: lambda a, b: a != b,
    exp.LT: lambda a, b: a < b,
    exp.LTE: lambda a, b: a <= b,
    exp.GT: lambda a, b: a > b,
    exp.GTE: lambda a, b: a >= b,
    exp.NullSafeEQ: lambda a, b: a.eq_missing(b),
    exp.NullSafeNEQ: lambda a, b: a.ne_missing(b),
}
ARITHMETIC: dict[type, Make] = {
    exp.Add: lambda a, b: a + b,
    exp.Sub: lambda a, b: a - b,
    exp.Mul: lambda a, b: a * b,
    exp.Div: lambda a, b: pl.when(b != 0).then(a / b),
    exp.Mod: lambda a, b: pl.when(b != 0).then(a % b),
}
# What is taken, what comes out, and how.
FUNCTIONS: dict[type, tuple[str, str, Make]] = {
    exp.Neg: ("number", "number", lambda a: 0 - a),
    exp.Abs: ("number", "number", lambda a: a.abs()),
    exp.Floor: ("number", "number", lambda a: a.cast(DOUBLE).floor()),
    exp.Ceil: ("number", "number", lambda a: a.cast(DOUBLE).ceil()),
    exp.Round: ("number", "number", lambda a: a.cast(DOUBLE).round()),
    exp.Not: ("boolean", "boolean", lambda a: ~a),
    exp.Lower: ("text", "text", lambda a: a.str.to_lowercase()),
    exp.Upper: ("text", "text", lambda a: a.str.to_uppercase()),
    exp.Trim: ("text", "text", lambda a: a.str.strip_chars()),
    exp.Length: ("text", "number", lambda a: a.str.len_chars().cast(INT)),
    exp.StartsWith: ("text", "boolean", lambda a, b: a.str.starts_with(b)),
    exp.EndsWith: ("text", "boolean", lambda a, b: a.str.ends_with(b)),
    exp.Contains: ("text", "boolean", lambda a, b: a.str.contains(b, literal=True)),
    exp.DPipe: ("text", "text", lambda *texts: pl.concat_str(texts)),
    exp.Concat: ("text", "text", lambda *texts: pl.concat_str(texts)),
}


@dataclass(frozen=True)
class Operand:
    """The values of a condition's part.

    Attributes:
        kind: number, text, boolean, date, timestamp, null, or what else a column may hold.
        series: One value per row; a single one if it is constant.
        constant: Whether no column has to do with it.
    """

    kind: str
    series: pl.Series
    constant: bool = False

    def cast(self, kind: str, dtype: Any) -> Operand:
        """The same in another type; null where it can't be."""
        if self.kind == "text" and kind in MOMENTS:
            found = [None if text is None else moment(text) for text in self.series]
            series = pl.Series(found, dtype=MOMENT).cast(dtype)
        else:
            series = self.series.cast(dtype, strict=False)
        return Operand(kind, series, self.constant)


def castable(value: str, kind: str) -> bool:
    """Whether values of a kind can ever be cast to another."""
    if kind == "text" or value in (kind, "null"):
        return True
    return (value, kind) in {
        ("text", "number"),
        ("boolean", "number"),
        *((given, wanted) for given in ("text", *MOMENTS) for wanted in MOMENTS),
    }


def constant(value: Any, kind: str, dtype: Any) -> Operand:
    """What is written in a condition."""
    return Operand(kind, pl.Series([value], dtype=dtype), constant=True)


def series_of(column: pa.ChunkedArray) -> pl.Series:
    """A column as polars has it."""
    found = pl.from_arrow(column)
    if not isinstance(found, pl.Series):
        raise TypeError("a column is not a series")
    return found


def of_column(series: pl.Series) -> Operand:
    """In one type for each kind, whatever the file has; times in UTC."""
    kind = series.dtype
    if kind.is_integer():
        return Operand("number", series.cast(INT))
    if kind.is_numeric():
        narrow = kind in (pl.Float16, pl.Float32)
        return Operand("number", series.cast(FLOAT if narrow else DOUBLE))
    if kind in (pl.String, pl.Categorical, pl.Enum):
        return Operand("text", series.cast(pl.String()))
    if isinstance(kind, pl.Datetime):
        if kind.time_zone is not None:
            series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return Operand("timestamp", series.cast(MOMENT))
    return Operand("null" if kind == pl.Null else type(kind).__name__.lower(), series)


def number_type(values: Sequence[Operand]) -> Any:
    """The type that numbers are compared in.

    A narrow float keeps its width beside what is written in the condition, so that a score that
    is shown as 0.7 equals 0.7.
    """
    numbers = [value for value in values if value.kind == "number"]
    if not any(value.series.dtype.is_float() for value in numbers):
        return INT
    of_columns = {str(value.series.dtype) for value in numbers if not value.constant}
    return FLOAT if of_columns == {str(FLOAT)} else DOUBLE


def moment(text: str) -> dt.datetime | None:
    """A text as a time in UTC, if it is one."""
    try:
        found = dt.datetime.fromisoformat(text.strip())
        return found.astimezone(dt.UTC).replace(tzinfo=None) if found.tzinfo else found
    except (ValueError, OverflowError):
        return None
