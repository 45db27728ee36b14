"""What is at a place: its files, rows, columns and texts, told by footers and a few rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import JobError, SplitError, one_line
from pipeline.lake.at_once import each
from pipeline.lake.source.base import Source
from pipeline.lake.source.hive import Partitions, directory_of
from pipeline.lake.source.open import as_found, open_source
from pipeline.lake.source.outline import ColumnPlaces, Outline, outline, wider
from pipeline.lake.source.table import TableSource
from pipeline.lake.split import Split
from pipeline.lake.store.base import Entry, Readable

# Rows are read of so many files, spread evenly over all, and so many of each from its start.
SAMPLE_FILES = 10
SAMPLE_ROWS = 100
SHOWN_ROWS = 3
READ_ROWS = 20
LONGEST = (0, 15, 63, 255, 1023, 4095, 16383)


@dataclass
class Column:
    """What footers tell of a column.

    Attributes:
        kind: Its type, in the first file that has it.
        told: Whether directories or a table's log tell it, and files need not have it.
        nulls: How many; None where a footer does not say.
        low: The least value; None where unknown.
        high: The greatest value; None where unknown.
        bounded: Whether every footer so far told its bounds.
    """

    kind: pa.DataType
    told: bool = False
    nulls: int | None = 0
    low: Any = None
    high: Any = None
    bounded: bool = True


@dataclass
class Inspected:
    """What is at a place.

    Attributes:
        format: In words.
        version: Of a table.
        files: How many there are, those that can't be read included.
        bytes: Of all files.
        rows: Of those files that can be read, without those that a table has deleted.
        row_groups: Of the same files.
        empty: Files without rows.
        partitions: How many there are; none where nothing is partitioned.
        columns: By name.
        unreadable: Files and directories that can't be read, each with the reason.
        differing: Files whose columns are not those of the first, each with how.
        text: The column that texts are likely in.
        why: Why that one, or why none.
        lengths: Of the sampled texts in it, in characters: least, most, texts; no most is None.
        sample: A few rows.
    """

    format: str
    version: int | None
    files: int
    bytes: int
    rows: int = 0
    row_groups: int = 0
    empty: int = 0
    partitions: int = 0
    columns: dict[str, Column] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    differing: dict[str, str] = field(default_factory=dict)
    text: str | None = None
    why: str = "no column is of text"
    lengths: list[tuple[int, int | None, int]] = field(default_factory=list)
    sample: pa.Table | None = None


def inspect(address: str) -> Inspected:
    """Looks at what is at a place, and reads all footers and a few rows of it.

    Raises:
        JobError: There is nothing, or none of it can be read.
    """
    try:
        source = as_found(open_source(address))
        listing = source.listing()
    except JobError as error:
        said = error.message.removeprefix("input.path ")
        raise JobError(said, hint=error.hint, also=error.also) from error
    source = source.settled(listing)
    kind = "Hive tree of Parquet" if listing.told else "Parquet files"
    table = None
    if isinstance(source, TableSource):
        kind, table = source.table.kind, source.files
    store: Readable = table or source.store  # type: ignore[attr-defined]
    files = listing.files
    found = Inspected(kind, listing.version, len(files), sum(entry.size for entry in files))
    found.unreadable |= listing.missed
    told: Sequence[str] = list(listing.told)
    if table is not None:
        told = list(table.partition(files[0].path))
        found.columns = {f.name: Column(f.type, f.name in told) for f in table.schema}
        found.partitions = len({table.partition_values(e.path) for e in files}) if told else 0
    elif told:
        found.partitions = len({directory_of(entry.path) for entry in files})
    places: list[ColumnPlaces] = []
    footers = each(lambda entry: outline(store, entry, places), files)
    first: pa.Schema | None = None
    good: list[Entry] = []
    for entry, footer in zip(files, footers, strict=True):
        if isinstance(footer, str):
            found.unreadable[entry.path] = footer
            continue
        first = footer.schema if first is None else first
        if table is None and (how := _difference(first, footer.schema)):
            found.differing[entry.path] = how
        rows = footer.rows if table is None else _left(source, entry, found)
        _add(found, footer, rows)
        if rows:
            good.append(entry)
    if first is None:
        path, why = next(iter(found.unreadable.items()))
        raise JobError(
            f"no file of {source.address} can be read, {source.where(path)} for one: {why}",
            hint="Write them anew",
        )
    if table is None:
        found.columns |= {n: Column(t, told=True) for n, t in listing.told.items()}
    _bound_told(found, Partitions(listing.told), files if table is None else ())
    _look(found, source, good)
    return found


def _add(found: Inspected, footer: Outline, rows: int) -> None:
    found.rows += rows
    found.row_groups += footer.groups
    found.empty += not rows
    for name, column in found.columns.items():
        if name not in footer.nulls and not column.told and column.nulls is not None:
            column.nulls += footer.rows
    for name in footer.nulls:
        if name not in found.columns:
            before = found.rows - rows  # files that came before lack it
            found.columns[name] = Column(footer.schema.field(name).type, nulls=before)
        column, nulls = found.columns[name], footer.nulls[name]
        column.nulls = None if nulls is None or column.nulls is None else column.nulls + nulls
        ends = footer.bounds.get(name, (None, None))
        both = wider((column.low, column.high) if column.bounded else None, ends)
        column.bounded = both is not None
        column.low, column.high = both or (None, None)


def _bound_told(found: Inspected, partitions: Partitions, files: Sequence[Entry]) -> None:
    """The bounds of what directories tell; of how many rows it is null, no footer says."""
    for entry in {directory_of(entry.path): entry for entry in files}.values():
        for name, value in partitions.of(entry.path).items():
            column = found.columns[name]
            both = wider((column.low, column.high), (value.as_py(), value.as_py()))
            column.low, column.high = both or (None, None)
    for column in found.columns.values():
        if column.told:
            column.nulls = None


def _left(source: Source, entry: Entry, found: Inspected) -> int:
    """How many of a table's rows in a file are not deleted."""
    try:
        with closing(source.open(Split.of(entry, fingerprint=""))) as opened:
            return opened.rows
    except SplitError as error:
        found.unreadable[entry.path] = one_line(error, most=120)
        return 0


def _difference(first: pa.Schema, other: pa.Schema) -> str:
    if other.equals(first):
        return ""
    lacks = [f"lacks `{name}`" for name in first.names if name not in other.names]
    more = [f"has `{name}` more" for name in other.names if name not in first.names]
    kinds = [
        f"`{name}` is {other.field(name).type} and not {first.field(name).type}"
        for name in first.names
        if name in other.names and not other.field(name).type.equals(first.field(name).type)
    ]
    return ", ".join([*lacks, *more, *kinds])


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _look(found: Inspected, source: Source, files: Sequence[Entry]) -> None:
    """Reads a few rows: which column has texts, how long they are, and what rows look like."""
    count = min(SAMPLE_FILES, len(files))
    lengths: dict[str, list[int]] = {}
    for at in range(count):
        entry = files[at * len(files) // count]
        try:
            with closing(source.open(Split.of(entry, fingerprint=""))) as opened:
                if found.sample is None:
                    head = next(opened.batches(opened.schema.names, rows=SHOWN_ROWS), None)
                    found.sample = None if head is None else head.slice(0, SHOWN_ROWS)
                names = [f.name for f in opened.schema if _is_text(f.type)]
                names = [n for n in names if n in found.columns and not found.columns[n].told]
                for name, some in _lengths(opened, names):
                    lengths.setdefault(name, []).extend(some)
        except (SplitError, pa.ArrowException, UnicodeDecodeError) as error:
            found.unreadable[entry.path] = one_line(error, most=120)
    means = {name: sum(some) / len(some) for name, some in lengths.items() if some}
    if not means:
        return
    found.text = max(means, key=lambda name: means[name])
    some = lengths[found.text]
    found.why = f"its texts are the longest: {means[found.text]:,.0f} characters on average"
    found.why += f" in {len(some):,} sampled rows"
    least = 0
    for most in (*LONGEST, None):
        within = sum(least <= n and (most is None or n <= most) for n in some)
        found.lengths.append((least, most, within))
        least = 0 if most is None else most + 1


def _lengths(opened: Any, names: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """The lengths of a file's first texts, in characters; nulls are none."""
    read = 0
    for batch in opened.batches(names, rows=READ_ROWS) if names else ():
        for name in names:
            column = batch.column(name)
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            yield name, pc.utf8_length(column.cast(pa.large_string()).drop_null()).to_pylist()
        read += batch.num_rows
        if read >= SAMPLE_ROWS:
            return
