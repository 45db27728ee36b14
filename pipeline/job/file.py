"""Reading a job file: what is wrong is told with the file, the line, the field and the mend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import JobError
from pipeline.escape import visible
from pipeline.job.bounded_yaml import MOST_BYTES, NO_MAPPING, decoded, read_yaml
from pipeline.job.job import Job
from pipeline.job.words import explain

# Ready jobs that train a model are named so, beside those that annotate.
TRAINS = "train_"

AnyJob = TypeVar("AnyJob", bound=BaseModel)


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
    return load_file(path, Job, overrides=overrides)


def ready_jobs(directory: Path) -> list[Path]:
    """The job files of a directory that annotate, by name."""
    return sorted(path for path in directory.glob("*.yaml") if not path.stem.startswith(TRAINS))


def load_file(path: str | Path, kind: type[AnyJob], *, overrides: Sequence[str] = ()) -> AnyJob:
    """Reads and checks a job file of any kind, as `load_job` does.

    Args:
        path: The YAML file.
        kind: What the file is checked as.
        overrides: ``field.path=value`` each, the value in YAML.

    Raises:
        JobError: The file can't be read or is wrong.
    """
    where = visible(path)
    node, data = read_yaml(_text(Path(path), where), where)
    if not isinstance(data, dict) or node is None:
        what = "this is empty" if node is None else "this is none"
        *needed, last = [name for name, field in kind.model_fields.items() if field.is_required()]
        raise JobError(
            f"{where}:1: a job file is a mapping with {', '.join(needed)} and {last}; {what}",
            hint=NO_MAPPING,
        )
    for override in overrides:
        set_in(data, override)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        fields = [tuple(override.partition("=")[0].split(".")) for override in overrides]

        def place(steps: Sequence[str]) -> str:
            by_option = [o for o in fields if o[: len(steps)] == steps or steps[: len(o)] == o]
            if by_option and steps:
                return f"--set {'.'.join(by_option[0])}"
            return f"{where}:{_line(node, steps)}"

        first, *others = explain(error.errors(), data, place, kind=kind)
        raise JobError(first, also=others) from error


def job_text(job: Job) -> str:
    """A job as the text of a job file: what it says itself, and nothing of what it does not.

    A secret is in it by the name of its variable, as in the job.
    """
    said = job.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True)


def _text(path: Path, where: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except IsADirectoryError as error:
        raise JobError(f"{where} is a directory", hint="Name the job file itself") from error
    except FileNotFoundError as error:
        raise JobError(
            f"job file {where} does not exist", hint="Ready ones are in jobs/"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise JobError(f"job file {where} can't be read: {reason}") from error
    if len(raw) > MOST_BYTES:
        raise JobError(
            f"{where} is larger than {MOST_BYTES // 1024:,} kB, which no job file is",
            hint=NO_MAPPING,
        )
    return decoded(raw, where)


def set_in(
    data: dict[str, Any], override: str, *, flag: str = "--set",
    example: str = "input.path=data/reviews",
) -> None:  # fmt: skip
    """Sets one field of what was read, as ``field.inner=value``, the value in YAML.

    Args:
        data: Changed in place.
        override: What the user wrote.
        flag: Where, for messages.
        example: Of what is right there, for messages.

    Raises:
        JobError: It names no field, or the value can't be read.
    """
    field, equals, text = override.partition("=")
    keys = field.split(".")
    if not equals or not all(keys):
        raise JobError(
            f"{flag} {override}: this names no field",
            hint=f"Write {flag} {example}",
        )
    try:
        _, value = read_yaml(text, f"{flag} {field}")
    except JobError as error:
        raise JobError(
            f"{flag} {visible(override, most=80)}: the value is not valid YAML", hint="Quote it"
        ) from error
    at = data
    for key in keys[:-1]:
        inner = at.get(key, {})
        if not isinstance(inner, dict):
            raise JobError(f"{flag} {override}: {key} is a value, not a mapping")
        # A copy: by an alias of YAML the same mapping may stand in other places too.
        at[key] = dict(inner)
        at = at[key]
    at[keys[-1]] = value


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
