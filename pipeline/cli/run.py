"""``shardscribe run``."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from typing import Any

import click

from pipeline.cli.options import job_argument, quiet_libraries, set_option
from pipeline.job.file import load_job

address_option = click.option(
    "--address",
    metavar="ADDRESS",
    help="A Ray cluster that is there: `auto`, HOST:6379 or ray://HOST:10001. Without it, "
    "RAY_ADDRESS counts, and without that Ray is started on this machine.",
)
wait_option = click.option(
    "--wait", is_flag=True, help="Wait for another run that holds the output to end."
)
log_option = click.option(
    "--log-format",
    type=click.Choice(["auto", "plain", "json"]),
    default="auto",
    show_default=True,
    help="auto: a progress bar on a terminal, plain lines elsewhere. json: an object per line.",
)


@click.command()
@job_argument
@set_option
@address_option
@wait_option
@click.option("--prune", is_flag=True, help="Remove output whose input is gone.")
@click.option(
    "--supersede",
    is_flag=True,
    help="Replace output of a job that gives other results, such as other models or options.",
)
@click.option(
    "--full",
    is_flag=True,
    help="Annotate everything, also what is done already; each new file takes the place of the "
    "old one. Interrupted, it starts over.",
)
@click.option(
    "--limit",
    metavar="ROWS",
    type=click.IntRange(min=1),
    help="Stop when so many more rows are annotated: the first files, each whole, or the first "
    "parts of a large one. What is there then is complete, and the same command without --limit "
    "goes on from there.",
)
@log_option
def run(job_file: str, overrides: tuple[str, ...], log_format: str, **choices: Any) -> None:
    """Annotate everything that a job file names and is not annotated yet.

    \b
    Examples:
      shardscribe run jobs/movie_reviews.yaml
      shardscribe run jobs/movie_reviews.yaml --set input.path=data/tonight
      shardscribe run jobs/movie_reviews.yaml --limit 1000
      shardscribe run jobs/movie_reviews.yaml --address auto

    \b
    Exit codes:
      0  everything is annotated, or as much as --limit asks for
      1  some splits failed; the rest is committed
      2  the job is wrong; nothing was started
      3  interrupted; the same command resumes
      4  another run holds the output
    """
    if choices["full"] and choices["limit"]:
        raise click.UsageError("--full begins anew each time, so that --limit gets no further.")
    start(job_file, overrides, log_format=log_format, **choices)


@click.command()
@job_argument
@set_option
@address_option
@wait_option
@click.option(
    "--bad-rows",
    "retry_bad_rows",
    is_flag=True,
    help="Also annotate splits again that hold rows with errors; the new file takes the place of "
    "the old one.",
)
@click.option(
    "--damaged",
    "retry_damaged",
    is_flag=True,
    help="Also read the whole output, as `verify` does, and annotate splits again whose file is "
    "not what was committed.",
)
@log_option
def retry(job_file: str, overrides: tuple[str, ...], log_format: str, **choices: Any) -> None:
    """Annotate splits again that failed, and those with bad rows or damaged files if asked.

    \b
    Examples:
      shardscribe retry jobs/movie_reviews.yaml
      shardscribe retry jobs/movie_reviews.yaml --bad-rows
      shardscribe retry jobs/movie_reviews.yaml --damaged
    """
    start(job_file, overrides, log_format=log_format, **choices)


def start(job_file: str, overrides: tuple[str, ...], *, log_format: str, **choices: Any) -> None:
    """Runs a job and exits with its code."""
    quiet_libraries(os.environ)
    job = load_job(job_file, overrides=overrides)
    from pipeline.cli.display import make_display
    from pipeline.planning import Choices
    from pipeline.run import run_job

    with make_display(log_format) as display:
        summary = run_job(
            job,
            display=display,
            choices=Choices(**choices),
            stop=stop_on_signals(),
        )
    display.summary(summary, command=shlex.join(["shardscribe", *sys.argv[1:]]))
    sys.exit(summary.exit_code)


def stop_on_signals() -> Any:
    """Counts Ctrl-C and SIGTERM: the first drains, the second stops at once.

    Where nobody looks at the count, as while Ray starts, the third one ends the process.
    """
    count = 0

    def on_signal(*_: object) -> None:
        nonlocal count
        count += 1
        if count > 2:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return lambda: count
