"""``shardscribe estimate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import is_job_file, set_option
from pipeline.cli.say import say, say_json
from pipeline.escape import visible

_LEFT_OUT = {
    "unmatched": "match no row of the output",
    "unanswered": "match a row without annotation",
    "without_gold": "have no gold",
    "without_key": "have no key",
    "twice": "are there twice, and count once",
}


@click.command()
@click.argument("job_or_output", metavar="JOB_OR_OUTPUT")
@set_option
@click.option("--gold", type=click.Path(path_type=Path), help="Parquet or CSV of labelled rows.")
@click.option("--column", default="gold", show_default=True, help="Of that file: what is right.")
@click.option("--key", metavar="COLUMN", help="Finds the rows.  [default: the only one in both]")
@click.option("--task", metavar="NAME", help="Which annotations.  [default: the only labels]")
@click.option("--label", metavar="NAME", help="Which label.  [default: all]")
@click.option("--by", metavar="COLUMN", help="An estimate for each of its values.")
@click.option("--confidence", default=0.95, show_default=True,
              type=click.FloatRange(0, 1, min_open=True, max_open=True))  # fmt: skip
@click.option("--next", "more", nargs=2, metavar="N FILE", type=(click.IntRange(1), Path),
              help="Write N rows to label next, with weights.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object, numbers unrounded.")
def estimate(
    job_or_output: str,
    overrides: tuple[str, ...],
    gold: Path | None,
    label: str | None,
    by: str | None,
    confidence: float,
    more: tuple[int, Path] | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Estimate shares and means over a whole output, with intervals that hold although models err.

    Takes what the annotations say of all rows, and corrects it by how far they are off on rows of
    the output that were drawn at random and labelled by people (--gold): prediction-powered
    inference. A few hundred are enough. A column `weight` of that file is one over the probability
    that a row was drawn.

    \b
    Examples:
      shardscribe estimate data/annotated --task sentiment --key id --next 300 to_label.csv
      shardscribe estimate data/annotated --task sentiment --key id --gold labelled.csv --by source
    """
    from pipeline.job.file import load_job

    job = load_job(job_or_output, overrides=overrides) if is_job_file(job_or_output) else None
    address = job.output.address if job is not None else job_or_output
    if more is not None:
        from pipeline.next_rows import next_rows

        if by is not None:
            raise click.UsageError("--by is of an estimate: leave it out with --next")
        done = next_rows(address, wanted=more[0], file=more[1], job=job, gold=gold, label=label,
                         **where)  # fmt: skip
        if as_json:
            say_json(done)
        else:
            say(f"{done['file']}: {done['rows']:,} rows, {done['labelled']:,} of them labelled; "
                f"fill in `{done['column']}`, then --gold {done['file']}")  # fmt: skip
        return
    if gold is None:
        raise click.UsageError("Missing option '--gold', or '--next' to choose rows to label")
    from pipeline.estimate import estimate as estimated

    report = estimated(address, gold=gold, job=job, label=label, by=by, confidence=confidence,
                       **where)  # fmt: skip
    if as_json:
        say_json(report)
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    gold, by = report["gold"], report["by"]
    bare = f", {report['unanswered']:,} more without annotation"
    say(f"{report['task']} of {report['rows']:,} rows{bare if report['unanswered'] else ''}, by "
        f"{gold['rows']:,} gold rows{', weighted' if gold['weighted'] else ''}")  # fmt: skip
    for name, what in _LEFT_OUT.items():
        if gold[name]:
            say(f"{gold[name]:,} gold rows {what}")
    if gold["alike"]:
        say(f"{gold['alike']:,} gold keys are of several rows: the first of each was taken")
    table = Table(box=box.SIMPLE, pad_edge=False)
    value = {"label": "share", "spans": "a row", "number": "mean"}[report["of"]]
    names = [*([by] if by is not None else []), *(["label"] if report["of"] != "number" else [])]
    for at, name in enumerate([*names, value, "from", "to", "by gold alone", "gold rows"]):
        table.add_column(Text(visible(name)), justify="right" if at >= len(names) else "left")
    for row in report["estimates"]:
        alone = row["gold_alone"]
        cells = [
            *([str(row["group"])] if by is not None else []),
            *([row["label"]] if report["of"] != "number" else []),
            *(_number(row[end]) for end in ("value", "low", "high")),
            f"{_number(alone['low'])} to {_number(alone['high'])}" if alone else "-",
            f"{row['gold_rows']:,}",
        ]
        table.add_row(*(Text(visible(cell, most=80)) for cell in cells))
    console = Console()
    console.print(table)
    for row in report["estimates"]:
        if row["why"] is not None:
            named = [str(row[part]) for part in ("group", "label") if row.get(part) is not None]
            say(f"no interval for {', '.join(named) or report['task']}: {row['why']}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
