"""A source whose rows also tell where they are from, so that a table of their own finds them."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipeline.errors import SplitError
from pipeline.lake.memory import Memory
from pipeline.lake.source.base import Listing, OpenSplit, Source
from pipeline.lake.split import Cut, Split
from pipeline.lake.store.base import Entry, Store

FILE, ROW = "source_file", "source_row"
KEYS = (FILE, ROW)


@dataclass(frozen=True)
class KeyedSource:
    """A source with two more columns: a row's file, relative to the dataset, and its number there.

    Attributes:
        source: Whose rows they are.
    """

    source: Source

    @property
    def address(self) -> str:
        """As the job file writes it."""
        return self.source.address

    @property
    def version(self) -> int | None:
        """Which version of a table it is."""
        return self.source.version

    def where(self, path: str) -> str:
        """The full address of a file, for messages."""
        return self.source.where(path)

    def overlaps(self, place: Store) -> bool:
        """Whether what is written to a place would be read as input, or the reverse."""
        return self.source.overlaps(place)

    def listing(self, *, at_most: int | None = None) -> Listing:
        """What it holds now."""
        return self.source.listing(at_most=at_most)

    def settled(self, listing: Listing) -> KeyedSource:
        """The same, knowing what only a listing tells."""
        return replace(self, source=self.source.settled(listing))

    def entry(self, path: str) -> Entry | None:
        """A file as it is now."""
        return self.source.entry(path)

    def splits(
        self,
        files: Sequence[Entry],
        *,
        fingerprint: str,
        cut: Cut,
        memory: Memory | None = None,
        there: Container[str] = (),
    ) -> Iterator[Split]:
        """Cuts files into splits."""
        return self.source.splits(
            files, fingerprint=fingerprint, cut=cut, memory=memory, there=there
        )

    def open(self, split: Split) -> KeyedSplit:
        """Opens a split for reading.

        Raises:
            SplitError: It can't be read, or has a column of such a name.
        """
        found = self.source.open(split)
        for name in KEYS:
            if name in found.schema.names:
                found.close()
                raise SplitError(
                    f"{self.where(split.path)} has a column `{name}`, which output.columns: "
                    "annotations would write",
                    hint=f"Name the key columns instead, such as output.columns: [{name}]",
                )
        return KeyedSplit(found, split.path)


class KeyedSplit:
    """A split of a `KeyedSource`, open for reading.

    Args:
        found: Its rows.
        path: Its file.

    Attributes:
        schema: Of all columns of its rows, the keys last.
        beside: Columns that its path tells.
        first: The row of its file that it begins with.
        rows: How many rows of its file it has.
        filtered: Whether rows may be filtered out.
    """

    def __init__(self, found: OpenSplit, path: str) -> None:
        self._found = found
        # Names need not be UTF-8; a column's texts do.
        self._path = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        self.schema: pa.Schema = found.schema.append(pa.field(FILE, pa.string())).append(
            pa.field(ROW, pa.int64())
        )
        self.beside: Mapping[str, pa.Scalar] = found.beside
        self.first, self.rows, self.filtered = found.first, found.rows, found.filtered

    def place(self, row: int) -> int:
        """Which row of the file the row of that number among those given is."""
        return self._found.place(row)

    def batches(self, columns: Sequence[str], *, rows: int | None = None) -> Iterator[pa.Table]:
        """The rows in order, a bounded batch at a time, or so many rows at a time.

        Raises:
            SplitError: They can't be read.
        """
        keys = [name for name in KEYS if name in columns]
        others = [name for name in columns if name not in keys]
        at = 0
        for table in self._found.batches(others, rows=rows):
            count = table.num_rows
            arrays = {name: table.column(name) for name in others}
            if FILE in keys:
                arrays[FILE] = pa.repeat(pa.scalar(self._path), count)
            if ROW in keys:
                arrays[ROW] = pa.array(self._places(at, count))
            at += count
            if not keys:
                yield table
            else:
                schema = pa.schema([self.schema.field(name) for name in columns])
                yield pa.table([arrays[name] for name in columns], schema=schema)

    def _places(self, first: int, count: int) -> np.ndarray:
        """The rows of the file that some of the rows given are; they rise."""
        places = np.arange(count, dtype=np.int64)
        runs = [(first, first + count - 1)] if count else []
        while runs:
            low, high = runs.pop()
            begin = self.place(low)
            if self.place(high) - begin == high - low:  # none between them is left out
                places[low - first : high - first + 1] += begin - (low - first)
            else:
                middle = (low + high) // 2
                runs += [(low, middle), (middle + 1, high)]
        return places

    def close(self) -> None:
        """Lets go of it."""
        self._found.close()
