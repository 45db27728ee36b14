"""Arguments that several verbs share, and what is done with them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.say import say, say_json

if TYPE_CHECKING:
    from pipeline.preview import Found, Wanted

job_argument = click.argument("job_file", metavar="JOB", type=click.Path())
set_option = click.option(
    "--set",
    "overrides",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Override a field of the job file, such as --set input.path=data/today or "
    "--set compute.workers=2. May be given several times; the value is YAML.",
)
_ROW_OPTIONS = (
    click.option("-n", "--rows", default=5, show_default=True, type=click.IntRange(1, 1000)),
    click.option(
        "--where",
        metavar="CONDITION",
        help="Only rows that a SQL condition holds for, over columns and tasks' fields, such as "
        '"sentiment.score < 0.6".',
    ),
    click.option("--bad", is_flag=True, help="Only rows with errors."),
    click.option(
        "--columns",
        metavar="NAMES",
        multiple=True,
        help="What to show, separated by commas.  [default: the text, the tasks and errors]",
    ),
    click.option("--json", "as_json", is_flag=True, help="One JSON object per row, for programs."),
)


def row_options(command: Any) -> Any:
    """The options by which rows are chosen."""
    for option in reversed(_ROW_OPTIONS):
        command = option(command)
    return command


def wanted_rows(**choices: Any) -> Wanted:
    """What the options ask for."""
    from pipeline.preview import Wanted

    names = [name.strip() for part in choices.pop("columns") for name in part.split(",")]
    return Wanted(columns=tuple(dict.fromkeys(filter(None, names))), **choices)


def show_found(found: Found, wanted: Wanted, *, as_json: bool) -> None:
    """Shows rows, and says so where there are fewer than were asked for."""
    from pipeline.cli.render import print_rows, rows_of

    rows = [row for table in found.tables for row in rows_of(table)]
    if as_json:
        for row in rows:
            chosen = wanted.columns or row.keys()
            say_json({name: row.get(name) for name in chosen})
    elif rows:
        there = {name for table in found.tables for name in table.column_names}
        print_rows(rows, columns=[name for name in found.columns if name in there])
    if len(rows) < wanted.rows and (wanted.where is not None or wanted.bad or not rows):
        which = "the first " if found.more else ""
        say(f"{len(rows):,} such rows among {which}{found.looked_at:,}", err=True)


def is_job_file(argument: str) -> bool:
    """Whether a job or an output is meant, where either may be named."""
    # These two take any text, also what is no name of a file.
    if argument.lower().endswith((".yaml", ".yml")):
        return not os.path.isdir(argument)  # noqa: PTH112
    parquet = argument.lower().endswith((".parquet", ".pq", ".parq"))
    return os.path.isfile(argument) and not parquet  # noqa: PTH113


def size_of(text: str, *, option: str) -> int:
    """A size in bytes.

    Args:
        text: As it was given.
        option: Where, for messages.
    """
    from pydantic import TypeAdapter, ValidationError

    from pipeline.job.quantities import Bytes

    try:
        found: int = TypeAdapter(Bytes).validate_python(int(text) if text.isdigit() else text)
    except ValidationError as error:
        raise click.BadParameter(
            f"{option} {text!r} is no size: write 128MB, 1GB or a number of bytes"
        ) from error
    return found


def quiet_libraries(environment: Any) -> None:
    """Keeps libraries from writing between our lines."""
    environment.setdefault("TRANSFORMERS_VERBOSITY", "error")
    environment.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    environment.setdefault("TOKENIZERS_PARALLELISM", "true")
