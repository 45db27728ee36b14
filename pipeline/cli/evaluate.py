"""``shardscribe evaluate``."""

from __future__ import annotations

import os
from typing import Any

import click

from pipeline.cli.options import is_job_file, quiet_libraries, set_option
from pipeline.cli.say import say, say_json
from pipeline.escape import visible
from pipeline.job.file import load_job

# The rest is in --json.
CHANGED_SHOWN = 10


@click.command()
@click.argument("job_file", metavar="[JOB]", type=click.Path(), required=False)
@set_option
@click.option("--gold", metavar="COLUMN", help="Holds the right answers.")
@click.option("--task", metavar="NAME", help="Which task.  [default: the only one that fits]")
@click.option("--output", is_flag=True, help="Take what the job's output holds; annotate nothing.")
@click.option(
    "--rows",
    default=1_000,
    show_default=True,
    type=click.IntRange(min=1),
    help="The first so many with gold.",
)
@click.option("--compare", nargs=2, metavar="A B", help="Two jobs or outputs, in the place of JOB.")
@click.option("--key", metavar="COLUMN", help="With --compare: tells the rows.  [default: id]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, numbers unrounded.")
def evaluate(
    job_file: str | None,
    overrides: tuple[str, ...],
    gold: str | None,
    task: str | None,
    output: bool,
    rows: int,
    compare: tuple[str, str] | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Say how good a task is, by rows of which the right answer is known.

    Annotates rows of the input in this process and writes nothing; or takes rows of the job's
    output. Intervals are of 95 %, by bootstrap over rows. Needs pip install
    'shardscribe[evaluate]'. With --compare it says where the labels of two outputs differ, and with
    --gold which of them is right more often, by McNemar's exact test.

    \b
    Examples:
      shardscribe evaluate jobs/movie_reviews.yaml --task sentiment --gold label --rows 200
      shardscribe evaluate jobs/movie_reviews.yaml --task sentiment --gold label --output --json
      shardscribe evaluate --compare data/before data/after --gold label
    """
    if compare:
        if job_file is not None or output:
            raise click.UsageError(
                "--compare takes two jobs or outputs: leave out JOB and --output"
            )
        _compare(compare, overrides, gold=gold, task=task, key=key, rows=rows, as_json=as_json)
        return
    if job_file is None or gold is None:
        missing = "argument 'JOB'" if job_file is None else "option '--gold'"
        raise click.UsageError(f"Missing {missing}, or '--compare' of two outputs")
    if key is not None:
        raise click.UsageError("--key goes with --compare")
    quiet_libraries(os.environ)
    job = load_job(job_file, overrides=overrides)
    from pipeline.evaluate import evaluate_job

    report = evaluate_job(job, gold=gold, task=task, rows=rows, output=output)
    if as_json:
        say_json(report)
    else:
        _show(report)


def _compare(
    pair: tuple[str, str], overrides: tuple[str, ...], *, as_json: bool, **choices: Any
) -> None:
    from pipeline.compare import Output, compare_outputs

    def opened(named: str) -> Output:
        if not is_job_file(named):
            return named, None
        job = load_job(named, overrides=overrides)
        return job.output.address, job

    report = compare_outputs(opened(pair[0]), opened(pair[1]), **choices)
    if as_json:
        say_json(report)
        return
    from rich.console import Console

    say(f"{report['task']} of {report['rows']:,} rows: {report['agreement']:.2%} agree, kappa "
        f"{_number(report['kappa'])}")  # fmt: skip
    alone = [f"only in {where}" for where in report["outputs"]]
    kinds = ["in both and lack a label in one at least", *alone]
    for count, what in zip([report["unanswered"], *report["only_in"]], kinds, strict=True):
        if count:
            say(f"{count:,} rows are {what}")
    console = Console()
    if report["changes"]:
        changes = [[row["from"], row["to"], f"{row['rows']:,}"] for row in report["changes"]]
        console.print(_table(["from", "to", "rows"], changes))
        names = list(report["changed"][0])
        few = [[str(row[name]) for name in names] for row in report["changed"][:CHANGED_SHOWN]]
        console.print(_table(names, few))
    if (against := report["gold"]) is not None:
        one, other = report["outputs"]
        right, alone = against["accuracy"], against["right_alone"]
        say(f"against {against['column']}, {against['rows']:,} rows: {one} is right in "
            f"{right[0]:.2%}, {other} in {right[1]:.2%}")  # fmt: skip
        say(f"{alone[0]:,} rows right only in the first, {alone[1]:,} only in the second; "
            f"McNemar's exact p = {against['p_value']:.3g}")  # fmt: skip


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
