"""``shardscribe preview``."""

from __future__ import annotations

import os

import click

from pipeline.cli.options import job_argument, quiet_libraries, set_option
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
    if as_json:
        import json

        for row in table.to_pylist():
            click.echo(json.dumps(row, default=str, ensure_ascii=False))
        return
    from pipeline.cli.render import print_rows

    print_rows(table.to_pylist(), columns=[job.input.text, *job.tasks, "errors"])
