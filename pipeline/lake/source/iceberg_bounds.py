"""What an Iceberg table's manifests tell of the values in a data file."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.types as kinds

# What has bounds that are in the order of the values, each a value's own.
TOLD = (kinds.is_integer, kinds.is_date32, kinds.is_string, kinds.is_timestamp)


def partition_of(
    file: Any, specs: Mapping[int, Any], fields: Any, schema: pa.Schema
) -> dict[str, pa.Scalar]:
    """What all rows of a data file have in columns that it is partitioned by as they are.

    Args:
        file: As `pyiceberg` gives it.
        specs: The table's partitionings, by id.
        fields: The table's columns, as `pyiceberg` has them.
        schema: The same in Arrow.
    """
    found = {}
    for at, part in enumerate(specs[file.spec_id].fields):
        name = fields.find_column_name(part.source_id)
        if str(part.transform) == "identity" and name in schema.names:
            scalar = _scalar(file.partition[at], schema.field(name).type)
            if scalar is not None:
                found[name] = scalar
    return found


def bounds_of(files: Sequence[Any], fields: Any, schema: pa.Schema) -> tuple[pa.Table, pa.Table]:
    """Least and greatest values of columns, a row for each data file, null where none are told."""
    told = [field for field in schema if any(is_one(field.type) for is_one in TOLD)]
    ids = {field.name: fields.find_field(field.name) for field in told}
    low: dict[str, pa.Array] = {}
    high: dict[str, pa.Array] = {}
    for field in told:
        of = ids[field.name]
        low[field.name] = _array((f.lower_bounds for f in files), of, field.type)
        high[field.name] = _array((f.upper_bounds for f in files), of, field.type)
    return pa.table(low), pa.table(high)


def _array(bounds: Iterable[Mapping[int, bytes] | None], field: Any, kind: pa.DataType) -> pa.Array:
    values = [_value((bound or {}).get(field.field_id), field.field_type) for bound in bounds]
    if kinds.is_string(kind):
        return pa.array(values, kind)
    # Dates and times are told as whole numbers.
    whole = pa.int32() if kinds.is_date32(kind) else pa.int64()
    whole = kind if kinds.is_integer(kind) else whole
    return pa.array(values, whole).cast(kind)


def _value(raw: bytes | None, kind: Any) -> Any:
    """A bound; None if it is not told, or in a way that can't be followed."""
    if raw is None:
        return None
    try:
        if str(kind) == "string":
            return raw.decode("utf-8")
        # Of a column that was narrower when the file was written.
        return struct.unpack("<i" if len(raw) == 4 else "<q", raw)[0]
    except (struct.error, UnicodeDecodeError):
        return None


def _scalar(value: Any, kind: pa.DataType) -> pa.Scalar | None:
    """A partition's value; None if it is of a kind that says too little, as floats may be NaN."""
    try:
        if value is None or isinstance(value, bool | str | bytes | date | datetime | Decimal):
            return pa.scalar(value, kind)
        if isinstance(value, int) and kinds.is_date32(kind):
            return pa.scalar(date(1970, 1, 1) + timedelta(days=value), kind)
        if isinstance(value, int) and kinds.is_timestamp(kind):
            return pa.scalar(value, pa.int64()).cast(kind)
        return pa.scalar(value, kind) if isinstance(value, int) else None
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return None
