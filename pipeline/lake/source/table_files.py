"""What a table is asked for: its versions, and what each says of its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline.lake.source.moved import Commit
from pipeline.lake.source.table_split import TableColumns
from pipeline.lake.store.base import Entry, Store


class TableFiles(Protocol):
    """What a version of a table says of its files."""

    @property
    def version(self) -> int:
        """The version's number."""

    @property
    def schema(self) -> pa.Schema:
        """The table's columns, those that it is partitioned by included."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The files, by path; an entry's version is which of its rows are deleted, if any are."""

    def partition_values(self, path: str) -> tuple[Any, ...]:
        """What tells a file's partition from others."""

    def partition(self, path: str) -> Mapping[str, pa.Scalar]:
        """What all rows of a file have in the columns that the table is partitioned by."""

    def bounds(self, files: Sequence[Entry]) -> tuple[pa.Table, pa.Table]:
        """Least and greatest values of files' columns, a row for each, null where none are told."""

    def kept(self, path: str) -> np.ndarray | None:
        """Which rows of a file are not deleted, from its first on; None if all are there.

        Rows behind the last that it tells of are there.
        """

    def columns(self, path: str, schema: pa.Schema) -> TableColumns:
        """How a file's columns become the table's.

        Args:
            path: Of the file.
            schema: Of the file.

        Raises:
            SplitError: They can't.
        """

    def rewritten(self, paths: Sequence[str]) -> set[str]:
        """Which of the table's former files had their rows written anew into others."""

    def commits(self) -> Iterator[Commit]:
        """What led to the version, the last commit first, as far back as that is known."""

    def address(self, path: str) -> str:
        """The full address of a file, for messages."""

    def open(self, path: str) -> Any:
        """Opens a file for reading; gives what `pyarrow.parquet.ParquetFile` takes."""


class Table(Protocol):
    """A table, whatever its version. It pickles."""

    @property
    def kind(self) -> str:
        """What to call it, for people, such as ``Delta table``."""

    @property
    def address(self) -> str:
        """As the job file writes it."""

    def overlaps(self, place: Store) -> bool:
        """Whether one of both places is in the other."""

    def files(self, version: int | None) -> TableFiles:
        """The files of a version; of the one that is asked for, as it is now, by default.

        Raises:
            JobError: It is not there, or can't be read.
        """

    def pinned(self, files: TableFiles) -> Table:
        """The same, knowing what spares it to ask again for a version that was read."""


class Loaded:
    """Versions of a table that this process has read. Pickled, there are none.

    Attributes:
        of: By number.
        before: Of files that a plan goes by and the version does not have any more, in which one
            they were. That goes along.
    """

    def __init__(self, before: Mapping[str, int] | None = None) -> None:
        self.of: dict[int, TableFiles] = {}
        self.before = dict(before or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return Loaded, (self.before,)
