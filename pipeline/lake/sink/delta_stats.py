"""Statistics of a data file as a Delta table's log has them, by which readers pass files over."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

# Longer texts tell little, and are written down for each file.
LONGEST_TEXT = 64
TELLING = (kinds.is_signed_integer, kinds.is_date32, kinds.is_string)


def statistics(metadata: pq.FileMetaData, schema: pa.Schema) -> str:
    """The rows of a file, and least and greatest values of columns of integers, dates and texts.

    Args:
        metadata: Of the file.
        schema: Its columns.
    """
    found: dict[str, Any] = {
        "numRecords": metadata.num_rows, "minValues": {}, "maxValues": {}, "nullCount": {},
    }  # fmt: skip
    telling = {field.name for field in schema if _tells(field.type)}
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    for at in range(metadata.num_columns if groups else 0):
        name = groups[0].column(at).path_in_schema
        if name in telling:
            try:
                _add(found, name, [group.column(at).statistics for group in groups])
            except (UnicodeDecodeError, TypeError, ValueError):
                continue  # a text that is none
    return json.dumps(found)


def _tells(kind: pa.DataType) -> bool:
    return any(is_one(kind) for is_one in TELLING)


def _add(found: dict[str, Any], name: str, groups: list[Any]) -> None:
    if not all(group is not None and group.has_null_count for group in groups):
        return
    values = [group for group in groups if group.has_min_max]
    least, most = [group.min for group in values], [group.max for group in values]
    found["nullCount"][name] = sum(group.null_count for group in groups)
    all_null = [group for group in groups if not group.num_values]
    if not values or len(values) + len(all_null) < len(groups):
        return
    low, high = _said(min(least)), _said(max(most))
    if low is not None and high is not None:
        found["minValues"][name], found["maxValues"][name] = low, high


def _said(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        return value if len(value) <= LONGEST_TEXT else None
    return value if isinstance(value, int) else None
