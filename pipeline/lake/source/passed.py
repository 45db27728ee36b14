"""The rows of a split that pass what they have to, and where in the file they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.conditions.bounds import Bounds
from pipeline.errors import JobError
from pipeline.lake.source.statistics import bounds_of
from pipeline.lake.source.where import KeepRows


class Passed:
    """Lets rows through, and remembers which, a bit for each row that came.

    Args:
        keeps: What rows have to pass, each of them; with none, all do.
    """

    def __init__(self, keeps: Sequence[KeepRows]) -> None:
        self.keeps = keeps
        self.begin(0)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are looked at."""
        return tuple(dict.fromkeys(name for keep in self.keeps for name in keep.names))

    def begin(self, first: int) -> None:
        """Rows come anew, from a row of the file on."""
        self._first = self._next = first
        # First row, how many came, how many passed, and which, packed.
        self._seen: list[tuple[int, int, int, np.ndarray]] = []

    def go_to(self, row: int) -> None:
        """Rows that come next begin there: those before it can't pass."""
        self._next = row

    def row_groups(self, file: pq.ParquetFile, *, told: Mapping[str, pa.Scalar]) -> list[bool]:
        """Which row groups of a file may hold a row that passes, by their statistics.

        Args:
            file: The file.
            told: Columns that are told beside it.
        """
        beside = {name: Bounds.exactly(value) for name, value in told.items()}
        found = []
        for bounds in bounds_of(file, self.names):
            try:
                found.append(all(keep.may_pass_within({**bounds, **beside}) for keep in self.keeps))
            except JobError:  # of this file's types: that is told of its rows
                found.append(True)
        return found

    def of(self, table: pa.Table) -> pa.Table:
        """The rows that pass, of the next that come."""
        if not self.keeps:
            return table
        count = table.num_rows
        wanted = np.ones(count, bool)
        for keep in self.keeps:
            wanted &= np.asarray(keep.keep(table, self._next), bool)
        passed = int(wanted.sum())
        self._seen.append((self._next, count, passed, np.packbits(wanted)))
        self._next += count
        return table if passed == count else rows_kept(table, wanted)

    def place(self, row: int) -> int:
        """The row of the file that one of those that passed is, by its number among them."""
        if not self.keeps:
            return self._first + row
        for first, count, passed, packed in self._seen:
            if row < passed:
                return first + int(np.flatnonzero(np.unpackbits(packed, count=count))[row])
            row -= passed
        raise IndexError(row)


def rows_kept(table: pa.Table, mask: np.ndarray) -> pa.Table:
    """The rows of a table that a mask keeps, whatever the types of its columns.

    Args:
        table: Of any rows.
        mask: True or false for each.
    """
    try:
        return table.filter(pa.array(mask))
    except pa.ArrowNotImplementedError:  # as of views of texts, in pyarrow 26
        edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
        runs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        parts = [table.slice(first, end - first) for first, end in runs]
        return pa.concat_tables(parts or [table.slice(0, 0)]).combine_chunks()
