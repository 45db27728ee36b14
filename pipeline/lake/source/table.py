"""A version of a table: the rows that its log says are there, whatever files lie around."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import JobError, ShardscribeError, SplitError
from pipeline.lake.memory import Memory
from pipeline.lake.source.base import Listing, NothingThere, RowsMoved
from pipeline.lake.source.cut import splits_of
from pipeline.lake.source.moved import Commit, outputs_gone, unmoved
from pipeline.lake.source.open_files import OpenFiles
from pipeline.lake.source.reader import ParquetSplit
from pipeline.lake.source.table_files import Loaded, Table, TableFiles
from pipeline.lake.source.table_split import TableSplit
from pipeline.lake.source.where import Where
from pipeline.lake.split import Cut, Split
from pipeline.lake.store.base import Entry, Store


@dataclass(frozen=True)
class TableSource:
    """A table as a dataset.

    Attributes:
        table: Which.
        filter: A condition over the row; rows that it does not hold for are not there.
        version: The one that it is, once it was listed.
        moved: Whether files whose rows were only moved are told by those that had them before.
        loaded: What was read of it, in this process alone.
        kept: Files that are open, likewise.
    """

    table: Table
    filter: str | None = None
    version: int | None = None
    moved: bool = True
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
        """A file, as the version has it, or the one that the plan goes by."""
        return self._of(path).entries.get(path)

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

        def splits(some: Sequence[Entry]) -> Iterator[Split]:
            for whole, run in _runs(some):
                if whole:
                    yield from (Split.of(entry, fingerprint=fingerprint) for entry in run)
                else:
                    yield from splits_of(
                        self.files, run, fingerprint=fingerprint, cut=cut, memory=memory,
                        there=there,
                    )  # fmt: skip

        def done(entry: Entry) -> bool:
            try:
                return all(split.output_path in there for split in splits([entry]))
            except ShardscribeError:
                return False

        all_there = len(files) == len(self.files.entries)
        if self.moved and self.filter is None and all_there and isinstance(there, Set):
            files = self._unmoved(files, there, done)
        yield from splits(files)

    def _unmoved(
        self, files: Sequence[Entry], there: Set[str], done: Callable[[Entry], bool]
    ) -> Sequence[Entry]:
        """The files before those whose rows were only moved, where there is output of them."""
        gone = outputs_gone(files, there)
        if not gone:
            return files

        def before(commit: Commit) -> Mapping[str, Entry] | None:
            try:
                files = self._files(commit.version - 1)
                if not files.schema.equals(self.files.schema):
                    return None
                return {path: files.entries[path] for path in commit.removed}
            except (JobError, KeyError):  # the log has forgotten it
                return None

        def readable(path: str) -> bool:
            try:
                with closing(pq.ParquetFile(self.files.open(path))):
                    return True
            except (OSError, ShardscribeError, pa.ArrowException):
                return False

        commits = self.files.commits()
        found = unmoved(files, gone, commits, before, done=done, readable=readable)
        self.loaded.before.update(found.version)
        return [found.files[path] for path in sorted(found.files)]

    def open(self, split: Split) -> TableSplit:
        """Opens a split for reading.

        Raises:
            RowsMoved: Its file is gone, and its rows are in another one.
        """
        files = self._of(split.path)
        if split.path not in files.entries:
            raise SplitError(f"{split.path} is not in the table {self.address} any more")
        try:
            file = ParquetSplit(files, split, self.kept)
        except SplitError as error:
            if files is not self.files and isinstance(error.__cause__, FileNotFoundError):
                raise RowsMoved(
                    f"{split.path} is gone from the table {self.address}: another program has put "
                    "its rows into other files",
                    hint="To annotate them again, take its output files away and run the job",
                ) from error
            raise
        return TableSplit(
            file,
            schema=self.files.schema,
            columns=files.columns(split.path, file.schema),
            kept=files.kept(split.path),
            keeps=[Where(self.filter)] if self.filter is not None else [],
        )

    def _of(self, path: str) -> TableFiles:
        """The version that a file is in."""
        before = self.loaded.before.get(path)
        return self.files if before is None or path in self.files.entries else self._files(before)

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
