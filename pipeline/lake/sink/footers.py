"""What the ends of output files tell: what they are of, and whether they can be whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ShardscribeError, one_line
from pipeline.lake.at_once import each
from pipeline.lake.sink.base import Footer
from pipeline.lake.sink.seal import sealed_size
from pipeline.lake.store.base import Entry, Store

# The key of our metadata in an output file's footer; the value is JSON.
FOOTER_KEY = b"shardscribe"


def look(store: Store, entry: Entry) -> Footer:
    """Reads a file's footer and holds the file's size against it."""
    try:
        with closing(pq.ParquetFile(store.open(entry.path))) as file:
            metadata = file.metadata
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = one_line(error, most=200)
        return Footer(damage=why) if is_damage(error) else Footer(unread=why)
    except ShardscribeError as error:
        return Footer(unread=str(error))
    ours = said(metadata.metadata)
    committed = sealed_size(metadata.metadata)
    if committed is not None and entry.size != committed:
        return Footer(ours, damage=f"it has {entry.size:,} bytes, {committed:,} were committed")
    return Footer(ours)


def look_all(store: Store, entries: Sequence[Entry]) -> Iterator[Footer]:
    """What the ends of files tell, in their order, many read at once."""
    return each(lambda entry: look(store, entry), entries)


def is_damage(error: Exception) -> bool:
    """Whether what pyarrow raised is about a file's content, not about getting at it.

    Thrift that can't be decoded comes as an `OSError` too, but without a number of the system's.
    """
    return not isinstance(error, OSError) or error.errno is None


def read_footer(store: Store, path: str) -> dict[str, Any]:
    """What an output file says of itself; empty if shardscribe did not write it."""
    try:
        with closing(pq.ParquetFile(store.open(path))) as file:
            return said(file.metadata.metadata)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return {}


def said(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """Our metadata in a file's footer; empty if there is none."""
    raw = (metadata or {}).get(FOOTER_KEY)
    try:
        found = json.loads(raw) if raw else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
