"""``shardscribe inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipeline.cli.say import say, say_json

if TYPE_CHECKING:
    from pipeline.inspect import Inspected

NAMED = 5


@click.command()
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print what is there as JSON.")
def inspect(path: str, as_json: bool) -> int:
    """Say what is at a place: files, rows, columns, lengths of texts, a few rows.

    PATH is a Parquet file, a directory, a tree of partitions, a glob or a Delta table. All footers
    are read, and the first 100 rows of 10 files. A file that can't be read is named, and ends
    with exit code 2.

    \b
    Examples:
      shardscribe inspect data/reviews
      shardscribe inspect s3://lake/reviews --json
    """
    from pipeline.inspect import inspect as look

    found = look(path)
    if as_json:
        say_json(_plain(found))
    else:
        _tell(found)
    for file, how in list(found.differing.items())[:NAMED]:
        say(f"{file} differs from the first file: {how}", err=True)
    if len(found.differing) > NAMED:
        say(f"{len(found.differing):,} files differ from the first", err=True)
    for file, why in list(found.unreadable.items())[:NAMED]:
        say(f"Error: {file} can't be read: {why}. Write it anew, or take it away", err=True)
    if len(found.unreadable) > NAMED:
        say(f"Error: {len(found.unreadable):,} files can't be read", err=True)
    return 2 if found.unreadable else 0


def _plain(found: Inspected) -> dict[str, object]:
    from pipeline.cli.render import rows_of

    columns = {
        name: {"type": str(c.kind), "partition": c.told, "nulls": c.nulls, "min": c.low,
               "max": c.high} for name, c in found.columns.items()
    }  # fmt: skip
    lengths = [{"from": a, "to": b, "texts": n} for a, b, n in found.lengths]
    return {
        "format": found.format, "version": found.version, "files": found.files, "rows": found.rows,
        "bytes": found.bytes, "row_groups": found.row_groups, "empty_files": found.empty,
        "partitions": found.partitions, "columns": columns, "text": found.text, "why": found.why,
        "text_lengths": lengths, "unreadable": found.unreadable, "differing": found.differing,
        "sample": [] if found.sample is None else rows_of(found.sample),
    }  # fmt: skip


def _tell(found: Inspected) -> None:
    from pipeline.cli.render import print_rows, rows_of, short

    version = "" if found.version is None else f", version {found.version}"
    say(f"{found.format}{version}: {found.files:,} files, {found.rows:,} rows, "
        f"{found.bytes:,} bytes, {found.row_groups:,} row groups, "
        f"{found.partitions:,} partitions, {found.empty:,} files without rows")  # fmt: skip
    for name, column in found.columns.items():
        line = f"  {short(name)}: {short(str(column.kind))}"
        line += ", of the partition" if column.told else ""
        if column.low is not None:
            line += f", {short(str(column.low), 40)} to {short(str(column.high), 40)}"
        say(line if column.nulls is None else f"{line}, {column.nulls:,} nulls")
    if found.text is None:
        say(f"Text: {found.why}")
    else:
        say(f"Text: likely `{found.text}`: {found.why}")
    for least, most, texts in found.lengths:
        if texts:
            upto = "or more" if most is None else f"to {most:,}"
            say(f"  {least:,} {upto} characters: {texts:,} texts")
    if found.sample is not None:
        print_rows(rows_of(found.sample), columns=found.sample.column_names)
