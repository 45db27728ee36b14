"""``shardscribe preview``."""

from __future__ import annotations

import os

import click

from pipeline.cli.options import (
    job_argument,
    quiet_libraries,
    row_options,
    set_option,
    show_found,
    wanted_rows,
)
from pipeline.job.file import load_job


@click.command()
@job_argument
@set_option
@row_options
def preview(job_file: str, overrides: tuple[str, ...], as_json: bool, **choices: object) -> None:
    """Annotate the first few rows in this process and show them; write nothing.

    A condition over the input's columns alone is asked first; one over what the tasks give is
    asked of the first 1,000 rows.

    \b
    Examples:
      shardscribe preview jobs/movie_reviews.yaml -n 5
      shardscribe preview jobs/movie_reviews.yaml --where "length(text) > 2000"
      shardscribe preview jobs/movie_reviews.yaml --where "sentiment.label = 'negative'"
    """
    quiet_libraries(os.environ)
    wanted = wanted_rows(**choices)
    job = load_job(job_file, overrides=overrides)
    from pipeline.preview import preview_rows

    show_found(preview_rows(job, wanted), wanted, as_json=as_json)
