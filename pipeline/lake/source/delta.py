"""A version of a Delta table: the rows that its log says are there, whatever files lie around."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import JobError, SplitError
from pipeline.lake.delta import load, telling
from pipeline.lake.memory import Memory
from pipeline.lake.source.base import Listing, NothingThere
from pipeline.lake.source.cut import splits_of
from pipeline.lake.source.delta_files import DeltaFiles, made_at, refuse_mapping, rewritten
from pipeline.lake.source.open_files import OpenFiles
from pipeline.lake.source.passed import Passed
from pipeline.lake.source.reader import ParquetSplit
from pipeline.lake.source.where import KeepRows, Where
from pipeline.lake.split import Cut, Split
from pipeline.lake.store.base import Entry, Store
from pipeline.lake.store.places import is_within


class Loaded:
    """Versions of a table that this process has read. Pickled, there are none."""

    def __init__(self) -> None:
        self.of: dict[int, DeltaFiles] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Loaded, ()


@dataclass(frozen=True)
class DeltaSource:
    """A Delta table.

    Attributes:
        store: Its place.
        address: As the job file writes it.
        asked: Which version is wanted, by number or time; None for the latest.
        filter: A condition over the row; rows that it does not hold for are not there.
        version: The one that it is, once it was listed.
        loaded: What was read of it, in this process alone.
        kept: Files that are open, likewise.
    """

    store: Store
    address: str
    asked: int | str | None = None
    filter: str | None = None
    version: int | None = None
    loaded: Loaded = field(default_factory=Loaded, compare=False, repr=False)
    kept: OpenFiles = field(default_factory=OpenFiles, compare=False, repr=False)

    def where(self, path: str) -> str:
        """The full address of a file, for messages."""
        return self.store.address(path)

    def overlaps(self, place: Store) -> bool:
        """Whether one of both places is in the other."""
        return is_within(place, self.store) or is_within(self.store, place)

    def listing(self, *, at_most: int | None = None) -> Listing:
        """The table's files, of the version that is wanted, as it is now."""
        files = self._files(None)
        found = self._passing(files)
        if not files.entries:
            raise NothingThere(
                f"version {files.table.version()} of the Delta table {self.address} has no rows",
                hint="Name another as input.version, or write some",
            )
        version = files.table.version()
        return Listing(
            found[:at_most],
            version=version,
            rewritten=lambda paths: rewritten(self.store, version, paths),
        )

    def _passing(self, files: DeltaFiles) -> list[Entry]:
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

    def settled(self, listing: Listing) -> DeltaSource:
        """The same, of the version that was listed whatever comes after it."""
        return replace(self, version=listing.version)

    def entry(self, path: str) -> Entry | None:
        """A file, as the version has it."""
        return self._files(self.version).entries.get(path)

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
                    self.store, some, fingerprint=fingerprint, cut=cut, memory=memory, there=there
                )

    def open(self, split: Split) -> DeltaSplit:
        """Opens a split for reading."""
        files = self._files(self.version)
        if split.path not in files.entries:
            raise SplitError(f"{self.where(split.path)} is not in the table any more")
        keeps = [Where(self.filter)] if self.filter is not None else []
        return DeltaSplit(ParquetSplit(self.store, split, self.kept), split, files, keeps)

    def _files(self, version: int | None) -> DeltaFiles:
        if version in self.loaded.of:
            return self.loaded.of[version]
        table = self._load(version)
        refuse_mapping(self.store, table)
        found = DeltaFiles(self.store, table)
        self.loaded.of[table.version()] = found
        return found

    def _load(self, version: int | None) -> Any:
        asked = self.asked if version is None else version
        table = load(self.store, asked if isinstance(asked, int) else None)
        if table is None:
            raise NothingThere(f"{self.address} is no Delta table any more")
        if isinstance(asked, str):
            with telling(self.store, f"read as of {asked}"):
                moment = moment_of(asked)
                table.load_as_version(moment)
            # The library takes the first version for all times before it.
            if made_at(self.store, table.version()) > moment.timestamp() * 1000:
                raise JobError(
                    f"the Delta table {self.address} had no version yet at {asked}",
                    hint="Set input.version to a later time, or to a number",
                )
        return table


class DeltaSplit:
    """A split of a data file: its rows that are not deleted, with all of the table's columns.

    Args:
        file: The data file's rows.
        split: What of it.
        files: What the table says.
        keeps: What rows have to pass.

    Attributes:
        schema: Of the table.
        beside: Nothing: no path tells what a table's rows have.
        filtered: Whether rows may be filtered out.
        first: The row of the file that it begins with.
        rows: How many rows it has that are not deleted.
    """

    def __init__(
        self, file: ParquetSplit, split: Split, files: DeltaFiles, keeps: Sequence[KeepRows] = ()
    ) -> None:
        self._file = file
        self._passed = Passed(keeps)
        self.filtered = bool(keeps)
        self.beside: Mapping[str, pa.Scalar] = {}
        self._told = files.partition(split.path)
        self._where = files.store.address(split.path)
        self._mask = files.kept(split.path)
        self.schema = files.schema
        self.first = file.first
        gone = 0
        if self._mask is not None:
            gone = int((~self._mask[file.first : file.first + file.rows]).sum())
        self.rows = file.rows - gone

    def batches(self, columns: Sequence[str], *, rows: int | None = None) -> Iterator[pa.Table]:
        """The rows in order, a bounded batch at a time, or so many rows at a time.

        Raises:
            SplitError: The file can't be read, or has a column of a type that is not the table's.
        """
        read = list(dict.fromkeys([*columns, *self._passed.names]))
        there = [n for n in read if n in self._file.schema.names and n not in self._told]
        at = self.first
        # Counted without those that are deleted, as whoever looks for a place does.
        self._passed.begin(0)
        for table in self._file.batches(there, rows=rows):
            count = table.num_rows
            at += count
            filled = table
            if read:
                schema = pa.schema([self.schema.field(name) for name in read])
                filled = pa.table([self._column(name, table) for name in read], schema=schema)
            if self._mask is not None:
                kept = self._mask[at - count : at]
                kept = np.concatenate([kept, np.ones(count - len(kept), bool)])
                filled = filled.filter(pa.array(kept))
            filled = self._passed.of(filled)
            if filled.num_rows:
                yield filled.select(list(columns))

    def place(self, row: int) -> int:
        """Which row of the file the row of that number among those given is."""
        at = self._passed.place(row)
        if self._mask is None:
            return self.first + at
        kept = np.flatnonzero(self._mask[self.first :])
        behind = self.first + at - len(kept) + len(self._mask[self.first :])
        return int(self.first + kept[at]) if at < len(kept) else behind

    def _column(self, name: str, table: pa.Table) -> Any:
        kind = self.schema.field(name).type
        if name in self._told:
            return pa.repeat(self._told[name], table.num_rows)
        if name not in table.column_names:
            return pa.nulls(table.num_rows, kind)
        column = table.column(name)
        if column.type.equals(kind):
            return column
        try:
            return column.cast(kind)
        except (pa.ArrowException, UnicodeDecodeError):
            # What is no UTF-8 is told row by row, where it is read.
            if pa.types.is_string(kind) and pa.types.is_dictionary(column.type):
                return column.combine_chunks().dictionary_decode()
            raise SplitError(
                f"{self._where}: column `{name}` is {column.type}, which can't be read as the "
                f"table's {kind}",
                hint="Write the file's rows anew",
            ) from None

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


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
