"""What a task reads: columns of the input, the text of other tasks, and the rows that it is for.

A condition is SQL, parsed and evaluated by polars: an expression over columns, without queries,
files or anything else of the world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import JobError, one_line
from pipeline.tasks.task import Task, template_fields

if TYPE_CHECKING:
    import pyarrow as pa

BETWEEN = "\n\n"  # columns that are joined without a template


def sources(task: Task[Any], *, text: str) -> tuple[str, ...]:
    """The columns, or other tasks, that a task's text is made from, each once.

    Args:
        task: As configured.
        text: The job's text column.
    """
    options = task.options
    if options.template is not None:
        return template_fields(options.template)
    if options.input is None:
        return (text,)
    return (options.input,) if isinstance(options.input, str) else tuple(options.input)


def reads(task: Task[Any], *, text: str) -> tuple[str, ...]:
    """All columns, or other tasks, that a task looks at, each once."""
    condition = condition_names(task.options.when) if task.options.when else ()
    return tuple(dict.fromkeys([*sources(task, text=text), *task.extra_columns(), *condition]))


def text_maker(task: Task[Any], *, text: str) -> Callable[[Sequence[Any]], str]:
    """Makes a row's text from the values of `sources`, in that order."""
    names = sources(task, text=text)
    template = task.options.template
    if template is not None:
        return lambda values: template.format(
            **{n: _word(v) for n, v in zip(names, values, strict=True)}
        )
    if len(names) == 1:
        return lambda values: _word(values[0])
    return lambda values: BETWEEN.join(word for word in map(_word, values) if word.strip())


def _word(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else str(value)


def condition_names(condition: str) -> tuple[str, ...]:
    """The columns, or other tasks, that a condition looks at.

    Raises:
        JobError: It is not a condition.
    """
    return tuple(_expression(condition).meta.root_names())


def rows_where(condition: str, table: pa.Table) -> list[bool]:
    """Which rows a condition holds for; where it is null it does not hold.

    Args:
        condition: SQL.
        table: With the columns that it looks at.

    Raises:
        JobError: A field is not there, or the condition is not true or false.
    """
    import polars as pl

    try:
        frame = pl.from_arrow(table)
        if not isinstance(frame, pl.DataFrame):
            raise TypeError("a table is not a frame")
        found = frame.select(_expression(condition).alias("found")).to_series()
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise _wrong(condition, error) from error
    if found.dtype != pl.Boolean:
        raise JobError(
            f"the condition `{condition}` gives {found.dtype}, not true or false",
            mend="Compare, as in `sentiment.score < 0.7`",
        )
    if len(found) != table.num_rows:  # a condition of constants alone
        found = pl.Series([bool(found[0])] * table.num_rows, dtype=pl.Boolean)
    return [bool(value) for value in found]


def _expression(condition: str) -> Any:
    import polars as pl

    try:
        return pl.sql_expr(condition)
    except pl.exceptions.PolarsError as error:
        raise _wrong(condition, error) from error


def _wrong(condition: str, error: Exception) -> JobError:
    reason = one_line(error, most=200)
    return JobError(
        f"the condition `{condition}` is wrong: {reason}",
        mend="Write a SQL condition over columns and tasks' fields, as in "
        "`sentiment.score < 0.7 AND language = 'en'`",
    )


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
                mend="Let one of them read a column of the input",
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
    """
    import pyarrow as pa

    types = {name: task.output_type() for name, task in tasks.items()}
    for name, task in tasks.items():
        try:
            reads(task, text=text)
        except JobError as error:
            raise JobError(f"tasks.{name}.when: {error.message}", mend=error.mend) from error
    ordered(tasks, text=text)
    for name, task in tasks.items():
        for source in (*sources(task, text=text), *task.extra_columns()):
            kind = types.get(source)
            if kind is not None and not (pa.types.is_struct(kind) and "text" in _fields(kind)):
                raise JobError(
                    f"tasks.{name} reads task {source}, which makes no text but {kind}",
                    mend="Read a column, or a task that writes text: summarize, translate, "
                    "generate, answer or redact",
                )
        if task.options.when:
            try:
                known = {**{f.name: f.type for f in columns}, **types}
                names = [n for n in condition_names(task.options.when) if n in known]
                rows_where(
                    task.options.when,
                    pa.table({n: pa.nulls(0, known[n]) for n in names} or {"": pa.nulls(0)}),
                )
            except JobError as error:
                raise JobError(f"tasks.{name}.when: {error.message}", mend=error.mend) from error


def _fields(kind: pa.DataType) -> list[str]:
    return [kind.field(at).name for at in range(kind.num_fields)]


def columns_read(tasks: Mapping[str, Task[Any]], *, text: str) -> list[str]:
    """The input's columns that tasks read, each once; the job's text column first, if it is."""
    names = dict.fromkeys(n for task in tasks.values() for n in reads(task, text=text))
    return sorted((n for n in names if n not in tasks), key=lambda name: name != text)
