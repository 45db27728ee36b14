"""``shardscribe evaluate``."""

from __future__ import annotations

import os
from typing import Any

import click

from pipeline.cli.options import job_argument, quiet_libraries, set_option
from pipeline.cli.say import say, say_json
from pipeline.escape import visible
from pipeline.job.file import load_job


@click.command()
@job_argument
@set_option
@click.option("--gold", required=True, metavar="COLUMN", help="Holds the right answers.")
@click.option("--task", metavar="NAME", help="Which task.  [default: the only one that fits]")
@click.option("--output", is_flag=True, help="Take what the job's output holds; annotate nothing.")
@click.option(
    "--rows",
    default=1_000,
    show_default=True,
    type=click.IntRange(min=1),
    help="The first so many with gold.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, numbers unrounded.")
def evaluate(
    job_file: str,
    overrides: tuple[str, ...],
    gold: str,
    task: str | None,
    output: bool,
    rows: int,
    as_json: bool,
) -> None:
    """Say how good a task is, by rows of which the right answer is known.

    Annotates rows of the input in this process and writes nothing; or takes rows of the job's
    output. Intervals are of 95 %, by bootstrap over rows. Needs pip install
    'shardscribe[evaluate]'.

    \b
    Examples:
      shardscribe evaluate jobs/movie_reviews.yaml --task sentiment --gold label --rows 200
      shardscribe evaluate jobs/movie_reviews.yaml --task sentiment --gold label --output --json
    """
    quiet_libraries(os.environ)
    job = load_job(job_file, overrides=overrides)
    from pipeline.evaluate import evaluate_job

    report = evaluate_job(job, gold=gold, task=task, rows=rows, output=output)
    if as_json:
        say_json(report)
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console

    left = f", {report['unanswered']:,} of them unanswered and left out"
    say(f"{report['task']} ({report['kind']}) against {report['gold']}: {report['rows']:,} rows"
        f"{left if report['unanswered'] else ''}")  # fmt: skip
    console = Console()
    metrics = [
        [name.replace("_", " "), _number(m["value"]), _number(m["low"]), _number(m["high"])]
        for name, m in report["metrics"].items()
    ]
    console.print(_table(["", "value", "from", "to"], metrics))
    if report.get("labels"):
        console.print(_table(*_by_label(report["labels"])))
    if (confusion := report.get("confusion")) is not None:
        names = confusion["labels"]
        rows = [[n, *map(str, row)] for n, row in zip(names, confusion["rows"], strict=True)]
        console.print(_table(["gold, and what was given", *names], rows))
    if (calibration := report.get("calibration")) is not None:
        say(f"calibration error {_number(calibration['error'])}")


def _by_label(labels: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    figures = ("precision", "recall", "f1")
    if "strict" not in labels[0]:
        rows = [[la["label"], *(_number(la[f]) for f in figures), str(la["support"])]
                for la in labels]  # fmt: skip
        return ["label", *figures, "rows"], rows
    rows = [
        [la["label"], *(_number(la[way][f]) for way in ("strict", "partial") for f in figures),
         str(la["support"])]
        for la in labels
    ]  # fmt: skip
    short = ("prec.", "recall", "f1")
    names = [f"{way} {f}" for way in ("strict", "partial") for f in short]
    return ["label", *names, "spans"], rows


def _table(names: list[str], rows: list[list[str]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, pad_edge=False)
    for at, name in enumerate(names):
        table.add_column(Text(visible(name)), justify="right" if at else "left")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
