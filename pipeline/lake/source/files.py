"""Parquet files of a store, as they are: the first kind of source."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from pipeline.errors import JobError
from pipeline.lake.memory import Memory
from pipeline.lake.source.alike import Needs, union_of
from pipeline.lake.source.base import Listing, NothingThere
from pipeline.lake.source.choice import Choice
from pipeline.lake.source.cut import splits_of
from pipeline.lake.source.hive import Partitions, directory_of, partitions_of
from pipeline.lake.source.open_files import OpenFiles
from pipeline.lake.source.reader import ParquetSplit
from pipeline.lake.source.where import Where
from pipeline.lake.split import SUFFIXES, Cut, Split
from pipeline.lake.store.base import Entry, Store
from pipeline.lake.store.local import LocalStore
from pipeline.lake.store.places import is_within

WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Branch:
    """One of several addresses that are a dataset together.

    Attributes:
        prefix: Where its files are below the dataset's root, with a slash at the end if anywhere.
        source: What is there.
    """

    prefix: str
    source: FileSource


@dataclass(frozen=True)
class FileSource:
    """Parquet files: one, those of a directory, or those that a glob names; or several of these.

    Attributes:
        store: Where the files are.
        address: As the job file writes it.
        pattern: For a glob, relative to the store's root.
        single: For a single file, its name.
        branches: For several addresses, each of them.
        choice: What of it is wanted.
        partitions: What the directories tell, once they were listed.
        union: The columns of all its files together, where they are not the same in each.
        needed: Columns that are null in no file that lacks them.
        kept: Files that are open, in this process alone.
    """

    store: Store
    address: str
    pattern: str | None = None
    single: str | None = None
    branches: tuple[Branch, ...] = ()
    choice: Choice = field(default_factory=Choice)
    partitions: Partitions = field(default_factory=Partitions)
    union: pa.Schema | None = None
    needed: frozenset[str] = frozenset()
    kept: OpenFiles = field(default_factory=OpenFiles, compare=False, repr=False)

    @property
    def version(self) -> None:
        """Files have none together."""
        return None

    def where(self, path: str) -> str:
        """The full address of a file, for messages."""
        return self.store.address(path)

    def entry(self, path: str) -> Entry | None:
        """A file as it is now."""
        return self.store.entry(path)

    def splits(
        self,
        files: Sequence[Entry],
        *,
        fingerprint: str,
        cut: Cut,
        memory: Memory | None = None,
        there: Container[str] = (),
    ) -> Iterator[Split]:
        """Cuts files into splits; footers are read where they decide."""
        return splits_of(
            self.store, files, fingerprint=fingerprint, cut=cut, memory=memory, there=there
        )

    def open(self, split: Split) -> ParquetSplit:
        """Opens a split for reading."""
        return ParquetSplit(
            self.store,
            split,
            self.kept,
            told=self.partitions.of(split.path),
            keeps=[Where(self.choice.filter)] if self.choice.filter else [],
            union=self.union,
            needed=self.needed,
        )

    def alike(
        self,
        files: Sequence[Entry],
        needs: Needs,
        told: Collection[str],
        memory: Memory | None = None,
    ) -> FileSource:
        """The same, all of whose files have the same columns, each as wide as it has to be.

        Args:
            files: Those that are looked at.
            needs: What is asked of their columns.
            told: Columns that directories tell.
            memory: Spares the reading of footers that were read before.

        Raises:
            JobError: A column is of types that no type holds.
        """
        union = union_of(self.store, files, needs, told=told, memory=memory)
        return replace(self, union=union, needed=frozenset(needs.read))

    def settled(self, listing: Listing) -> FileSource:
        """The same, with the types of what its directories tell."""
        return replace(self, partitions=Partitions(listing.told))

    def overlaps(self, place: Store) -> bool:
        """Whether one of both directories is in the other."""
        if self.branches:
            return any(branch.source.overlaps(place) for branch in self.branches)
        inside, around = is_within(place, self.store), is_within(self.store, place)
        # The files beside a single input file are not read.
        return inside and around if self.single is not None else inside or around

    def listing(self, *, at_most: int | None = None) -> Listing:
        """The dataset's Parquet files as they are now.

        Args:
            at_most: Only the first so many that are found.

        Raises:
            NothingThere: The path does not exist, or holds no Parquet file.
            JobError: No file can hold a row that passes the filter, or what directories tell is
                not of the type that the job says.
        """
        if self.single is not None:
            entry = self.store.entry(self.single)
            return Listing([entry] if entry is not None else [])
        # Which files may pass is known when all directories are.
        most = at_most if self.choice.filter is None else None
        found, missed = self._found(most)
        partitions = partitions_of(found, self.choice.partitions)
        passing = self._passing(found, partitions)
        return Listing(passing[:at_most], missed, partitions.types)

    def _passing(self, files: Sequence[Entry], partitions: Partitions) -> list[Entry]:
        """The files whose directories do not tell that no row of theirs passes the filter."""
        if self.choice.filter is None:
            return list(files)
        where = Where(self.choice.filter)
        places = {directory_of(entry.path): entry.path for entry in files}
        may = {place: where.may_pass(partitions.of(path)) for place, path in places.items()}
        passing = [entry for entry in files if may[directory_of(entry.path)]]
        if not passing:
            raise JobError(
                f"input.filter `{where.condition}` rules out all {len(files)} files of "
                f"{self.address} by what their directories tell",
                hint=f"The first is {files[0].path}: compare with values that are there",
            )
        return passing

    def _found(self, at_most: int | None) -> tuple[list[Entry], dict[str, str]]:
        """The Parquet files that are there, by path, and what can't be listed."""
        if self.branches:
            return self._of_branches(at_most)
        found: list[Entry] = []
        missed: dict[str, str] = {}
        others = 0

        def miss(path: str, reason: str) -> None:
            if self._may_hold(path):
                missed[path] = reason

        for entry in self.store.entries(miss):
            if len(found) == at_most:
                break
            if self.pattern is not None:
                wanted = fnmatch.fnmatchcase(entry.path, self.pattern)
            else:
                wanted = entry.path.lower().endswith(SUFFIXES)
            if wanted:
                found.append(entry)
            else:
                others += 1
        if not found:
            raise self._nothing(others)
        return sorted(found, key=lambda entry: entry.path), missed

    def _of_branches(self, at_most: int | None) -> tuple[list[Entry], dict[str, str]]:
        found: dict[str, Entry] = {}
        missed: dict[str, str] = {}
        for branch in self.branches:
            listing = branch.source.listing(at_most=at_most)
            if not listing.files:
                raise branch.source._nothing(0)
            for entry in listing.files:
                path = f"{branch.prefix}{entry.path}"
                found[path] = replace(entry, path=path)
            missed |= {f"{branch.prefix}{p}": why for p, why in listing.missed.items()}
        return [found[path] for path in sorted(found)][:at_most], missed

    def _may_hold(self, path: str) -> bool:
        """Whether a path, or one below it, may be of the dataset."""
        fixed = WILD.split(self.pattern, maxsplit=1)[0] if self.pattern is not None else ""
        return f"{path}/".startswith(fixed) or fixed.startswith(f"{path}/")

    def _nothing(self, others: int) -> NothingThere:
        if self.pattern is not None:
            return NothingThere(
                f"input.path {self.address} matches no file",
                hint="Check the pattern; * crosses directories",
            )
        if isinstance(self.store, LocalStore) and not self.store.base.exists():
            return NothingThere(
                f"input.path {self.address} does not exist",
                hint=f"Looked for {self.store.base}; relative paths count from the working "
                "directory",
            )
        if isinstance(self.store, LocalStore) and self.store.base.is_file():
            return NothingThere(
                f"input.path {self.address} is not a Parquet file by its name",
                hint=f"Name a file that ends in {' or '.join(SUFFIXES)}, or a directory of such",
            )
        held = f"it holds {others} other files" if others else "it is empty"
        return NothingThere(
            f"input.path {self.address} holds no Parquet file: {held}",
            hint=f"Files must end in {' or '.join(SUFFIXES)}",
        )
