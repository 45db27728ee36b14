"""``shardscribe show``."""

from __future__ import annotations

import click

from pipeline.cli.options import job_argument, set_option
from pipeline.cli.say import say_json


@click.command()
@job_argument
@set_option
@click.option("-n", "--rows", default=5, show_default=True, type=click.IntRange(1, 1000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object per row, for programs.")
def show(job_file: str, overrides: tuple[str, ...], rows: int, as_json: bool) -> None:
    """Show annotated rows of a job's output.

    \b
    Example:
      shardscribe show jobs/movie_reviews.yaml -n 5
    """
    from pipeline.job_file import load_job
    from pipeline.preview import output_rows

    job = load_job(job_file, overrides=overrides)
    table = output_rows(job, rows=rows)
    from pipeline.cli.render import print_rows, rows_of

    if as_json:
        for row in rows_of(table):
            say_json(row)
        return
    print_rows(rows_of(table), columns=[job.input.text, *job.tasks, "errors"])
