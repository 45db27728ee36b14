"""``shardscribe preview``."""

from __future__ import annotations

import os

import click

from pipeline.cli.options import job_argument, quiet_libraries, set_option
from pipeline.cli.say import say_json
from pipeline.job_file import load_job


@click.command()
@job_argument
@set_option
@click.option("-n", "--rows", default=5, show_default=True, type=click.IntRange(1, 1000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object per row, for programs.")
def preview(job_file: str, overrides: tuple[str, ...], rows: int, as_json: bool) -> None:
    """Annotate the first few rows in this process and show them; write nothing.

    \b
    Example:
      shardscribe preview jobs/movie_reviews.yaml -n 5
    """
    quiet_libraries(os.environ)
    job = load_job(job_file, overrides=overrides)
    from pipeline.preview import preview_rows

    table = preview_rows(job, rows=rows)
    from pipeline.cli.render import print_rows, rows_of

    if as_json:
        for row in rows_of(table):
            say_json(row)
        return
    print_rows(rows_of(table), columns=[job.input.text, *job.tasks, "errors"])
