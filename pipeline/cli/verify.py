"""``shardscribe verify``."""

from __future__ import annotations

import shlex
import sys

import click

from pipeline.cli.options import job_argument, set_option
from pipeline.cli.say import say
from pipeline.job.file import load_job

PROBLEMS_SHOWN = 20


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
    if verdict.merged:
        say(
            f"{verdict.merged:,} more splits can't be compared: another program has put their rows "
            "into other files of the table"
        )
    if verdict.damaged:
        options = [part for override in overrides for part in ("--set", override)]
        hint = shlex.join(["shardscribe", "retry", job_file, *options, "--damaged"])
        say(f"`{hint}` annotates {verdict.damaged} of them anew")
    sys.exit(1 if verdict.problems else 0)
