"""Arrow types as columns of an Iceberg table, and which of them there are none for."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.types as kinds

from pipeline.lake.iceberg import FIELD_ID
from pipeline.lake.sink.output_table import NoSuchType

# What is taken as it is.
PLAIN = (
    kinds.is_boolean, kinds.is_int32, kinds.is_int64, kinds.is_float32, kinds.is_float64,
    kinds.is_date32, kinds.is_decimal128, kinds.is_fixed_size_binary,
)  # fmt: skip
NARROW = (kinds.is_int8, kinds.is_int16)
TEXTS = (kinds.is_string, kinds.is_large_string, kinds.is_string_view)
BYTES = (kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view)
LISTS = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list)
UTC = ("UTC", "+00:00", "Etc/UTC", "Z")


def table_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of a file as a table's, all of which may be null.

    Raises:
        NoSuchType: Of a column, which it names.
    """
    found = []
    for field in schema:
        if "." in field.name:
            raise NoSuchType(f"column `{field.name}`: its name holds '.'")
        if field.metadata and FIELD_ID in field.metadata:
            raise NoSuchType(f"column `{field.name}` has the number of another table's column")
        try:
            found.append(pa.field(field.name, _type(field.type)))
        except NoSuchType as error:
            raise NoSuchType(f"column `{field.name}` is {error}") from None
    return pa.schema(found)


def _type(kind: pa.DataType) -> pa.DataType:
    for alike, taken in ((TEXTS, pa.string()), (BYTES, pa.binary()), (NARROW, pa.int32())):
        if any(is_one(kind) for is_one in alike):
            return taken
    if any(is_one(kind) for is_one in PLAIN):
        return kind
    if kinds.is_time64(kind) and kind.unit == "us":
        return kind
    if kinds.is_timestamp(kind) and kind.unit != "ns" and kind.tz in (None, *UTC):
        return pa.timestamp("us", None if kind.tz is None else "UTC")
    if kinds.is_dictionary(kind):
        return _type(kind.value_type)
    if any(is_one(kind) for is_one in LISTS):
        return pa.list_(_type(kind.value_type))
    if kinds.is_map(kind):
        return pa.map_(_type(kind.key_type), _type(kind.item_type))
    if kinds.is_struct(kind) and kind.num_fields:
        return pa.struct([(field.name, _type(field.type)) for field in kind])
    raise NoSuchType(f"{kind}, which an Iceberg table can't hold")
