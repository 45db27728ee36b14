"""Reading a job file: what is wrong is told with the file, the line, the field and the mend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import JobError
from pipeline.job import Job
from pipeline.tasks import TASKS


def load_job(path: str | Path, *, overrides: Sequence[str] = ()) -> Job:
    """Reads and checks a job file.

    Args:
        path: The YAML file.
        overrides: ``field.path=value`` each, the value in YAML.

    Returns:
        The job.

    Raises:
        JobError: The file can't be read or is wrong; the message names file, line and field,
            and lists all that is wrong at once.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except IsADirectoryError as error:
        raise JobError(f"{path} is a directory", mend="Name the job file itself") from error
    except FileNotFoundError as error:
        raise JobError(f"job file {path} does not exist", mend="Ready ones are in jobs/") from error
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"job file {path} can't be read: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise JobError(
            f"{path}:{line}: this is not valid YAML: {error.problem}",
            mend="Check indentation, quotes and brackets there",
        ) from error
    except yaml.YAMLError as error:
        raise JobError(f"{path}: this is not valid YAML: {error}") from error
    if not isinstance(data, dict) or node is None:
        raise JobError(
            f"{path}:1: a job file is a mapping with name, input, output and tasks",
            mend="Start from one of the files in jobs/",
        )
    _refuse_double_keys(node, path)
    for override in overrides:
        _override(data, override)
    try:
        return Job.model_validate(data)
    except ValidationError as error:
        fields = [override.partition("=")[0].split(".") for override in overrides]
        lines = [
            line for item in error.errors() for line in _explain(item, node, data, path, fields)
        ]
        raise JobError("\n".join(dict.fromkeys(lines))) from error


def _override(data: dict[str, Any], override: str) -> None:
    field, equals, text = override.partition("=")
    keys = field.split(".")
    if not equals or not all(keys):
        raise JobError(
            f"--set {override}: this names no field", mend="Write --set input.path=data/reviews"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise JobError(f"--set {override}: the value is not valid YAML: {error}") from error
    at: Any = data
    for key in keys[:-1]:
        if not isinstance(at.setdefault(key, {}), dict):
            raise JobError(f"--set {override}: {key} is a value, not a mapping")
        at = at[key]
    at[keys[-1]] = value


def _refuse_double_keys(node: yaml.Node, path: Path, above: tuple[yaml.Node, ...] = ()) -> None:
    """YAML keeps the last of two equal keys without a word; a task would be lost."""
    line = node.start_mark.line + 1
    if node in above:
        raise JobError(f"{path}:{line}: this contains itself", mend="Remove the alias (*...)")
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if str(key.value) in seen:
                raise JobError(
                    f"{path}:{key.start_mark.line + 1}: `{key.value}` stands twice here",
                    mend="Remove or rename one of them",
                )
            seen.add(str(key.value))
            _refuse_double_keys(value, path, above)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_double_keys(value, path, above)


def _real_steps(item: Any, data: Any) -> list[str]:
    """The path of a field as the user wrote it, without pydantic's steps into a union."""
    steps: list[str] = []
    for step in item["loc"]:
        if (isinstance(data, dict) and step in data) or (
            isinstance(data, list) and isinstance(step, int) and step < len(data)
        ):
            data = data[step]
        elif item["type"] != "missing" or step != item["loc"][-1]:
            continue
        steps.append(str(step))
    return steps


def _line(node: yaml.Node, steps: Sequence[str]) -> int:
    """The line of a field, or of the innermost part of its path that the file has."""
    line = node.start_mark.line + 1
    for step in steps:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if str(k.value) == step]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and int(step) < len(node.value):
            node = node.value[int(step)]
            line = node.start_mark.line + 1
    return line


def _explain(
    item: Any, node: yaml.Node, data: Any, path: Path, overridden: Sequence[list[str]]
) -> list[str]:
    """One mistake as lines that name the place, the field and the mend."""
    if item["type"] == "clash":
        paths = [["tasks", name] for name in item["ctx"]["tasks"]]
    else:
        paths = [_real_steps(item, data)]
    lines = []
    for steps in paths:
        field = ".".join(steps)
        by_option = [o for o in overridden if o[: len(steps)] == steps or steps[: len(o)] == o]
        if by_option and steps:
            where = f"--set {'.'.join(by_option[0])}"
        else:
            where = f"{path}:{_line(node, steps)}"
        subject = f"`{field}`" if field else "the job"
        lines.append(f"{where}: {subject}{_complaint(item)}")
    return lines


def _complaint(item: Any) -> str:
    match item["type"]:
        case "extra_forbidden":
            return f" is not a field of a job file. Known here: {_known_fields(item['loc'])}"
        case "missing":
            return " is missing. Add it"
        case "union_tag_not_found":
            return f" has no `kind`. Add kind: one of {', '.join(TASKS)}"
        case "union_tag_invalid":
            return f" has the unknown kind `{item['ctx']['tag']}`. Use one of {', '.join(TASKS)}"
        case "value_error":
            return f": {item['ctx']['error']}"
        case "clash":
            return f": {item['msg']}"
    return f": {item['msg']}, not {item['input']!r}"


def _known_fields(loc: Sequence[int | str]) -> str:
    model: type[BaseModel] = Job
    for step in loc[:-1]:
        if step in TASKS:
            model = TASKS[str(step)].Options
        elif step in model.model_fields:
            kind = model.model_fields[str(step)].annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                model = kind
    return ", ".join(model.model_fields)
