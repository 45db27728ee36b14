"""``shardscribe train``."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Any

import click

from pipeline.cli.options import quiet_libraries, set_option
from pipeline.cli.say import say, say_json
from pipeline.job.file import load_file


@click.command()
@click.argument("job_file", metavar="TRAIN_JOB", type=click.Path())
@set_option
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object, all numbers.")
def train(job_file: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Train a model on labelled rows, and write it as a folder that a job can name.

    Killed anywhere, the same command goes on from the last checkpoint. The folder appears whole,
    with a card that says what it was made of and how good it is. Needs pip install
    'shardscribe[train]'.

    \b
    Examples:
      shardscribe train jobs/train_sentiment.yaml
      shardscribe train jobs/train_sentiment.yaml --set train.freeze.all_but_last=1
    """
    quiet_libraries(os.environ)
    from pipeline.learn.train.job import TrainJob

    job = load_file(job_file, TrainJob, overrides=overrides)
    from pipeline.learn.train.run import train_job

    record = train_job(
        job,
        command=shlex.join(["shardscribe", *sys.argv[1:]]),
        say=lambda line: say(line, err=as_json),
    )
    if as_json:
        say_json(record)
    else:
        _show(record, job.output.path)


def _show(record: dict[str, Any], path: str) -> None:
    if record.get("was_there"):
        say(f"{path}: trained already")
    figures = record["figures"]
    for name, figure in (figures["metrics"] if figures else {}).items():
        between = "" if figure["low"] is None else f" ({figure['low']:.3f} to {figure['high']:.3f})"
        say(f"test {name.replace('_', ' ')}: {figure['value']:.3f}{between}, "
            f"{record['rows']['test']:,} rows")  # fmt: skip
    say(f"{path}: a model that a job can name, with its card in README.md")
