"""``shardscribe distil``."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import job_argument, quiet_libraries, set_option
from pipeline.cli.run import address_option, stop_on_signals
from pipeline.cli.say import say, say_json
from pipeline.errors import JobError
from pipeline.job.file import load_job


@click.command()
@job_argument
@click.argument("place", metavar="DIRECTORY", type=click.Path(file_okay=False, path_type=Path))
@set_option
@click.option("--task", metavar="NAME", help="The teacher's.  [default: the job's only one]")
@click.option(
    "--rows",
    default=2_000,
    show_default=True,
    type=click.IntRange(min=20),
    help="How many texts the teacher answers: a uniform sample, the same for the same dataset.",
)
@click.option("--base", default="starter/minilm", show_default=True, help="The student, untaught.")
@click.option("--train", "options", metavar="OPTION=VALUE", multiple=True,
              help="An option of `train`, such as epochs=2.")  # fmt: skip
@click.option("--gold", metavar="COLUMN", help="Right answers, to hold both against.")
@address_option
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object, all numbers.")
def distil(
    job_file: str,
    place: Path,
    overrides: tuple[str, ...],
    task: str | None,
    rows: int,
    base: str,
    options: tuple[str, ...],
    gold: str | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Train a small model to answer as a task of a job does, and say how it compares.

    A sample of the input is annotated with the task's own model, a student is trained on what it
    said, and both are compared on rows that the student has not seen. DIRECTORY keeps all of it:
    the model in student/, report.json, and job.yaml, which annotates the rest with the student.
    Killed anywhere, the same command goes on. Needs pip install 'shardscribe[train]'.

    \b
    Examples:
      shardscribe distil jobs/sentiment_zero_shot.yaml models/mood --rows 500 --gold label
      shardscribe run models/mood/job.yaml
    """
    quiet_libraries(os.environ)
    job = load_job(job_file, overrides=overrides)
    from pipeline.cli.display import make_display
    from pipeline.distil import distil as distilled
    from pipeline.learn.lesson import Lesson

    name = task if task is not None else next(iter(job.tasks))
    if task is None and len(job.tasks) > 1:
        raise JobError(f"the job has several tasks: {', '.join(job.tasks)}",
                       hint="Say which one with --task")  # fmt: skip
    lesson = Lesson(
        job, name, place.expanduser().resolve(), rows=rows, base=base, gold=gold,
        train=_parsed(options),
    )  # fmt: skip
    with make_display("plain") as display:
        report = distilled(
            lesson, display=display, say=lambda line: say(line, err=as_json),
            command=shlex.join(["shardscribe", *sys.argv[1:]]), address=address,
            stop=stop_on_signals(),
        )  # fmt: skip
    if as_json:
        say_json(report)
    else:
        _show(report, place)


def _parsed(options: tuple[str, ...]) -> dict[str, Any]:
    from pipeline.job.file import set_in

    data: dict[str, Any] = {}
    for option in options:
        set_in(data, option, flag="--train", example="epochs=2")
    return data


def _show(report: dict[str, Any], place: Path) -> None:
    sizes = report["rows"]
    say(f"{sizes['test']:,} of {sizes['sample']:,} texts were kept from the student")
    for who in ("teacher", "student"):
        speed = report[who]["rows_per_second"]
        model = report[who]["model"]
        say(f"{who}: {model}" + (f", {speed:,.1f} rows/s" if speed is not None else ""))
    if (times := report["times_as_fast"]) is not None:
        say(f"the student is {times:,.1f} times as fast")
    for name, figure in report["agreement"].items():
        say(f"student against teacher, {_figure(name, figure)}")
    gold = report.get("gold") or {}
    for who in ("teacher", "student"):
        for name, figure in gold.get(who, {}).items():
            say(f"{who} against gold, {_figure(name, figure)}")
    if "student_less_teacher" in gold:
        say(_figure("student less teacher, against gold", gold["student_less_teacher"]))
    say(f"annotate the rest with: shardscribe run {place / 'job.yaml'}")


def _figure(name: str, figure: dict[str, float | None]) -> str:
    between = "" if figure["low"] is None else f" ({figure['low']:.3f} to {figure['high']:.3f})"
    return f"{name.replace('_', ' ')}: {figure['value']:.3f}{between}"
