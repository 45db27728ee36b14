"""``shardscribe tasks``: what a job may ask for, from the classes of the tasks."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.say import say

WIDTH = 96


@click.command()
@click.argument("kind", required=False)
def tasks(kind: str | None) -> None:
    """List the kinds of tasks, or tell one with its options.

    \b
    Examples:
      shardscribe tasks
      shardscribe tasks keywords
    """
    from pipeline.errors import JobError, near
    from pipeline.tasks import TASKS

    if kind is None:
        for name, task in TASKS.items():
            say(f"{name:<11}{task.Options.__doc__}")
        say("One with its options: shardscribe tasks KIND")
        return
    if kind not in TASKS:
        raise JobError(f"there is no kind {kind}; there are {', '.join(TASKS)}",
                       hint=f"{near(kind, TASKS)} after `tasks`")  # fmt: skip
    _tell(kind, TASKS[kind])


def _tell(kind: str, task: Any) -> None:
    from pipeline.readme import brief_type, said_of, shown_task
    from pipeline.tasks import TaskOptions

    say(f"{kind}: {task.Options.__doc__}")
    say(f"  model   {task.needs}")
    say(f"  column  {brief_type(shown_task(kind).output_type())}")
    say("")
    _wrapped(said_of(task), indent="")
    own = {name for name in task.Options.model_fields if name not in TaskOptions.model_fields}
    for part, wanted in (("Options", True), ("Options of every task", False)):
        say("")
        say(f"{part}:")
        for name, field in task.Options.model_fields.items():
            if name != "kind" and (name in own) is wanted:
                value = "needed" if field.is_required() else _shown(field.get_default())
                say(f"  {name}: {value}")
                _wrapped(field.description or "", indent="      ")


def _wrapped(text: str, *, indent: str) -> None:
    import textwrap

    for line in textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent):
        say(line)


def _shown(value: Any) -> str:
    """A default as YAML writes it."""
    import json

    return value if isinstance(value, str) else json.dumps(value)
