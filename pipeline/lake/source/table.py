"""A version of a table: the rows that its log says are there, whatever files lie around."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline.errors import JobError, SplitError
from pipeline.lake.memory import Memory
from pipeline.lake.source.base import Listing, NothingThere
from pipeline.lake.source.cut import splits_of
from pipeline.lake.source.open_files import OpenFiles
from pipeline.lake.source.reader import ParquetSplit
from pipeline.lake.source.table_split import TableColumns, TableSplit
from pipeline.lake.source.where import Where
from pipeline.lake.split import Cut, Split
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
    """Versions of a table that this process has read. Pickled, there are none."""

    def __init__(self) -> None:
        self.of: dict[int, TableFiles] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Loaded, ()


@dataclass(frozen=True)
class TableSource:
    """A table as a dataset.

    Attributes:
        table: Which.
        filter: A condition over the row; rows that it does not hold for are not there.
        version: The one that it is, once it was listed.
        loaded: What was read of it, in this process alone.
        kept: Files that are open, likewise.
    """

    table: Table
    filter: str | None = None
    version: int | None = None
    loaded: Loaded = field(default_factory=Loaded, compare=False, repr=False)
    kept: OpenFiles = field(default_factory=OpenFiles, compare=False, repr=False)

    @property
    def address(self) -> str:
        """As the job file writes it."""
        return self.table.address

    def where(self, path: str) -> str:
        """The full address of a file, for messages."""
        return self.files.address(path)

    def overlaps(self, place: Store) -> bool:
        """Whether one of both places is in the other."""
        return self.table.overlaps(place)

    @property
    def files(self) -> TableFiles:
        """What the version that was listed says of its files."""
        return self._files(self.version)

    def listing(self, *, at_most: int | None = None) -> Listing:
        """The table's files, of the version that is wanted, as it is now."""
        files = self._files(None)
        found = self._passing(files)
        if not files.entries:
            raise NothingThere(
                f"version {files.version} of the {self.table.kind} {self.address} has no rows",
                hint="Name another as input.version, or write some",
            )
        return Listing(found[:at_most], version=files.version, rewritten=files.rewritten)

    def _passing(self, files: TableFiles) -> list[Entry]:
        """The files of whose rows some may pass the filter, by their partitions and statistics."""
        found = list(files.entries.values())
        if self.filter is None or not found:
            return found
        where = Where(self.filter)
        may: dict[tuple[Any, ...], bool] = {}
        passing = []
        for entry in found:
            key = files.partition_values(entry.path)
            if key not in may:
                may[key] = where.may_pass(files.partition(entry.path))
            if may[key]:
                passing.append(entry)
        low, high = files.bounds(passing)
        if low.num_columns and low.column_names == high.column_names:
            within = where.may_pass_between(low, high)
            passing = [entry for entry, may_be in zip(passing, within, strict=True) if may_be]
        if not passing:
            raise JobError(
                f"input.filter `{self.filter}` rules out all {len(found)} files of "
                f"{self.address} by their partitions and statistics",
                hint=f"The first is {found[0].path}: compare with values that are there",
            )
        return passing

    def settled(self, listing: Listing) -> TableSource:
        """The same, of the version that was listed whatever comes after it."""
        table = self.table
        if listing.version in self.loaded.of:
            table = table.pinned(self.loaded.of[listing.version])
        return replace(self, table=table, version=listing.version)

    def entry(self, path: str) -> Entry | None:
        """A file, as the version has it."""
        return self.files.entries.get(path)

    def splits(
        self,
        files: Sequence[Entry],
        *,
        fingerprint: str,
        cut: Cut,
        memory: Memory | None = None,
        there: Container[str] = (),
    ) -> Iterator[Split]:
        """Cuts files into splits; those with deleted rows are one each."""
        for whole, some in _runs(files):
            if whole:
                yield from (Split.of(entry, fingerprint=fingerprint) for entry in some)
            else:
                yield from splits_of(
                    self.files, some, fingerprint=fingerprint, cut=cut, memory=memory, there=there
                )

    def open(self, split: Split) -> TableSplit:
        """Opens a split for reading."""
        files = self.files
        if split.path not in files.entries:
            raise SplitError(f"{split.path} is not in the table {self.address} any more")
        file = ParquetSplit(files, split, self.kept)
        return TableSplit(
            file,
            schema=files.schema,
            columns=files.columns(split.path, file.schema),
            kept=files.kept(split.path),
            keeps=[Where(self.filter)] if self.filter is not None else [],
        )

    def _files(self, version: int | None) -> TableFiles:
        if version in self.loaded.of:
            return self.loaded.of[version]
        found = self.table.files(version)
        self.loaded.of[found.version] = found
        return found


def moment_of(text: str) -> datetime:
    """A time that somebody has written, in UTC if it does not say.

    Raises:
        ValueError: It is none.
    """
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _runs(files: Sequence[Entry]) -> Iterator[tuple[bool, list[Entry]]]:
    """Files side by side that have deleted rows, or have none."""
    some: list[Entry] = []
    for entry in files:
        if some and bool(some[-1].version) != bool(entry.version):
            yield bool(some[-1].version), some
            some = []
        some.append(entry)
    if some:
        yield bool(some[-1].version), some
