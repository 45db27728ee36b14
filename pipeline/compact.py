"""An output of many small files, merged into few: each step can be the last one."""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine.driver.lease import Lease
from pipeline.errors import JobError, ShardscribeError, one_line
from pipeline.lake.at_once import each
from pipeline.lake.delta import is_table
from pipeline.lake.sink.base import Damaged
from pipeline.lake.sink.compacted import CompactedSink, layout_of, seal_of
from pipeline.lake.sink.footers import said
from pipeline.lake.sink.ledger import holds_table
from pipeline.lake.sink.merged import MergedPart, is_merged
from pipeline.lake.sink.merging import MergeOrigin, merge
from pipeline.lake.sink.open import open_sink
from pipeline.lake.sink.scratch import clean_up
from pipeline.lake.sink.seal import sealed_size
from pipeline.lake.split import Rows
from pipeline.lake.store.base import Entry
from pipeline.lake.store.probe import check_create_only

# What a merged file says of each split takes some hundred bytes of its footer.
MOST_PARTS = 10_000
TABLE_HINT = (
    "A table's own compaction does it, and what is annotated stays known: OPTIMIZE or "
    "rewrite_data_files in Spark, "
    "DeltaTable(PATH).optimize.compact() in Python"
)


@dataclass
class Compacted:
    """What `compact_output` did.

    Attributes:
        before: How many files there were.
        after: How many there are.
        written: How many of those are new.
        rows: That they hold.
        left: Files that stay as they are as they can't be read or are damaged, with the reason.
    """

    before: int = 0
    after: int = 0
    written: int = 0
    rows: int = 0
    left: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Small:
    """A file that may be merged with others."""

    entry: Entry
    origin: MergeOrigin
    schema: pa.Schema
    compression: str
    alike: tuple[Any, ...]
    rows: int


def compact_output(
    address: str,
    *,
    file_size: int,
    wait: bool = False,
    notice: Callable[[str], None] = lambda text: None,
) -> Compacted:
    """Merges small files of a directory, each directory of a tree for itself.

    Args:
        address: Of an output.
        file_size: Bytes of a merged file at most, about.
        wait: Wait for a run that holds the output to end.
        notice: Told what is waited for, and how far it is.

    Raises:
        JobError: There is nothing to merge in, or something that shardscribe did not write.
        OutputBusy: A run holds the output.
        RunError: A merged file can't be written anew.
        SplitError: A merged file can't be written.
    """
    sink = open_sink(address)
    assert isinstance(sink, CompactedSink)
    if is_table(sink.store):
        raise JobError(f"{sink.address} is a Delta table", hint=TABLE_HINT)
    if holds_table(sink.own):
        raise JobError(f"{sink.address} holds the files of an Iceberg table", hint=TABLE_HINT)
    if not sink.present():
        raise JobError(f"{sink.address} holds no annotated files", hint="Run the job first")
    now = datetime.now(UTC)
    run = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    lease = Lease(sink.own, run, output=sink.address, wait=wait, notice=notice)
    try:
        check_create_only(sink.own)
        lease.take()
    except OSError as error:
        raise JobError(
            f"{sink.address} can't be written: {error.strerror or error}",
            hint="Check the permissions and free space there, and beside it",
        ) from error
    with lease:
        clean_up(sink)
        try:
            return _compact(sink, file_size, lease.refuse_loss, notice)
        finally:
            clean_up(sink)


def _compact(
    sink: CompactedSink,
    file_size: int,
    guard: Callable[[], None],
    notice: Callable[[str], None],
) -> Compacted:
    found = Compacted(before=sink.files())
    sink.settle(guard)
    smalls = list(_smalls(sink, file_size, found))
    groups = [group for group in _groups(smalls, file_size) if len(group) > 1]
    for at, group in enumerate(groups):
        origins = [small.origin for small in group]
        first = group[0]
        try:
            merge(
                sink, sink.store, origins, first.schema, compression=first.compression, guard=guard
            )
        except Damaged as error:
            # Which of them it is, is told; the others are merged the next time.
            found.left[origins[0].path] = one_line(error)
            continue
        sink.remove([origin.path for origin in origins], guard)
        found.written += 1
        found.rows += sum(small.rows for small in group)
        notice(f"{at + 1:,} of {len(groups):,} files written")
    found.after = sink.files()
    return found


def _smalls(sink: CompactedSink, file_size: int, found: Compacted) -> Iterator[_Small]:
    """What is small, by path; all that is there is looked at first."""
    holdings = sink.look_again()
    for one in holdings.broken:
        found.left[one.entry.path] = one.damage
    there = [*holdings.single.values(), *(one.entry for one in holdings.merged.values())]
    small = sorted((e for e in there if e.size < file_size), key=lambda entry: entry.path)
    for entry, told in zip(small, each(lambda e: _small(sink, e), small), strict=True):
        if isinstance(told, str):
            found.left[entry.path] = told
        else:
            yield told


def _small(sink: CompactedSink, entry: Entry) -> _Small | str:
    """What has to be known of a file to merge it; why it can't be."""
    try:
        with closing(pq.ParquetFile(sink.store.open(entry.path))) as file:
            metadata = file.metadata
            schema, compression = layout_of(file)
    except (pa.ArrowException, OSError, UnicodeDecodeError, ShardscribeError) as error:
        return one_line(error, most=200)
    ours = said(metadata.metadata)
    committed = sealed_size(metadata.metadata)
    if committed is not None and committed != entry.size:
        return f"it has {entry.size:,} bytes, {committed:,} were committed"
    if is_merged(entry.path):
        parts: Sequence[MergedPart] = sink.known.read[entry].parts
    elif "split" in ours:
        region = Rows(0, metadata.num_rows)
        parts = [MergedPart(entry.path, seal_of(metadata), ours, region)]
    else:
        raise JobError(
            f"the output holds {entry.path}, which shardscribe did not write",
            hint="Take it away: compact merges what it knows",
        )
    alike = (
        posixpath.dirname(entry.path), str(ours.get("fingerprint")), compression,
        schema.serialize().to_pybytes(),
    )  # fmt: skip
    origin = MergeOrigin(entry.path, parts, merged=is_merged(entry.path))
    return _Small(entry, origin, schema, compression, alike, metadata.num_rows)


def _groups(smalls: Iterable[_Small], file_size: int) -> Iterator[list[_Small]]:
    """What goes into a file together: in order, of one directory, one job and the same columns."""
    alike: dict[tuple[Any, ...], list[_Small]] = {}
    for small in smalls:
        alike.setdefault(small.alike, []).append(small)
    for some in alike.values():
        group: list[_Small] = []
        size = parts = 0
        for small in some:
            size += small.entry.size
            parts += len(small.origin.parts)
            if group and (size > file_size or parts > MOST_PARTS):
                yield group
                group, size, parts = [], small.entry.size, len(small.origin.parts)
            group.append(small)
        yield group
