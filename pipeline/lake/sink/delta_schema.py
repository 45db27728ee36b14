"""Arrow types as columns of a Delta table, and which of them there are none for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.types as kinds

from pipeline.lake.delta import library
from pipeline.lake.sink.output_table import NoSuchType

# Not allowed in a column's name by the protocol, unless columns are mapped to other names.
NOT_IN_NAMES = set(" ,;{}()\n\t=")
# What is taken as it is.
PLAIN = (
    kinds.is_boolean,
    kinds.is_signed_integer,
    kinds.is_float32,
    kinds.is_float64,
    kinds.is_date32,
    kinds.is_decimal128,
)
TEXTS = (kinds.is_string, kinds.is_large_string, kinds.is_string_view)
BYTES = (kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view, kinds.is_fixed_size_binary)
LISTS = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list)


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """The columns of a file as a table's, each as its type's JSON.

    Raises:
        NoSuchType: Of a column, which it names.
    """
    found = []
    for field in schema:
        bad = sorted(NOT_IN_NAMES & set(field.name))
        if bad:
            raise NoSuchType(f"column `{field.name}`: its name holds {bad[0]!r}")
        try:
            found.append(pa.field(field.name, _type(field.type)))
        except NoSuchType as error:
            raise NoSuchType(f"column `{field.name}` is {error}") from None
    return fields_of(library().Schema.from_arrow(pa.schema(found)))


def fields_of(schema: Any) -> dict[str, str]:
    """The columns of a table, each as its type's JSON; that one may not be null is left out."""
    fields = json.loads(schema.to_json())["fields"]
    return {field["name"]: json.dumps(_bare(field["type"]), sort_keys=True) for field in fields}


def schema_of(columns: Mapping[str, str]) -> Any:
    """A table's schema of columns as `columns_of` gives them."""
    fields = [
        {"name": name, "type": json.loads(kind), "nullable": True, "metadata": {}}
        for name, kind in columns.items()
    ]
    return library().Schema.from_json(json.dumps({"type": "struct", "fields": fields}))


def told(kind: str) -> str:
    """A column's type, for people."""
    found = json.loads(kind)
    return found if isinstance(found, str) else kind


def _type(kind: pa.DataType) -> pa.DataType:
    for alike, taken in ((TEXTS, pa.string()), (BYTES, pa.binary())):
        if any(is_one(kind) for is_one in alike):
            return taken
    if any(is_one(kind) for is_one in PLAIN):
        return kind
    if kinds.is_timestamp(kind) and kind.unit != "ns":
        return pa.timestamp("us", "UTC" if kind.tz is not None else None)
    if kinds.is_dictionary(kind):
        return _type(kind.value_type)
    if any(is_one(kind) for is_one in LISTS):
        return pa.list_(_type(kind.value_type))
    if kinds.is_map(kind):
        return pa.map_(_type(kind.key_type), _type(kind.item_type))
    if kinds.is_struct(kind) and kind.num_fields:
        return pa.struct([(field.name, _type(field.type)) for field in kind])
    raise NoSuchType(f"{kind}, which a Delta table can't hold")


def _bare(kind: Any) -> Any:
    """A type's JSON with everything nullable, as annotated rows may be, and without metadata."""
    if not isinstance(kind, dict):
        return kind
    bare = {key: _bare(value) for key, value in kind.items()}
    for key in ("containsNull", "valueContainsNull"):
        if key in bare:
            bare[key] = True
    if "fields" in bare:
        bare["fields"] = [
            {"name": f["name"], "type": _bare(f["type"]), "nullable": True, "metadata": {}}
            for f in bare["fields"]
        ]
    return bare
