"""A committed Parquet file, read as one that may be spoilt."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import one_line
from pipeline.lake.sink.base import Damaged
from pipeline.lake.sink.footers import is_damage, said
from pipeline.lake.sink.scratch import scratch_file
from pipeline.lake.sink.seal import is_broken
from pipeline.lake.source.open_files import OpenFile
from pipeline.lake.source.reader import BUFFER_BYTES, SPOILT, read_batches
from pipeline.lake.split import WHOLE, Region
from pipeline.lake.store.base import Store
from pipeline.lake.store.local import LocalStore

COPY_BYTES = 8 * 1024 * 1024


class CommittedParquet:
    """A committed file on this machine: it is read more than once.

    Args:
        store: Where it is.
        path: Its name there.

    Raises:
        Damaged: Its bytes are not those that were committed.
        OSError: It can't be read.
    """

    def __init__(self, store: Store, path: str) -> None:
        self.path = path
        self._copy: Path | None = None
        self._file: pq.ParquetFile | None = None
        try:
            if isinstance(store, LocalStore):
                self._open(store.base / path)
            else:
                self._copy = scratch_file(store.scratch())
                with self._copy.open("wb") as file, closing(store.open(path)) as remote:
                    shutil.copyfileobj(remote, file, COPY_BYTES)
                self._open(self._copy)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        try:
            self._file = pq.ParquetFile(
                path, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
            )
        except SPOILT as error:
            if is_damage(error):
                raise Damaged(f"{self.path} is damaged: {one_line(error)}") from error
            raise
        if is_broken(path, self._file.metadata.metadata):
            raise Damaged(f"{self.path} is damaged: its bytes are not those that were committed")

    @cached_property
    def _reader(self) -> OpenFile:
        return OpenFile(self._open_file)

    @cached_property
    def said(self) -> dict[str, Any]:
        """Our metadata in its footer."""
        return said(self._open_file.metadata.metadata)

    @property
    def names(self) -> list[str]:
        """Its columns."""
        return list(self._open_file.schema_arrow.names)

    @property
    def rows(self) -> int:
        """As its footer counts them."""
        return int(self._open_file.metadata.num_rows)

    def batches(self, region: Region = WHOLE) -> Iterator[pa.Table]:
        """The rows of a region in order, with the checksums of their pages looked at."""
        try:
            yield from read_batches(self._reader, region, columns=self.names)
        except SPOILT as error:
            raise Damaged(f"{self.path} is damaged: {one_line(error)}") from error

    def close(self) -> None:
        """Lets go of the file, and of the copy if there is one."""
        if self._file is not None:
            self._file.close()
        if self._copy is not None:
            self._copy.unlink(missing_ok=True)

    @property
    def _open_file(self) -> pq.ParquetFile:
        assert self._file is not None
        return self._file
