"""``shardscribe validate``."""

from __future__ import annotations

import click

from pipeline.cli.options import job_argument, set_option
from pipeline.cli.say import say
from pipeline.job.check import check
from pipeline.job.file import load_job

MISSED_SHOWN = 10


@click.command()
@job_argument
@set_option
def validate(job_file: str, overrides: tuple[str, ...]) -> None:
    """Check a job file, its input and its models; start nothing.

    Exits 0 if a run could start, 2 with the file, line and field that is wrong otherwise.

    \b
    Example:
      shardscribe validate jobs/movie_reviews.yaml
    """
    checked = check(load_job(job_file, overrides=overrides))
    job = checked.job
    size = sum(entry.size for entry in checked.listing.files)
    say(f"{job_file} is a valid job: {job.name}")
    say(f"  input   {job.input.address}: {len(checked.listing.files)} files, {size / 1e6:,.1f} MB")
    for path, reason in list(checked.listing.missed.items())[:MISSED_SHOWN]:
        say(f"          {path} can't be read: {reason}")
    for name, options in job.options.items():
        info = checked.infos[options.model]
        arch = ", ".join(info.architectures) or "unknown architecture"
        file = f", {info.file}" if info.file else ""
        say(f"  task    {name}: {options.kind} with {options.model} ({arch}{file})")
        if job.compute.dtype == "int8":
            labels = job.configured[name].has_labels
            said = "int8, texts near a tie again in float32" if labels else "float32, as ever"
            say(f"          computed in {said}")
    say(f"  output  {job.output.path}")
