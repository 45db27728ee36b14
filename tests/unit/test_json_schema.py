"""JSON Schema -> Arrow: what is supported, and what is said of the rest."""

import json
from typing import Any

import jsonschema
import pyarrow as pa
import pytest

from pipeline.errors import RowError
from pipeline.tasks.writing.generate import Generate, GenerateOptions
from pipeline.tasks.writing.json_schema import LARGEST, arrow_type, parse, strict

pytestmark = pytest.mark.unit

FORM = {
    "title": "Review",
    "type": "object",
    "properties": {
        "label": {"enum": ["good", "bad"], "description": "the verdict"},
        "stars": {"type": "integer", "maximum": 5},
        "score": {"type": ["number", "null"]},
        "seen": {"type": "boolean"},
        "names": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "place": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
    "required": ["label", "stars"],
}


def test_a_schema_becomes_the_type_of_the_column() -> None:
    assert arrow_type(strict(FORM)) == pa.struct(
        [
            ("label", pa.string()),
            ("stars", pa.int64()),
            ("score", pa.float64()),
            ("seen", pa.bool_()),
            ("names", pa.list_(pa.string())),
            ("place", pa.struct([("city", pa.string())])),
        ]
    )


def test_the_column_of_generate_is_known_from_its_options_alone() -> None:
    options = {"kind": "generate", "model": "m", "format": "json", "json_schema": FORM}
    kind = Generate(GenerateOptions.model_validate(options)).output_type()
    assert kind.field("value").type == arrow_type(strict(FORM))
    assert [field.name for field in kind][1:] == [
        "text",
        "input_tokens",
        "output_tokens",
        "windows",
        "truncated",
    ]


def test_nothing_is_left_open_in_what_a_model_is_held_to() -> None:
    held = strict(FORM)
    assert held["additionalProperties"] is False
    assert held["properties"]["place"]["additionalProperties"] is False
    assert held["properties"]["stars"] == {"type": "integer", "minimum": -LARGEST, "maximum": 5}
    assert "title" not in held
    jsonschema.Draft202012Validator.check_schema(held)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"anyOf": [{"type": "string"}]}, r"json_schema: `anyOf` is not supported"),
        ({"type": "string", "anyOf": []}, r"json_schema: `anyOf` is not supported"),
        (
            {"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}},
            r"json_schema\.a: `\$ref` is not supported",
        ),
        (
            {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "date"}}}},
            r"json_schema\.items\.b: type 'date'",
        ),
        ({"type": "object"}, "needs `properties`"),
        ({"type": "object", "properties": {}}, "at least one"),
        (
            {"type": "object", "properties": {"a": {"type": "null"}}},
            r"json_schema\.a: `type` must be",
        ),
        (
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]},
            "must list some of the properties",
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "string"}},
                "additionalProperties": {"type": "string"},
            },
            "`additionalProperties` is not supported",
        ),
        ({"type": ["string", "integer"]}, "must be one of"),
        ({"type": "array"}, r"json_schema\.items must be an object"),
        ({"enum": [1, "a"]}, "`type` must be one of"),
        ({"type": "string", "enum": [1]}, "must all be of type string"),
        ({"type": "string", "format": "date"}, "`format` is not supported"),
        ({"type": "integer", "multipleOf": 3}, "`multipleOf` is not supported"),
    ],
)
def test_what_has_no_one_type_is_refused_by_its_place_and_name(schema: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        strict(schema)


def test_a_document_becomes_a_value_of_the_type() -> None:
    schema = strict(FORM)
    written = '{"label": "good", "stars": 4, "score": 1, "names": ["é"], "place": {"city": "x"}}'
    value = parse(written, schema)
    assert value == {
        "label": "good",
        "stars": 4,
        "score": 1.0,
        "seen": None,
        "names": ["é"],
        "place": {"city": "x"},
    }
    (back,) = pa.array([value], arrow_type(schema)).to_pylist()
    assert back == value
    assert parse('{"label": "bad", "stars": 1, "score": null}', schema)["score"] is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"label": "good", "stars": ',
        '{"label": "\\ud800", "stars": 1}',
        '{"label": "good", "stars": 1, "score": 1e999}',
        "[]",
        '{"label": "good", "stars": "many"}',
    ],
)
def test_what_is_no_such_document_is_a_row_error(text: str) -> None:
    with pytest.raises(RowError) as caught:
        parse(text, strict(FORM))
    assert caught.value.code == "invalid_json"


def test_the_options_keep_the_schema_as_the_job_wrote_it() -> None:
    options = {"kind": "generate", "model": "m", "format": "json", "json_schema": FORM}
    made = GenerateOptions.model_validate(options)
    assert json.loads(made.model_dump_json())["json_schema"] == FORM


def within(part: Any, *, required: bool = False) -> dict[str, Any]:
    """An object with one part, which need not be there."""
    whole = {"type": "object", "properties": {"a": part}}
    return {**whole, "required": ["a"]} if required else whole


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"type": "integer", "minimum": 1.2, "maximum": 1.8}, "no integer"),
        ({"type": "integer", "exclusiveMinimum": 2, "exclusiveMaximum": 3}, "."),
        ({"type": "integer", "minimum": 10**30}, "minimum"),
        ({"type": "number", "exclusiveMinimum": 3, "maximum": 3}, "exclusiveMinimum"),
        ({"type": "number", "minimum": "3"}, "`minimum` must be a number, not '3'"),
        ({"type": "number", "maximum": float("nan")}, "`maximum` must be a number, not nan"),
        ({"type": "number", "exclusiveMinimum": True}, "must be a number, not True"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, "minLength"),
        ({"type": "string", "maxLength": -1}, "`maxLength` must be a whole number, not -1"),
        ({"type": "string", "maxLength": 2.5}, "`maxLength` must be a whole number"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"type": "string", "pattern": "a(?=b)"}, "look-around"),
        ({"type": "string", "pattern": 7}, "`pattern` must be text, not 7"),
        ({"type": "string", "pattern": "^abc$", "maxLength": 2}, "."),
        ({"type": "array", "items": {"type": "string"}, "minItems": 5, "maxItems": 3}, "minItems"),
        ({"type": "array", "items": {"type": "integer", "minimum": 5, "maximum": 3}}, "a.items: "),
        ({"type": "string", "enum": []}, "`enum` must be a list of values"),
        ({"type": "integer", "enum": [7], "maximum": 3}, "."),
        ({"type": "string", "enum": ["abc"], "maxLength": 2}, "."),
        ({"enum": [float("nan")]}, "`enum` holds nan"),
        ({"enum": [10**40]}, "`enum` holds 1000"),
        ({"enum": ["\ud800"]}, "`enum` holds"),
        ({"$ref": "#"}, "`$ref` is not supported"),
        ({"allOf": [{"type": "string"}]}, "`allOf` is not supported"),
        ({"type": 5}, "`type` must be one of"),
        ({"type": {"a": 1}}, "`type` must be one of"),
        ({"type": [["string"]]}, "`type` must be one of"),
        ({"type": "object", "properties": {1: {"type": "string"}}}, "needs a name in quotes"),
        ({"type": "object", "properties": {"\ud800": {"type": "string"}}}, "needs a name"),
        ({**within({"type": "string"}), "required": [[1]]}, "`required` must list some"),
        ({**within({"type": "string"}), "required": {"a": 1}}, "`required` must list some"),
        (None, "must be an object"),
        ([], "must be an object"),
    ],
)
@pytest.mark.parametrize("required", [True, False])
def test_a_schema_that_nothing_can_follow_is_refused_by_the_place_of_the_part(
    part: Any, said: str, *, required: bool
) -> None:
    with pytest.raises(ValueError, match=r"json_schema\.a") as caught:
        strict(within(part, required=required))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "part",
    [
        {"type": "integer", "minimum": -(10**30), "maximum": 10**30},
        {"type": "integer", "exclusiveMinimum": -(10**30)},
        {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 3},
        {"type": "integer", "minimum": 3.0},
        {"type": ["string", "null"], "pattern": "^a+$", "maxLength": 5},
        {"type": "array", "items": {"enum": [1, 2]}, "minItems": 0, "maxItems": 0},
        {"enum": [None, "a"]},
    ],
)
def test_a_schema_at_the_edge_of_what_can_be_followed_is_taken(part: Any) -> None:
    held = strict(within(part))
    jsonschema.Draft202012Validator.check_schema(held)
    inner = held["properties"]["a"]
    if inner["type"] == "integer":
        assert (inner["minimum"], inner["maximum"]) >= (-LARGEST, -LARGEST)
        assert inner["maximum"] <= LARGEST
