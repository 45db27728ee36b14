"""The part of the README that says what tasks there are, made from their classes."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.job.file import ready_jobs
from pipeline.models.resolve import ModelInfo
from pipeline.tasks import TASKS, Task

if TYPE_CHECKING:
    import pyarrow as pa

BEGIN = "<!-- tasks: made from pipeline/tasks and jobs/ by `python -m pipeline.schemas` -->"
END = "<!-- /tasks -->"
# The width that stands for any encoder's.
WIDTH = 384
LINE = 100


def shown_task(kind: str) -> Task[Any]:
    """A task of a kind as in its first example."""
    task = TASKS[kind]
    options = {"kind": kind, "model": "any/model", **task.examples[0].options}
    made = task(task.Options.model_validate(options))
    made.bind(ModelInfo("any/model", {"hidden_size": WIDTH}))
    return made


def with_tasks(readme: str, *, jobs: Path) -> str:
    """A README with what stands between the two marks made anew.

    Args:
        readme: Its text.
        jobs: The directory of ready jobs.

    Raises:
        ValueError: It has no such marks.
    """
    return made_anew(readme, begin=BEGIN, end=END, middle=f"{_table(jobs)}\n\n{_notes()}")


def made_anew(text: str, *, begin: str, end: str, middle: str) -> str:
    """A text with what stands between two marks replaced.

    Raises:
        ValueError: It has no such marks.
    """
    parts = re.split(f"({re.escape(begin)}|{re.escape(end)})", text)
    if [part for part in parts if part in (begin, end)] != [begin, end]:
        raise ValueError(f"{begin} is needed once and {end} once after it")
    parts[2] = f"\n\n{middle}\n\n"
    return "".join(parts)


def _table(jobs: Path) -> str:
    uses: dict[str, list[str]] = {kind: [] for kind in TASKS}
    for path in ready_jobs(jobs):
        tasks = yaml.safe_load(path.read_text(encoding="utf-8"))["tasks"].values()
        for kind in dict.fromkeys(task["kind"] for task in tasks):
            uses[kind].append(f"[{path.stem}]({jobs.name}/{path.name})")
    rows: list[Sequence[str]] = [("kind", "model", "column", "job"), ("---",) * 4]
    for kind, task in TASKS.items():
        column = brief_type(shown_task(kind).output_type())
        rows.append((f"`{kind}`", task.needs, f"`{column}`", ", ".join(uses[kind])))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows).replace("| --- ", "|---")


def _notes() -> str:
    return "\n".join(
        textwrap.fill(
            f"- **{kind}**: {said_of(task)}",
            width=LINE,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for kind, task in TASKS.items()
    )


def said_of(task: type[Task[Any]]) -> str:
    """A class's docstring without its first paragraph, on one line."""
    _, _, body = inspect.cleandoc(task.__doc__ or "").partition("\n\n")
    return " ".join(body.split())


def brief_type(kind: pa.DataType) -> str:
    """An Arrow type by the names of its fields, without the types that go without saying."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        fields = (kind.field(at) for at in range(kind.num_fields))
        return f"struct<{', '.join(_brief_field(field) for field in fields)}>"
    if pa.types.is_fixed_size_list(kind):
        return f"fixed_size_list<{brief_type(kind.value_type)}>[dim]"
    if pa.types.is_list(kind):
        return f"list<{brief_type(kind.value_type)}>"
    return "float32" if pa.types.is_float32(kind) else str(kind)


def _brief_field(field: pa.Field) -> str:
    return f"{field.name}: {brief_type(field.type)}" if field.type.num_fields else str(field.name)
