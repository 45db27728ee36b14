"""Files -> splits, by the job and the files alone: whoever cuts them gives the same names."""

from __future__ import annotations

import zlib
from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from pipeline.lake.at_once import each
from pipeline.lake.memory import Memory
from pipeline.lake.split import Cut, RowGroups, Rows, Split
from pipeline.lake.store.base import Entry, Readable


class _Group(NamedTuple):
    """What counts of a row group."""

    rows: int
    size: int
    text: int  # bytes, unpacked


def splits_of(
    store: Readable,
    files: Sequence[Entry],
    *,
    fingerprint: str,
    cut: Cut = Cut(),  # noqa: B008 (frozen)
    memory: Memory | None = None,
    there: Container[str] = (),
) -> Iterator[Split]:
    """Cuts files into splits; each row of a file is in one of them.

    Footers are read only where they decide, many at once.

    Args:
        store: Of the dataset.
        files: Of the dataset.
        fingerprint: Of the job.
        cut: How large splits are.
        memory: Spares the reading of footers that were read before.
        there: Names of output files. A file that was annotated in one piece, or in runs of row
            groups, before such jobs were cut into ranges of rows is left as it is.
    """

    def groups_of(entry: Entry) -> Sequence[_Group]:
        known = None if memory is None else memory.get(entry.path, _version(entry, cut))
        if known:
            return [_Group(*numbers) for numbers in zip(*[iter(known)] * 3, strict=True)]
        return _row_groups(store, entry, cut.texts)

    def is_known(entry: Entry) -> bool:
        if cut.is_whole(entry):
            return True
        return Split.of(entry, fingerprint=fingerprint).output_path in there

    asked = [entry for entry in files if not is_known(entry)]
    found = dict(zip(asked, each(groups_of, asked), strict=True))
    for entry in files:
        groups = found.get(entry, ())
        if groups and memory is not None:
            flat = [number for group in groups for number in group]
            memory.put(entry.path, _version(entry, cut), flat)
        yield from _cut(entry, groups, cut, fingerprint, there)


def _cut(
    entry: Entry, groups: Sequence[_Group], cut: Cut, fingerprint: str, there: Container[str]
) -> Iterator[Split]:
    runs = _runs(groups, cut.bytes)
    first = 0
    if not runs:
        yield Split.of(entry, fingerprint=fingerprint)
    for at, last in runs:
        run = groups[at : last + 1]
        rows, size = sum(group.rows for group in run), sum(group.size for group in run)
        if len(runs) == 1:
            piece = Split.of(entry, fingerprint=fingerprint)
        else:
            piece = Split.of(entry, fingerprint=fingerprint, region=RowGroups(at, last), size=size)
        most = _most_rows(run, cut)
        if rows <= most or piece.output_path in there:
            yield piece
        else:
            for begin in range(first, first + rows, most):
                region = Rows(begin, min(most, first + rows - begin))
                # Alike, also of a shorter last one: what is sorted by size stays in its order.
                yield Split.of(
                    entry, fingerprint=fingerprint, region=region, size=size * most // rows
                )
        first += rows


def _runs(groups: Sequence[_Group], most: int | None) -> list[tuple[int, int]]:
    """First and last row group of each piece of a file."""
    runs: list[tuple[int, int]] = []
    held = 0
    for index, group in enumerate(groups):
        held += group.size
        if runs and (most is None or held <= most):
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
            held = group.size
    return runs


def _most_rows(run: Sequence[_Group], cut: Cut) -> int:
    """How many rows of a piece a split may have."""
    rows, size = sum(group.rows for group in run), sum(group.size for group in run)
    most = rows
    if cut.bytes is not None and size > cut.bytes:  # one row group
        most = -(-rows // -(-size // min(cut.bytes, cut.range_bytes)))
    if cut.rows is not None:
        most = min(most, cut.rows)
    text = sum(group.text for group in run)
    if cut.text_bytes is not None and text:
        most = min(most, rows * cut.text_bytes // text)
    return max(1, most)


def _row_groups(store: Readable, entry: Entry, texts: Sequence[str]) -> list[_Group]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    try:
        with closing(pq.ParquetFile(store.open(entry.path))) as file:
            for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
                columns = [group.column(number) for number in range(group.num_columns)]
                packed = sum(column.total_compressed_size for column in columns)
                plain = [c.total_uncompressed_size for c in columns if c.path_in_schema in texts]
                found.append(_Group(group.num_rows, packed, sum(plain)))
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return []  # a broken file is one split, which fails by itself with a clear message
    return found


def _version(entry: Entry, cut: Cut) -> str:
    """What of a file, and of which columns, is remembered."""
    columns = zlib.crc32("\0".join(cut.texts).encode("utf-8", "surrogateescape"))
    return f"{entry.version} {entry.size} {columns:08x}"
