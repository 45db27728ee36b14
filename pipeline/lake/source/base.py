"""What a source is asked for: a dataset, as splits and batches of rows."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from pipeline.errors import JobError, SplitError
from pipeline.lake.memory import Memory
from pipeline.lake.split import Cut, Split
from pipeline.lake.store.base import Entry, Store


class NothingThere(JobError):
    """A source holds no file."""


class RowsMoved(SplitError):
    """A split's file is gone, and its rows are in other files."""


@dataclass(frozen=True)
class Listing:
    """What a source held when it was listed.

    Attributes:
        files: Its files, by path.
        missed: Paths that may be of it and can't be listed, each with the reason.
        told: Types of the columns that are told beside the files, as by their directories.
        version: Of a table, which of its versions it was.
        rewritten: Tells of files that are gone which of them had their rows written anew into
            others, so that what was made of them has to go.
    """

    files: Sequence[Entry]
    missed: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, pa.DataType] = field(default_factory=dict)
    version: int | None = None
    rewritten: Callable[[Sequence[str]], set[str]] = lambda paths: set()


class OpenSplit(Protocol):
    """A split that is open for reading."""

    @property
    def schema(self) -> pa.Schema:
        """Of all columns that its rows have, those beside the file last; the file's metadata."""

    @property
    def beside(self) -> Mapping[str, pa.Scalar]:
        """Columns that its path tells and its file does not have; the same for all rows.

        An output keeps the path, and with it these: no file of it has them.
        """

    @property
    def first(self) -> int:
        """The row of its file that it begins with."""

    @property
    def rows(self) -> int:
        """How many rows of its file it has, filtered out or not."""

    @property
    def filtered(self) -> bool:
        """Whether rows may be filtered out, so that `batches` gives fewer than `rows`."""

    def place(self, row: int) -> int:
        """Which row of its file a row is.

        Args:
            row: Its number among those that `batches` has given. It may be closed by then.
        """

    def batches(self, columns: Sequence[str], *, rows: int | None = None) -> Iterator[pa.Table]:
        """Its rows that are not filtered out, in order, each once, a bounded batch at a time.

        Args:
            columns: What to read of each row.
            rows: How many to a batch at most, for who wants a few rows, or looks at many and
                keeps none; as many as are annotated at once, by default.

        Raises:
            SplitError: It can't be read.
        """

    def close(self) -> None:
        """Lets go of it."""


class Source(Protocol):
    """A kind of dataset. It pickles: a worker is given it, and opens splits by it."""

    @property
    def address(self) -> str:
        """As the job file writes it."""

    @property
    def version(self) -> int | None:
        """Which version of a table it is; None for what has none."""

    def where(self, path: str) -> str:
        """The full address of a file, for messages."""

    def overlaps(self, place: Store) -> bool:
        """Whether what is written to a place would be read as input, or the reverse."""

    def listing(self, *, at_most: int | None = None) -> Listing:
        """What it holds now.

        Args:
            at_most: Only the first so many files that are found.

        Raises:
            NothingThere: It holds no file.
            JobError: It can't be listed.
        """

    def settled(self, listing: Listing) -> Source:
        """The same, knowing what only a listing tells; it opens what was listed.

        Args:
            listing: Of it.
        """

    def entry(self, path: str) -> Entry | None:
        """A file as it is now; None if it is not there."""

    def splits(
        self,
        files: Sequence[Entry],
        *,
        fingerprint: str,
        cut: Cut,
        memory: Memory | None = None,
        there: Container[str] = (),
    ) -> Iterator[Split]:
        """Cuts files into splits, of which each has the same name whoever cuts.

        Args:
            files: Of a listing.
            fingerprint: Of the job.
            cut: How large splits are.
            memory: Spares the reading of what was read of files before.
            there: Names of output files: what is annotated stays as it was cut.
        """

    def open(self, split: Split) -> OpenSplit:
        """Opens a split for reading.

        Raises:
            SplitError: It is not there any more, or can't be read.
        """
