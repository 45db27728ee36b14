"""What was read of files once, kept among our own files of an output, so as not to be read again.

It saves work and decides nothing: what is not in it, or can't be had, is read from the files.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ShardscribeError
from pipeline.lake.store.base import Store

SCHEMA = pa.schema(
    [("path", pa.binary()), ("version", pa.string()), ("numbers", pa.list_(pa.int64()))]
)


class Memory:
    """Some numbers a file, for one version of it.

    Args:
        store: Where our own files of the output are.
        name: Of what is kept, such as ``outputs``.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.path = f"memory/{name}"
        self._new = False

    @cached_property
    def _found(self) -> dict[str, tuple[str, Sequence[int]]]:
        with suppress(OSError, ShardscribeError, pa.ArrowException, ValueError):
            table = pq.read_table(
                pa.BufferReader(self.store.read(self.path) or b""), schema=SCHEMA,
                page_checksum_verification=True,
            )  # fmt: skip
            columns = [column.to_pylist() for column in table.columns]
            return {
                os.fsdecode(path): (version, numbers or ())
                for path, version, numbers in zip(*columns, strict=True)
            }
        return {}

    def get(self, path: str, version: str) -> Sequence[int] | None:
        """What is known of a file; None if nothing is known of this version."""
        found = self._found.get(path)
        return found[1] if found is not None and found[0] == version else None

    def put(self, path: str, version: str, numbers: Sequence[int] = ()) -> None:
        """Keeps what was read of a file."""
        found = (version, numbers)
        if self._found.get(path) != found:
            self._found[path] = found
            self._new = True

    def save(self, paths: Collection[str] | None = None) -> None:
        """Writes what is new; a store that refuses is no reason to stop.

        Args:
            paths: Of the files that are still there; others are forgotten.
        """
        if not self._new:
            return
        kept = {
            path: found for path, found in self._found.items() if paths is None or path in paths
        }
        table = pa.table(
            [
                [os.fsencode(path) for path in kept],  # not all names are UTF-8
                [version for version, _ in kept.values()],
                [list(numbers) or None for _, numbers in kept.values()],
            ],
            schema=SCHEMA,
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        with suppress(OSError, ShardscribeError):
            self.store.put(self.path, sink.getvalue().to_pybytes())
            self._new = False
