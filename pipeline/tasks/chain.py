"""How the tasks of a job hang together: their order, and what they read of each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.conditions.condition import condition_names, rows_where
from pipeline.errors import JobError, SplitError, near
from pipeline.tasks.contract import Task, template_fields
from pipeline.tasks.reading import reads, sources

if TYPE_CHECKING:
    import pyarrow as pa


def ordered(tasks: Mapping[str, Task[Any]], *, text: str) -> list[str]:
    """The tasks' names, each after those that it reads.

    Raises:
        JobError: Tasks read each other in a circle.
    """
    waiting = {name: set(reads(task, text=text)) & tasks.keys() for name, task in tasks.items()}
    out: list[str] = []
    while waiting:
        ready = [name for name, needs in waiting.items() if needs <= set(out)]
        if not ready:
            circle = ", ".join(waiting)
            raise JobError(
                f"tasks {circle} read each other in a circle",
                hint="Let one of them read a column of the input",
            )
        for name in ready:
            del waiting[name]
        out += ready
    return out


def check_chain(tasks: Mapping[str, Task[Any]], columns: pa.Schema, *, text: str) -> None:
    """Checks what tasks read of each other and of the input.

    Args:
        tasks: By output column.
        columns: Of the input.
        text: The job's text column.

    Raises:
        JobError: A circle, a task without a text to read, a wrong condition.
        SplitError: A task names a column that these do not have; another file may.
    """
    import pyarrow as pa

    types = {name: task.output_type() for name, task in tasks.items()}
    for name, task in tasks.items():
        try:
            reads(task, text=text)
        except JobError as error:
            raise JobError(f"tasks.{name}.when: {error.message}", hint=error.hint) from error
    ordered(tasks, text=text)
    for source, field in fields_naming(tasks).items():
        if source not in tasks and source not in columns.names:
            there = [*columns.names, *tasks]
            raise SplitError(
                f"{field}: there is no column or task `{source}`; there are {', '.join(there)}",
                hint=f"{near(source, there)} in {field}",
            )
    for name, task in tasks.items():
        for source in (*sources(task, text=text), *task.extra_columns()):
            kind = types.get(source)
            if kind is not None and not (pa.types.is_struct(kind) and "text" in _fields(kind)):
                raise JobError(
                    f"tasks.{name} reads task {source}, which makes no text but {kind}",
                    hint="Read a column, or a task with a `text` field, as a summary has",
                )
        if task.options.when:
            try:
                known = {**{f.name: f.type for f in columns}, **types}
                names = condition_names(task.options.when)
                rows_where(
                    task.options.when,
                    pa.table({n: pa.nulls(0, k) for n, k in known.items() if n in names}),
                )
            except JobError as error:
                raise JobError(f"tasks.{name}.when: {error.message}", hint=error.hint) from error


def _fields(kind: pa.DataType) -> list[str]:
    return [kind.field(at).name for at in range(kind.num_fields)]


def columns_read(tasks: Mapping[str, Task[Any]], *, text: str) -> list[str]:
    """The input's columns that tasks read, each once; the job's text column first, if it is."""
    names = dict.fromkeys(n for task in tasks.values() for n in reads(task, text=text))
    return sorted((n for n in names if n not in tasks), key=lambda name: name != text)


def fields_naming(tasks: Mapping[str, Task[Any]]) -> dict[str, str]:
    """Which field of a job names each column or task that tasks read, other than by default."""
    out: dict[str, str] = {}
    for name, task in tasks.items():
        options = task.options
        condition = condition_names(options.when) if options.when else ()
        given = () if options.input is None else sources(task, text="")
        for field, names in (
            ("input", given),
            ("template", template_fields(options.template) if options.template else ()),
            ("when", condition),
        ):
            for source in names:
                out.setdefault(source, f"tasks.{name}.{field}")
        for source in task.extra_columns():
            fields = (f for f in type(options).model_fields if getattr(options, f) == source)
            out.setdefault(source, f"tasks.{name}.{next(fields, 'input')}")
    return out
