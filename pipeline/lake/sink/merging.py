"""Rows of several committed files, written into one."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.errors import SplitError
from pipeline.lake.sink.base import Damaged, Sink
from pipeline.lake.sink.committed import CommittedParquet
from pipeline.lake.sink.merged import MergedPart, merged_footer, merged_path, read_merged
from pipeline.lake.sink.scratch import OutputFile
from pipeline.lake.split import Rows
from pipeline.lake.store.base import Store

# Rows are written in groups that a reader can pass over, and that fit into memory.
GROUP_ROWS = 128 * 1024
GROUP_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class MergeOrigin:
    """Where rows come from.

    Attributes:
        path: A committed file.
        parts: What of it is wanted, in order.
        merged: Whether it is a merged file.
    """

    path: str
    parts: Sequence[MergedPart]
    merged: bool = False


def merge(
    sink: Sink,
    store: Store,
    origins: Sequence[MergeOrigin],
    schema: pa.Schema,
    *,
    compression: str,
    guard: Callable[[], None],
) -> str:
    """Publishes a merged file; what it was made of stays.

    Args:
        sink: The output.
        store: Its files.
        origins: Files of one directory, whose columns are the same.
        schema: Of the merged file.
        compression: Likewise.
        guard: Called right before it appears.

    Returns:
        Its path.

    Raises:
        Damaged: A file is not what was committed; nothing was published.
        SplitError: The file can't be written.
    """
    parts, at = [], 0
    for part in (part for origin in origins for part in origin.parts):
        parts.append(replace(part, region=Rows(at, part.region.count)))
        at += part.region.count
    replaces = [origin.path for origin in origins if origin.merged]
    path = merged_path(posixpath.dirname(origins[0].path), parts, replaces)
    out = OutputFile(sink, path, schema, compression=compression)
    try:
        for table in _grouped(_tables(store, origins)):
            out.write(table)
        out.close(merged_footer(parts, replaces), rows=at)
        guard()
        if not store.put_new(path, out.scratch):
            entry = store.entry(path)
            if entry is None or read_merged(store, entry).damage:
                raise SplitError(
                    f"{sink.where(path)} is there already, and is damaged",
                    hint="Take it away, and run the same command again",
                )
    finally:
        out.discard()
    return path


def _tables(store: Store, origins: Iterable[MergeOrigin]) -> Iterator[pa.Table]:
    for origin in origins:
        with closing(CommittedParquet(store, origin.path)) as file:
            for part in origin.parts:
                rows = 0
                for table in file.batches(part.region):
                    rows += table.num_rows
                    yield table
                if rows != part.region.count:
                    raise Damaged(f"{origin.path} is damaged: it has fewer rows than it says")


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        held.append(table.replace_schema_metadata(None))
        rows += table.num_rows
        size += table.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            yield pa.concat_tables(held)
            held, rows, size = [], 0, 0
    if held:
        yield pa.concat_tables(held)
