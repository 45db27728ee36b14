"""What the footer of a Parquet file tells of the values in its row groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.conditions.bounds import Bounds


def bounds_of(file: pq.ParquetFile, names: Sequence[str]) -> Iterator[dict[str, Bounds]]:
    """The bounds of columns, for each row group of a file.

    Args:
        file: An open file.
        names: Of columns; of those that are not plain there are no bounds.
    """
    metadata, schema = file.metadata, file.schema_arrow
    places = places_of(metadata)
    asked = [
        (name, places[name], kind)
        for name in names
        if name in places and (kind := _ordered(schema.field(name).type)) is not None
    ]
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        found = {}
        for name, place, kind in asked:
            bounds = _bounds(group.column(place).statistics, kind, rows=group.num_rows)
            if bounds is not None:
                found[name] = bounds
        yield found


def places_of(metadata: pq.FileMetaData) -> dict[str, int]:
    """Where a file's columns are, by the names of their leaves."""
    schema = metadata.schema
    return {schema.column(at).path: at for at in range(metadata.num_columns)}


def ends_of(statistics: pq.Statistics | None, *, rows: int) -> tuple[Any, Any] | None:
    """The least and the greatest value of a column that `is_ordered`, as Python has them.

    Many times cheaper than bounds, for who looks at a column of every file.

    Args:
        statistics: Of the column in a row group.
        rows: How many that has.

    Returns:
        Nones if all of them are null; None if the ends are unknown.
    """
    if statistics is None:
        return None
    try:
        if statistics.has_min_max:
            return statistics.min, statistics.max
    except (pa.ArrowException, ValueError, TypeError, OverflowError, ImportError):
        return None
    all_null = statistics.has_null_count and statistics.null_count >= rows
    return (None, None) if all_null else None


def is_ordered(kind: pa.DataType) -> bool:
    """Whether a column's ends tell what lies between them."""
    return _ordered(kind) is not None


def _ordered(kind: pa.DataType) -> pa.DataType | None:
    """The type that bounds are told in; None where they say too little: NaN is in no bounds."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    plain = (
        pa.types.is_integer, pa.types.is_string, pa.types.is_boolean, pa.types.is_date32,
        pa.types.is_timestamp,
    )  # fmt: skip
    return kind if any(is_so(kind) for is_so in plain) else None


def _bounds(statistics: pq.Statistics | None, kind: pa.DataType, *, rows: int) -> Bounds | None:
    if statistics is None:
        return None
    nulls = statistics.null_count if statistics.has_null_count else None
    low = high = pa.scalar(None, kind)
    if statistics.has_min_max:
        try:
            low, high = pa.scalar(statistics.min, kind), pa.scalar(statistics.max, kind)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            return None
    return Bounds(low, high, nulls=nulls != 0, values=nulls is None or nulls < rows)
