"""The type that holds all values of two types, each as it was."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.types as kinds

MOST_DIGITS, MOST_DIGITS_256 = 38, 76
SIGNED = (pa.int8(), pa.int16(), pa.int32(), pa.int64())
UNSIGNED = (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
FLOATS = (pa.float16(), pa.float32(), pa.float64())
UNITS = ("s", "ms", "us", "ns")
Test = Callable[[pa.DataType], bool]
TEXT: tuple[Test, ...] = (kinds.is_string, kinds.is_large_string, kinds.is_string_view)
BINARY: tuple[Test, ...] = (kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view)
LIST: tuple[Test, ...] = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list)


def promoted(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The narrowest type for both; None if there is none that keeps every value as it is.

    Args:
        one: A type.
        other: Another one.
    """
    if one.equals(other) or kinds.is_null(other):
        return one
    if kinds.is_null(one):
        return other
    if isinstance(one, pa.BaseExtensionType) or isinstance(other, pa.BaseExtensionType):
        return None
    if kinds.is_dictionary(one):
        return promoted(one.value_type, other)
    if kinds.is_dictionary(other):
        return promoted(one, other.value_type)
    for rule in (_number, _decimal, _time, _text, _list, _struct, _map):
        found = rule(one, other)
        if found is not None:
            return found
    return None


def _both(one: pa.DataType, other: pa.DataType, *tests: Test) -> bool:
    return any(test(one) for test in tests) and any(test(other) for test in tests)


def _number(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    for family in (SIGNED, UNSIGNED, FLOATS):
        if one in family and other in family:
            return max(one, other, key=family.index)
    for signed, unsigned in ((one, other), (other, one)):
        if signed in SIGNED and unsigned in UNSIGNED[:3]:
            return SIGNED[max(SIGNED.index(signed), UNSIGNED.index(unsigned) + 1)]
    return None


def _decimal(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not _both(one, other, kinds.is_decimal):
        return None
    scale = max(one.scale, other.scale)
    digits = max(one.precision - one.scale, other.precision - other.scale) + scale
    if digits > MOST_DIGITS_256:
        return None
    wide = digits > MOST_DIGITS or _any(one, other, kinds.is_decimal256)
    return pa.decimal256(digits, scale) if wide else pa.decimal128(digits, scale)


def _time(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The finer unit; what it can't hold, as a year 3000 in nanoseconds, fails its file."""
    if not _both(one, other, kinds.is_timestamp) or one.tz != other.tz:
        return None
    return pa.timestamp(max(one.unit, other.unit, key=UNITS.index), one.tz)


def _any(one: pa.DataType, other: pa.DataType, test: Test) -> bool:
    return test(one) or test(other)


def _text(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if _both(one, other, *TEXT):
        return pa.large_string() if _any(one, other, kinds.is_large_string) else pa.string()
    if _both(one, other, *BINARY):
        return pa.large_binary() if _any(one, other, kinds.is_large_binary) else pa.binary()
    return None


def _list(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not _both(one, other, *LIST):
        return None
    item = _field(one.value_field, other.value_field)
    if item is None:
        return None
    if kinds.is_fixed_size_list(one) and kinds.is_fixed_size_list(other):
        if one.list_size == other.list_size:
            return pa.list_(item, one.list_size)
    elif _any(one, other, kinds.is_large_list):
        return pa.large_list(item)
    return pa.list_(item)


def _struct(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not _both(one, other, kinds.is_struct):
        return None
    found = unified([pa.schema(list(one)), pa.schema(list(other))])
    return None if isinstance(found, str) else pa.struct(list(found))


def _map(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not _both(one, other, kinds.is_map):
        return None
    key, item = promoted(one.key_type, other.key_type), _field(one.item_field, other.item_field)
    return None if key is None or item is None else pa.map_(key, item)


def _field(one: pa.Field, other: pa.Field) -> pa.Field | None:
    kind = promoted(one.type, other.type)
    if kind is None:
        return None
    return one.with_type(kind).with_nullable(one.nullable or other.nullable)


def unified(schemas: list[pa.Schema]) -> pa.Schema | str:
    """The columns of all schemas, by name, in the order in which they come.

    Args:
        schemas: At least one; a name stands once in each.

    Returns:
        The schema, or the name of the first column that has no type.
    """
    found: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            known = found.get(field.name)
            both = field if known is None else _field(known, field)
            if both is None:
                return str(field.name)
            found[field.name] = both
    for name, field in found.items():
        if any(name not in schema.names for schema in schemas):
            found[name] = field.with_nullable(True)
    return pa.schema(list(found.values()))
