"""``shardscribe compact``."""

from __future__ import annotations

import time

import click

from pipeline.cli.options import is_job_file, set_option, size_of
from pipeline.cli.say import say, say_json
from pipeline.errors import JobError
from pipeline.job.file import load_job

LINE_EVERY = 30.0
NAMED = 5


@click.command()
@click.argument("job_or_output", metavar="JOB_OR_OUTPUT")
@set_option
@click.option(
    "--file-size", default="128MB", show_default=True, help="Of a merged file, at most, about."
)
@click.option("--wait", is_flag=True, help="Wait for a run that holds the output to end.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def compact(
    job_or_output: str, overrides: tuple[str, ...], file_size: str, wait: bool, as_json: bool
) -> int:
    """Merge many small annotated files into few.

    Files of one directory are merged, never those of two: a tree of partitions stays one. All
    verbs know what is done as before. Killed at any time, the same command goes on, and nothing
    is lost; until then another program that reads the directory may see rows twice, as it may
    while this runs. Exits with 1 if files are damaged, which stay as they are.

    \b
    Examples:
      shardscribe compact data/annotated
      shardscribe compact jobs/movie_reviews.yaml --file-size 512MB
    """
    from pipeline.compact import TABLE_HINT, compact_output
    from pipeline.job.places import output_address

    size = size_of(file_size, option="--file-size")
    said = time.monotonic()

    def notice(text: str) -> None:
        nonlocal said
        if time.monotonic() - said >= LINE_EVERY or text.startswith("waiting"):
            said = time.monotonic()
            say(text, err=True)

    address = job_or_output
    if is_job_file(job_or_output):
        job = load_job(job_or_output, overrides=overrides)
        if job.output.format != "parquet":
            raise JobError(f"output.format is {job.output.format}", hint=TABLE_HINT)
        address = output_address(job)
    found = compact_output(address, file_size=size, wait=wait, notice=notice)
    if as_json:
        say_json(vars(found))
    else:
        say(
            f"{address}: {found.before:,} files are {found.after:,} now; {found.written:,} are new "
            f"and hold {found.rows:,} rows"
        )
    for path, why in list(found.left.items())[:NAMED]:
        say(f"{path} stays as it is: {why}. See: shardscribe verify, retry --damaged", err=True)
    if len(found.left) > NAMED:
        say(f"{len(found.left):,} files stay as they are", err=True)
    return 1 if found.left else 0
