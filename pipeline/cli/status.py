"""``shardscribe status`` and ``shardscribe verify``."""

from __future__ import annotations

import dataclasses
import shlex
import sys

import click

from pipeline.cli.options import is_job_file, job_argument, set_option
from pipeline.cli.say import say, say_json
from pipeline.job.file import load_job

PROBLEMS_SHOWN = 20
FILES_SHOWN = 10


@click.command()
@click.argument("job_or_output", metavar="JOB_OR_OUTPUT")
@set_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def status(job_or_output: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Count what is done, left, failed and bad, with reasons, and list the last runs.

    Give a job file to know what is left, or an output directory.

    \b
    Examples:
      shardscribe status jobs/movie_reviews.yaml
      shardscribe status data/annotated
    """
    from pipeline.status import output_status

    if is_job_file(job_or_output):
        job = load_job(job_or_output, overrides=overrides)
        found = output_status(job.output.path, job=job)
    else:
        found = output_status(job_or_output)
    if as_json:
        fields = {**dataclasses.asdict(found), "rows": found.rows.model_dump()}
        say_json(fields)
        return
    rows = found.rows
    if not found.files and not found.runs:
        say(f"{found.output} holds no annotated files yet")
    say(f"output  {found.output}: {found.files:,} files, {found.bytes / 1e6:,.1f} MB")
    if found.total is not None and found.left is not None:
        say(f"splits  {found.total:,} = {found.total - found.left:,} done + {found.left:,} left")
    say(
        f"rows    {rows.rows:,} = {rows.annotated:,} annotated + {rows.bad:,} bad"
        f" + {rows.skipped:,} skipped"
    )
    for kind, files in (("damaged", found.damaged), ("unread", found.unread)):
        for path, why in list(files.items())[:FILES_SHOWN]:
            say(f"{kind:<7} {path}: {why}")
        if len(files) > FILES_SHOWN:
            say(f"        and {len(files) - FILES_SHOWN} more")
    if found.damaged:
        say("        the next `shardscribe run` annotates damaged files anew")
    if found.others:
        say(
            f"other   {found.others:,} of the files are of a job that gives other results: "
            f"{'; '.join(found.differs) or 'fingerprints differ'}. Set that back, choose another "
            "output directory, or let `run --supersede` replace them"
        )
    for run in found.runs:
        seconds = f" in {run['seconds']:,.0f} s" if "seconds" in run else ""
        say(f"run     {run['run']}: {run['state']}{seconds}")
        if run.get("error"):
            say(f"        {run['error']}")
    # Of the last run alone: what failed before it may have been mended since.
    for failed in (found.runs[0].get("failed_splits") or [])[:10] if found.runs else []:
        say(f"failed  {failed['path']}: {failed['reason']}")


@click.command()
@job_argument
@set_option
def verify(job_file: str, overrides: tuple[str, ...]) -> None:
    """Read a job's output against its input.

    Every input split has exactly one output file, with every byte that was committed, as many
    rows and equal carried columns. Exits 0 if that holds, 1 with all that is wrong otherwise.

    \b
    Example:
      shardscribe verify jobs/movie_reviews.yaml
    """
    job = load_job(job_file, overrides=overrides)
    from pipeline.verify import verify_job

    verdict = verify_job(job)
    for problem in verdict.problems[:PROBLEMS_SHOWN]:
        say(f"wrong: {problem}")
    if len(verdict.problems) > PROBLEMS_SHOWN:
        say(f"and {len(verdict.problems) - PROBLEMS_SHOWN} more")
    say(
        f"{verdict.splits:,} splits and {verdict.rows:,} rows compared: "
        f"{'all right' if not verdict.problems else f'{len(verdict.problems)} problems'}"
    )
    if verdict.damaged:
        options = [part for override in overrides for part in ("--set", override)]
        hint = shlex.join(["shardscribe", "retry", job_file, *options, "--damaged"])
        say(f"`{hint}` annotates {verdict.damaged} of them anew")
    sys.exit(1 if verdict.problems else 0)
