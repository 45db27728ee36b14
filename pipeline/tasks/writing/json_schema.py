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
from pipeline.models.text.grammar import trouble_with

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

COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

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
    known = {"type", "enum"}.union(NOTES, *KEYWORDS.values())
    for name in schema:
        if name not in known:
            raise ValueError(f"{where}: `{name}` is not supported")
    kind, nullable = _kind(schema, where)
    allowed = KEYWORDS[kind] | NOTES | {"type", "enum"}
    for name in schema:
        if name not in allowed:
            raise ValueError(f"{where}: `{name}` is not supported for type {kind}")
    out = {name: value for name, value in schema.items() if name not in NOTES}
    out["type"] = [kind, "null"] if nullable else kind
    _check_limits(out, where)
    if "enum" in schema:
        _check_enum(schema["enum"], kind, nullable, where)
    if kind == "object":
        properties = schema.get("properties")
        if not isinstance(properties, dict) or not properties:
            raise ValueError(f"{where}: an object needs `properties`, at least one")
        for name in properties:
            if not isinstance(name, str) or not _is_text(name):
                raise ValueError(f"{where}: the property {name!r} needs a name in quotes")
        if schema.get("additionalProperties", False) is not False:
            raise ValueError(f"{where}: `additionalProperties` is not supported: set it to false")
        required = schema.get("required", [])
        if not isinstance(required, list) or any(name not in list(properties) for name in required):
            raise ValueError(f"{where}: `required` must list some of the properties")
        out["additionalProperties"] = False
        out["properties"] = {
            name: strict(part, f"{where}.{name}") for name, part in properties.items()
        }
    elif kind == "array":
        out["items"] = strict(schema.get("items"), f"{where}.items")
    elif kind == "integer" and "enum" not in schema:
        out["minimum"] = max(out.get("minimum", -LARGEST), -LARGEST)
        out["maximum"] = min(out.get("maximum", LARGEST), LARGEST)
        for name in ("exclusiveMinimum", "exclusiveMaximum"):
            if name in out:
                out[name] = min(max(out[name], -LARGEST - 1), LARGEST + 1)
    trouble = trouble_with(out)
    if trouble:
        raise ValueError(f"{where}: nothing can follow this: {trouble}")
    return out


def _check_limits(schema: Mapping[str, Any], where: str) -> None:
    """Refuses a limit that is no number, which a library would take for none."""
    for name, value in schema.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in COUNTS and not (number and value >= 0 and float(value).is_integer()):
            raise ValueError(f"{where}: `{name}` must be a whole number, not {value!r}")
        if name in BOUNDS and not (number and math.isfinite(value)):
            raise ValueError(f"{where}: `{name}` must be a number, not {value!r}")
        if name == "pattern" and not (isinstance(value, str) and _is_text(value)):
            raise ValueError(f"{where}: `pattern` must be text, not {value!r}")


def _is_text(text: str) -> bool:
    """Whether it is without halves of surrogate pairs, which YAML can write."""
    return text.encode("utf-8", "replace").decode() == text


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
    kinds = [named] if isinstance(named, str) else named
    rest = [kind for kind in kinds if kind != "null"] if isinstance(kinds, list) else []
    if not isinstance(kinds, list) or len(rest) != 1 or not isinstance(rest[0], str):
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
    for value in values:
        if (
            (isinstance(value, str) and not _is_text(value))
            or (isinstance(value, float) and not math.isfinite(value))
            or (isinstance(value, int) and abs(value) > LARGEST)
        ):
            raise ValueError(f"{where}: `enum` holds {value!r}, which JSON can't keep")


def _type_of(value: Any) -> str:
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "boolean"),
        (str, "string"),
        (int, "integer"),
        (float, "number"),
        (type(None), "null"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "other")
