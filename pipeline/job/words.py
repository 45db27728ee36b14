"""What is wrong with a job, in words for its author: where, what was wanted, what stands there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

from pydantic import BaseModel

from pipeline.escape import visible
from pipeline.job.job import NAME, Job
from pipeline.tasks import TASKS

VALUE_SHOWN = 60
NAME_SHOWN = 60
# Of one job file; whoever mends these may ask again.
MOST_LINES = 5


def explain(
    errors: Sequence[Mapping[str, Any]],
    data: Any,
    where: Callable[[Sequence[str]], str],
    *,
    kind: type[BaseModel] = Job,
) -> list[str]:
    """Mistakes as lines that name the place, the field and the mend.

    Args:
        errors: From pydantic.
        data: What was checked.
        where: Gives the place of a field, by its path.
        kind: What it was checked as.
    """
    fields: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for error in errors:
        if error["type"] == "clash":
            part = _real_steps(error, data)
            for steps in error["ctx"]["fields"]:
                fields.setdefault((*part, *steps), []).append(error)
        else:
            fields.setdefault(tuple(_real_steps(error, data)), []).append(error)
    # Of a value that may be a text or a list, the branch that came further says what is wrong.
    outer = {steps for steps in fields for other in fields if other[: len(steps)] == steps != other}
    lines = []
    for steps, found in fields.items():
        if steps in outer and all(error["type"] in WANTED for error in found):
            continue
        field = visible(".".join(steps), most=NAME_SHOWN)
        subject = f"`{field}`" if field else "the job"
        lines.append(f"{where(steps)}: {subject}{_complaint(found, kind)}")
    lines = list(dict.fromkeys(map(visible, lines)))
    if len(lines) > MOST_LINES:
        rest = len(lines) - MOST_LINES + 1
        lines[MOST_LINES - 1 :] = [f"and {rest} more mistakes: mend these first"]
    return lines


def _real_steps(error: Mapping[str, Any], data: Any) -> list[str]:
    """The path of a field as the user wrote it, without pydantic's steps into a union."""
    steps: list[str] = []
    for step in error["loc"]:
        if (isinstance(data, dict) and step in data) or (
            isinstance(data, list) and isinstance(step, int) and step < len(data)
        ):
            data = data[step]
        elif error["type"] != "missing" or step != error["loc"][-1]:
            continue
        steps.append(str(step))
    return steps


def _complaint(found: Sequence[Mapping[str, Any]], kind: type[BaseModel]) -> str:
    error = found[0]
    context = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return f" is not a field of a job file. Known here: {_known_fields(error['loc'], kind)}"
        case "missing":
            return " is missing. Add it"
        case "union_tag_not_found":
            return f" has no `kind`. Add kind: one of {', '.join(TASKS)}"
        case "union_tag_invalid":
            tag = visible(context["tag"], most=VALUE_SHOWN)
            return f" has the unknown kind `{tag}`. Use one of {', '.join(TASKS)}"
        case "value_error":
            return f": {context['error']}"
        case "clash":
            return f": {error['msg']}"
        case "invalid_key":
            return ": its name must be text. Put it in quotes"
    if error["loc"][-1:] == ("[key]",):
        return ": its name must be text. Put it in quotes"
    wanted = list(dict.fromkeys(map(_wanted, found)))
    value = error["input"]
    told = f" must be {' or '.join(wanted)}, not {_shown(value)}"
    hint = _hint(found, value)
    return f"{told}. {hint}" if hint else told


# By pydantic's name of a mistake: what would have been right.
WANTED: Mapping[str, str] = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "none_required": "null",
    "string_pattern_mismatch": "{pattern}",
    "string_too_long": "text of at most {max_length} characters",
    "string_too_short": "text of at least {min_length} character{s}",
    "string_type": "text",
    "string_unicode": "text in valid Unicode",
    "too_long": "of at most {max_length} entries",
    "too_short": "of at least {min_length} entr{ies}",
    "tuple_type": "a list",
}
PATTERNS = {NAME: "letters, digits, _ and -, a letter or _ first"}


def _wanted(error: Mapping[str, Any]) -> str:
    context = dict(error.get("ctx", {}))
    least = context.get("min_length")
    context |= {"s": "" if least == 1 else "s", "ies": "y" if least == 1 else "ies"}
    if "pattern" in context:
        context["pattern"] = PATTERNS.get(context["pattern"], f"like {context['pattern']}")
    # A mistake that no option of today can make: its place and value are told all the same.
    return WANTED.get(error["type"], "another value").format(**context)


def _shown(value: object) -> str:
    """A value as YAML writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date):
        return f"the date {value}"
    if isinstance(value, str):
        return f"'{visible(value, most=VALUE_SHOWN)}'"
    return visible(value, most=VALUE_SHOWN)


def _hint(found: Sequence[Mapping[str, Any]], value: object) -> str:
    kinds = {error["type"] for error in found}
    if value is None:
        return "Write a value behind it, or remove the line"
    if "string_type" in kinds and isinstance(value, bool | int | float | date):
        return "Put it in quotes"
    number = isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value.strip())
    if kinds & {"int_type", "float_type"} and number:
        return "Remove the quotes"
    last = str(found[0]["loc"][-1]) if found[0]["loc"] else ""
    if kinds & {"model_type", "model_attributes_type"} and isinstance(value, str):
        if last in ("input", "output"):
            return f"Write {last}: {{path: {visible(value, most=VALUE_SHOWN)}}}"
        if last in TASKS or found[0]["loc"][:1] == ("tasks",):
            return "Write it as {kind: ..., model: ...}"
    if last == "tasks":
        return "Write each task below it by its name, as in `mood: {kind: classify, model: ...}`"
    return ""


def _known_fields(loc: Sequence[int | str], kind: type[BaseModel]) -> str:
    model = kind
    for step in loc[:-1]:
        if step in TASKS:
            model = TASKS[str(step)].Options
        elif step in model.model_fields:
            inner = model.model_fields[str(step)].annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                model = inner
    return ", ".join(model.model_fields)
