"""What one task reads: columns, or other tasks, for its text and for its condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.conditions.condition import condition_names
from pipeline.tasks.contract import Task, template_fields

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
