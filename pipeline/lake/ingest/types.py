"""Column types of rows that name none: found by reading all of them, before the first is written.

A type is widened as rows ask for it: nothing to anything, integers to floats, objects by their
keys. Where two can't be one (a number and a text), the one that was there first stays.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.types as types

# Of Parquet an object without keys has to have one.
NO_KEYS = pa.struct([pa.field("_", pa.string())])


def widened(
    known: pa.Schema, found: pa.Schema, other: Callable[[pa.DataType, pa.DataType], pa.DataType]
) -> pa.Schema:
    """One schema for the rows of two, by name, columns in the order in which they came.

    Args:
        known: The first; its metadata stays.
        found: The second.
        other: Says what it is to be where two types can't be one.
    """
    if found.equals(known) or not found.names:
        return known
    fields = _fields(list(known), list(found), other)
    return pa.schema(fields, metadata=known.metadata or found.metadata)


def first(known: pa.DataType, _: pa.DataType) -> pa.DataType:
    """The one that was there first stays."""
    return known


def _fields(
    known: list[pa.Field],
    found: list[pa.Field],
    other: Callable[[pa.DataType, pa.DataType], pa.DataType],
) -> list[pa.Field]:
    by_name = {field.name: field for field in known}
    for field in found:
        there = by_name.get(field.name)
        by_name[field.name] = (
            field if there is None else there.with_type(_wide(there.type, field.type, other))
        )
    return list(by_name.values())


def _wide(
    known: pa.DataType,
    found: pa.DataType,
    other: Callable[[pa.DataType, pa.DataType], pa.DataType],
) -> pa.DataType:
    if known.equals(found):
        return known
    if types.is_struct(known) and types.is_struct(found):
        return pa.struct(_fields(list(known), list(found), other))
    if types.is_list(known) and types.is_list(found):
        return pa.list_(_wide(known.value_type, found.value_type, other))
    try:
        both = [pa.schema([("", kind)]) for kind in (known, found)]
        return pa.unify_schemas(both, promote_options="permissive").field(0).type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return other(known, found)


def as_text(schema: pa.Schema) -> pa.Schema:
    """What of text was taken for a time stays the text that it is."""
    return pa.schema([field.with_type(_replaced(field.type, _no_times)) for field in schema])


def settled(schema: pa.Schema) -> pa.Schema:
    """With a type for columns of which no row had a value, and for objects without keys."""
    fields = [field.with_type(_replaced(field.type, _no_nothing)) for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def has_floats(kind: pa.DataType) -> bool:
    """Whether there are floats in it."""
    inner = [kind.field(at).type for at in range(kind.num_fields)]
    return types.is_floating(kind) or any(map(has_floats, inner))


def _no_times(kind: pa.DataType) -> pa.DataType:
    return pa.string() if types.is_temporal(kind) else kind


def _no_nothing(kind: pa.DataType) -> pa.DataType:
    if types.is_struct(kind) and not kind.num_fields:
        return NO_KEYS
    return pa.string() if types.is_null(kind) else kind


def _replaced(kind: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    if types.is_struct(kind) and kind.num_fields:
        return pa.struct([field.with_type(_replaced(field.type, leaf)) for field in kind])
    if types.is_list(kind):
        return pa.list_(_replaced(kind.value_type, leaf))
    return leaf(kind)
