"""``shardscribe import``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import size_of
from pipeline.cli.say import say, say_json

if TYPE_CHECKING:
    from pipeline.lake.ingest.importer import Imported

LINE_EVERY = 30.0


@click.command(name="import")
@click.argument("source")
@click.argument("dest")
@click.option("--size", default="128MB", show_default=True, help="Of a shard, at which it ends.")
@click.option("--rows", type=click.IntRange(min=1), help="Of a shard, at which it ends.")
@click.option(
    "--format",
    "kind",
    metavar="FORMAT",
    help="csv, json, text, arrow, or datasets for whatever `datasets` loads from a local path.  "
    "[default: as the names of the files say]",
)
@click.option(
    "--encoding",
    default="utf-8",
    show_default=True,
    help="Of text without a byte-order mark, such as cp1252.",
)
@click.option(
    "--delimiter",
    metavar="CHARACTER",
    help="Of CSV.  [default: a comma, semicolon, tab or bar, as the first line has it]",
)
@click.option(
    "--bad-lines",
    "allowed",
    default=0.1,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Share (below 1) or number of bad lines with which the import still ends with 0.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was imported as JSON.")
def import_rows(
    source: str,
    dest: str,
    size: str,
    rows: int | None,
    kind: str | None,
    encoding: str,
    delimiter: str | None,
    allowed: float,
    as_json: bool,
) -> int:
    """Write the rows of other formats as Parquet shards.

    SOURCE is a file, a directory or a glob: CSV, JSON lines, plain text (a row a line) or Arrow,
    maybe compressed (.gz, .zst, .bz2). It is read twice, first for the types of its columns.
    Files of one directory are cut into shards together. What is no row is counted, and kept
    beside DEST with its file, line and reason. The same command goes on where one was killed.

    \b
    Examples:
      shardscribe import raw/reviews.csv data/reviews
      shardscribe import 'raw/*.jsonl.gz' s3://lake/reviews --size 256MB
    """
    from pipeline.lake.ingest.importer import Importer
    from pipeline.lake.ingest.origin import ImportOptions, find
    from pipeline.lake.store.open import open_store

    reading = ImportOptions(format=_known(kind), encoding=encoding, delimiter=_character(delimiter))
    origin, others = find(source, reading)
    if others:
        say(f"{len(others):,} files are passed over, {others[0]} for one", err=True)
    told = _Told()
    try:
        done = Importer(origin, open_store(dest), size_of(size, option="--size"), rows, told).run()
    finally:
        told.close()
    if as_json:
        say_json({"rows": done.rows, "shards": done.shards, "bad_lines": done.bad,
                  "bad_lines_in": done.bad_in if done.bad else None})  # fmt: skip
    else:
        say(f"{dest}: {done.rows:,} rows in {done.shards:,} shards")
    if done.bad:
        lines = "1 bad line is" if done.bad == 1 else f"{done.bad:,} bad lines are"
        say(f"{lines} kept in {done.bad_in}, the first: {done.first_bad}", err=True)
    most = allowed * (done.rows + done.bad) if allowed < 1 else allowed
    if done.bad > most:
        say(f"Error: more bad lines than --bad-lines {allowed:g} allows", err=True)
        return 1
    return 0


class _Told:
    """Says how far an import is: on a terminal as it goes, elsewhere every 30 s."""

    def __init__(self) -> None:
        from rich.console import Console

        console = Console(stderr=True)
        self._bar = None
        self._next = time.monotonic() + LINE_EVERY
        if console.is_terminal:
            from pipeline.cli.display import make_bar

            self._bar = make_bar(console)
            self._bar.start()

    def __call__(self, state: Imported) -> None:
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0],
                completed=state.read / max(1, state.size),
                description=_line(state),
            )
        elif now >= self._next:
            self._next = now + LINE_EVERY
            say(_line(state), err=True)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()


def _line(state: Imported) -> str:
    share = min(1.0, state.read / max(1, state.size))
    found = f"{state.phase} {share:4.0%}"
    if state.shards:
        found += f"  {state.rows:,} rows in {state.shards:,} shards"
    return f"{found}  {state.bad:,} bad lines" if state.bad else found


def _known(kind: str | None) -> str | None:
    from pipeline.lake.ingest.origin import FORMATS

    if kind is not None and kind not in FORMATS:
        raise click.BadParameter(f"there is no format {kind!r}; there are {', '.join(FORMATS)}")
    return kind


def _character(delimiter: str | None) -> str | None:
    if delimiter == "\\t":
        return "\t"
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
        raise click.BadParameter(f"{delimiter!r} is no character that can stand between fields")
    return delimiter
