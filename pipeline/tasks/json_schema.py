"""JSON Schema -> Arrow: the part of the standard that has one type for every document.

What is refused (``anyOf``, ``$ref``, free properties, ...) would make a column whose type depends
on the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import RowError

if TYPE_CHECKING:
    import pyarrow as pa

# Beyond it a reader of JSON may lose digits (RFC 8259, section 6).
LARGEST = 2**53 - 1
NOTES = frozenset({"title", "description", "default", "examples", "$schema", "$comment", "$id"})
KEYWORDS: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "boolean": frozenset(),
}

PYTHON: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def strict(schema: Any, where: str = "json_schema") -> dict[str, Any]:
    """The schema with nothing left open: what a model is held to.

    Args:
        schema: From a job file.
        where: Its place, for messages.

    Returns:
        The same documents, but objects have no other properties than those named, and integers
        are such as every reader of JSON keeps.

    Raises:
        ValueError: Naming the part that is not supported.
    """
    if not isinstance(schema, dict):
        raise ValueError(f"{where} must be an object such as {{type: string}}")
    kind, nullable = _kind(schema, where)
    allowed = KEYWORDS[kind] | NOTES | {"type", "enum"}
    for name in schema:
        if name not in allowed:
            raise ValueError(f"{where}: `{name}` is not supported for type {kind}")
    out = {name: value for name, value in schema.items() if name not in NOTES}
    out["type"] = [kind, "null"] if nullable else kind
    if "enum" in schema:
        _check_enum(schema["enum"], kind, nullable, where)
    if kind == "object":
        properties = schema.get("properties")
        if not isinstance(properties, dict) or not properties:
            raise ValueError(f"{where}: an object needs `properties`, at least one")
        if schema.get("additionalProperties", False) is not False:
            raise ValueError(f"{where}: `additionalProperties` is not supported: set it to false")
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(name in properties for name in required):
            raise ValueError(f"{where}: `required` must list some of the properties")
        out["additionalProperties"] = False
        out["properties"] = {
            name: strict(part, f"{where}.{name}") for name, part in properties.items()
        }
    elif kind == "array":
        out["items"] = strict(schema.get("items"), f"{where}.items")
    elif kind == "integer" and "enum" not in schema:
        if "exclusiveMinimum" not in schema:
            out.setdefault("minimum", -LARGEST)
        if "exclusiveMaximum" not in schema:
            out.setdefault("maximum", LARGEST)
    return out


def arrow_type(schema: Mapping[str, Any]) -> pa.DataType:
    """The type of a value that follows a strict schema; every part of it may be null."""
    import pyarrow as pa

    kind, _ = _kind(schema, "")
    if kind == "object":
        parts = schema["properties"].items()
        return pa.struct([pa.field(name, arrow_type(part)) for name, part in parts])
    if kind == "array":
        return pa.list_(arrow_type(schema["items"]))
    return {
        "string": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "boolean": pa.bool_(),
    }[kind]


def parse(text: str, schema: Mapping[str, Any]) -> Any:
    """A document -> a value that Arrow takes for `arrow_type`.

    Raises:
        RowError: It is not complete, or holds what a column can't.
    """
    try:
        return _value(json.loads(text), schema)
    except (ValueError, OverflowError) as error:
        raise RowError(f"what the model wrote is not the JSON: {error}", code="invalid_json") from (
            error
        )


def _value(found: Any, schema: Mapping[str, Any]) -> Any:
    kind, nullable = _kind(schema, "")
    if found is None and nullable:
        return None
    fits = isinstance(found, PYTHON[kind])
    if not fits:
        raise ValueError(f"{json.dumps(found)[:50]} is of another type than {kind}")
    if kind == "object":
        return {
            name: _value(found[name], part) if name in found else None
            for name, part in schema["properties"].items()
        }
    if kind == "array":
        return [_value(item, schema["items"]) for item in found]
    if kind == "string":
        found.encode()  # half of a surrogate pair, which JSON can escape, is no text
        return found
    if kind == "number":
        number = float(found)
        if not math.isfinite(number):
            raise ValueError("a number is too large")
        return number
    return found


def _kind(schema: Mapping[str, Any], where: str) -> tuple[str, bool]:
    """The one type besides null, and whether null is one."""
    named = schema.get("type")
    if named is None and isinstance(schema.get("enum"), list):
        named = sorted({_type_of(value) for value in schema["enum"]})
    kinds = [named] if isinstance(named, str) else list(named or [])
    rest = [kind for kind in kinds if kind != "null"]
    if len(rest) != 1:
        raise ValueError(f"{where}: `type` must be one of {', '.join(KEYWORDS)}, or one and null")
    if rest[0] not in KEYWORDS:
        raise ValueError(f"{where}: type {rest[0]!r} is not one of {', '.join(KEYWORDS)}")
    return rest[0], len(kinds) > 1


def _check_enum(values: Any, kind: str, nullable: bool, where: str) -> None:
    if not isinstance(values, list) or not values:
        raise ValueError(f"{where}: `enum` must be a list of values")
    fitting = {kind, "null"} if nullable else {kind}
    if kind == "number":
        fitting |= {"integer"}
    if kind in ("object", "array") or not all(_type_of(value) in fitting for value in values):
        raise ValueError(f"{where}: the values of `enum` must all be of type {kind}")


def _type_of(value: Any) -> str:
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "boolean"),
        (str, "string"),
        (int, "integer"),
        (float, "number"),
        (type(None), "null"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "other")
