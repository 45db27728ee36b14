"""``shardscribe show``."""

from __future__ import annotations

import click

from pipeline.cli.options import is_job_file, row_options, set_option, show_found, wanted_rows


@click.command()
@click.argument("job_or_output", metavar="JOB_OR_OUTPUT")
@set_option
@row_options
def show(job_or_output: str, overrides: tuple[str, ...], as_json: bool, **choices: object) -> None:
    """Show annotated rows of a job's output, or of any directory of annotated Parquet.

    \b
    Examples:
      shardscribe show jobs/movie_reviews.yaml -n 5
      shardscribe show data/annotated --bad
      shardscribe show data/annotated --where "sentiment.score < 0.6" --columns text,sentiment
    """
    from pipeline.job.file import load_job
    from pipeline.preview import output_rows

    wanted = wanted_rows(**choices)
    if is_job_file(job_or_output):
        job = load_job(job_or_output, overrides=overrides)
        found = output_rows(job.output.address, wanted, job=job)
    else:
        found = output_rows(job_or_output, wanted)
    show_found(found, wanted, as_json=as_json)
