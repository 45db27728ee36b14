"""The rows of a table's data file: those that are not deleted, with the table's columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline.errors import SplitError
from pipeline.lake.source.passed import Passed
from pipeline.lake.source.reader import ParquetSplit
from pipeline.lake.source.where import KeepRows


class TableColumns(Protocol):
    """How the columns of a data file become those of its table."""

    def read_for(self, names: Sequence[str]) -> list[str]:
        """The file's columns that these columns of the table are made from."""

    def made(self, table: pa.Table, names: Sequence[str]) -> pa.Table:
        """The columns of the table.

        Args:
            table: Rows of the file, with those of `read_for`.
            names: Of the table, at least one.

        Raises:
            SplitError: A column is of a type that can't be read as the table's.
        """


class TableSplit:
    """A split of a data file: its rows that are not deleted, with all of the table's columns.

    Args:
        file: The data file's rows.
        schema: Of the table.
        columns: How its columns become the table's.
        kept: Which of its rows are not deleted, from its first on; None for all.
        keeps: What rows have to pass.

    Attributes:
        schema: Of the table.
        beside: Nothing: no path tells what a table's rows have.
        filtered: Whether rows may be filtered out.
        first: The row of the file that it begins with.
        rows: How many rows it has that are not deleted.
    """

    def __init__(
        self,
        file: ParquetSplit,
        *,
        schema: pa.Schema,
        columns: TableColumns,
        kept: np.ndarray | None,
        keeps: Sequence[KeepRows] = (),
    ) -> None:
        self._file = file
        self._columns = columns
        self._passed = Passed(keeps)
        self.filtered = bool(keeps)
        self.beside: Mapping[str, pa.Scalar] = {}
        self._mask = kept
        self.schema = schema
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
        at = self.first
        # Counted without those that are deleted, as whoever looks for a place does.
        self._passed.begin(0)
        for table in self._file.batches(self._columns.read_for(read), rows=rows):
            count = table.num_rows
            at += count
            filled = self._columns.made(table, read) if read else table
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

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


def as_type(column: pa.ChunkedArray, kind: pa.DataType, what: str) -> Any:
    """A file's column with its table's type.

    Args:
        column: Of the file.
        kind: The type.
        what: The column, for messages.

    Raises:
        SplitError: It can't be read as that.
    """
    if column.type.equals(kind):
        return column
    try:
        return column.cast(kind)
    except (pa.ArrowException, UnicodeDecodeError):
        # What is no UTF-8 is told row by row, where it is read.
        if pa.types.is_string(kind) and pa.types.is_dictionary(column.type):
            return column.combine_chunks().dictionary_decode()
        raise SplitError(
            f"{what} is {column.type}, which can't be read as the table's {kind}",
            hint="Write the file's rows anew",
        ) from None
