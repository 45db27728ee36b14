"""What the footer of a Parquet file tells of each of its columns as a whole, as Python has it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import one_line
from pipeline.lake.source.statistics import ends_of, is_ordered, places_of
from pipeline.lake.store.base import Entry, Readable


@dataclass(frozen=True)
class Outline:
    """What a footer tells.

    Attributes:
        rows: How many there are.
        groups: How many row groups.
        schema: Of the file.
        nulls: How many each column has; None where that is not told.
        bounds: The least and the greatest value of a column, None where there is none; None for
            both where they are not told.
    """

    rows: int
    groups: int
    schema: pa.Schema
    nulls: dict[str, int | None]
    bounds: dict[str, tuple[Any, Any] | None]


@dataclass(frozen=True)
class ColumnPlaces:
    """Where columns are, and whether they are ordered: the same in most files of a place."""

    schema: pa.Schema
    columns: list[tuple[str, int | None, bool]]

    @classmethod
    def of(cls, metadata: pq.FileMetaData, schema: pa.Schema) -> ColumnPlaces:
        """That of a file."""
        places = places_of(metadata)
        return cls(schema, [(f.name, places.get(f.name), is_ordered(f.type)) for f in schema])


def outline(store: Readable, entry: Entry, places: list[ColumnPlaces]) -> Outline | str:
    """What a file's footer tells; why it can't be read otherwise.

    Args:
        store: Where the file is.
        entry: The file.
        places: That of a file before it, if there was one; then this one's.
    """
    try:
        with closing(pq.ParquetFile(store.open(entry.path))) as file:
            metadata, schema = file.metadata, file.schema_arrow
        place = places[-1] if places else None
        if place is None or not place.schema.equals(schema):
            place = ColumnPlaces.of(metadata, schema)
            places[:] = [place]
        nulls = {name: 0 if at is not None else None for name, at, _ in place.columns}
        bounds: dict[str, tuple[Any, Any] | None] = {}
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            rows = group.num_rows
            for name, at, ordered in place.columns:
                told = None if at is None else group.column(at).statistics
                before = nulls[name]
                if before is not None:
                    more = told.null_count if told is not None and told.has_null_count else None
                    nulls[name] = None if more is None else before + more
                ends = ends_of(told, rows=rows) if ordered else None
                bounds[name] = wider(bounds[name], ends) if name in bounds else ends
        return Outline(metadata.num_rows, metadata.num_row_groups, schema, nulls, bounds)
    except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError) as error:
        return one_line(error, most=120)


def wider(one: tuple[Any, Any] | None, other: tuple[Any, Any] | None) -> tuple[Any, Any] | None:
    """The bounds of what has two bounds; None where they can't be told."""
    if one is None or other is None:
        return None
    (low, high), (lower, higher) = one, other
    try:
        return (
            low if lower is None else lower if low is None else min(low, lower),
            high if higher is None else higher if high is None else max(high, higher),
        )
    except TypeError:
        return None
