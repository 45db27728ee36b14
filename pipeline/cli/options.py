"""Arguments that several verbs share."""

from __future__ import annotations

from typing import Any

import click

job_argument = click.argument("job_file", metavar="JOB", type=click.Path())
set_option = click.option(
    "--set",
    "overrides",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Override a field of the job file, such as --set input.path=data/today or "
    "--set compute.workers=2. May be given several times; the value is YAML.",
)


def quiet_libraries(environment: Any) -> None:
    """Keeps libraries from writing between our lines."""
    environment.setdefault("TRANSFORMERS_VERBOSITY", "error")
    environment.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    environment.setdefault("TOKENIZERS_PARALLELISM", "true")
