"""A split of a Parquet file -> bounded batches of rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RowError, SplitError, one_line
from pipeline.lake.source.alike import Alike
from pipeline.lake.source.hive import check_told
from pipeline.lake.source.open_files import OpenFile, OpenFiles
from pipeline.lake.source.passed import Passed
from pipeline.lake.source.where import KeepRows
from pipeline.lake.split import Region, Split
from pipeline.lake.store.base import Readable

# A batch is what is sorted by length at once: large enough to leave little padding, small
# enough that memory does not depend on the file.
BATCH_ROWS = 16_384
BATCH_BYTES = 8 * 1024 * 1024
BUFFER_BYTES = 1 << 20  # of each column
# What pyarrow raises over a file that is not what it says.
SPOILT = (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError)


class ParquetSplit:
    """A split of a Parquet file, open for reading.

    Args:
        store: Where the file is.
        split: What of it is read.
        kept: Files that are open already, and where this one goes if there is more to come of it.
        told: Columns that are told beside the file, each with the value that all rows have.
        keeps: What rows have to pass.
        union: The columns of all files together, where they are not the same in each.
        needed: Columns that are null in no file that lacks them.

    Attributes:
        schema: Of all columns of its rows, with the file's metadata.
        beside: Those that the file does not have.
        first: The row of the file that the split begins with.
        rows: How many rows of the file it has.
        filtered: Whether rows may be filtered out.

    Raises:
        SplitError: The file is not there, is not Parquet, or has no such region.
    """

    def __init__(
        self,
        store: Readable,
        split: Split,
        kept: OpenFiles,
        *,
        told: Mapping[str, pa.Scalar] | None = None,
        keeps: Sequence[KeepRows] = (),
        union: pa.Schema | None = None,
        needed: Collection[str] = (),
    ) -> None:
        self._where = store.address(split.path)
        self._split = split
        self._kept = kept
        self._broken = False
        self._file = kept.take(split) or _open(store, split)
        own: pa.Schema = self._file.parquet.schema_arrow
        self._own = {*own.names}
        self._alike = Alike(union, own, needed=needed, where=self._where)
        schema = self._alike.schema
        told = told or {}
        self.beside = {name: told[name] for name in told if name not in schema.names}
        self._checked = {name: told[name] for name in told if name in schema.names}
        for name, value in self.beside.items():
            schema = schema.append(pa.field(name, value.type))
        self.schema = schema
        self._passed = Passed(keeps)
        self.filtered = bool(keeps)
        self.first, end = self._file.extent(split.region)
        self.rows = end - self.first
        there = self._file.parquet.metadata.num_rows
        if not 0 <= self.first <= end <= there:
            self.close()
            raise SplitError(
                f"{split.told} is not in the file, which has {there} rows",
                hint="Run the same command again when it is finished being written",
            )

    def batches(self, columns: Sequence[str], *, rows: int | None = None) -> Iterator[pa.Table]:
        """The rows that pass, in order, a bounded batch at a time, or so many rows at a time.

        Raises:
            SplitError: The file is damaged, or can't be read any more; or a row can't be told to
                pass.
        """
        read = list(dict.fromkeys([*columns, *self._passed.names]))
        self._passed.begin(self.first)
        ours = [name for name in read if name not in self.beside]
        in_file = [name for name in ours if name in self._own]
        for first, found in self._tables(in_file, rows):
            self._passed.go_to(first)
            table = self._alike.of(found, ours)
            for name in self._checked.keys() & {*table.column_names}:
                check_told(name, table.column(name), self._checked[name], where=self._where)
            for name in read:
                if name in self.beside:
                    value = pa.repeat(self.beside[name], table.num_rows)
                    table = table.append_column(name, value)
            passing = self._passed.of(table)
            if passing.num_rows:
                yield passing.select(list(columns))

    def place(self, row: int) -> int:
        """Which row of the file the row of that number among those given is."""
        return self._passed.place(row)

    def _tables(self, columns: Sequence[str], rows: int | None) -> Iterator[tuple[int, pa.Table]]:
        """What has to be looked at, each part with the row of the file that it begins with."""
        try:
            for region in self._regions():
                at, _ = self._file.extent(region)
                if rows is None:
                    tables = read_batches(self._file, region, columns=columns)
                else:
                    batches = self._file.read(region, columns, step=rows)
                    tables = (pa.Table.from_batches([batch]) for batch in batches)
                for table in tables:
                    yield at, table
                    at += table.num_rows
        except SPOILT as error:
            self._broken = True
            raise SplitError(
                f"{self._where} can't be read: {one_line(error, most=200)}",
                hint="If the file is damaged, write it again or take it out of the dataset",
            ) from error

    def _regions(self) -> list[Region]:
        """The split's region without the row groups that hold no row that passes."""
        if not self._passed.keeps:
            return [self._split.region]
        may = self._passed.row_groups(self._file.parquet, told=self.beside)
        return self._file.without(self._split.region, may)

    def close(self) -> None:
        """Lets go of the file."""
        if self._broken:
            self._file.close()
        else:
            self._kept.give(self._file, self._split)


def _open(store: Readable, split: Split) -> OpenFile:
    path = split.path
    try:
        # By default pyarrow holds all of a row group's columns, as they are in the file, at once.
        found = store.open(path)
        if isinstance(found, str):  # by its name, pyarrow looks three times what there is
            found = pa.OSFile(found)
        file = pq.ParquetFile(found, buffer_size=BUFFER_BYTES, pre_buffer=False)
        return OpenFile(file, (path, split.version))
    except FileNotFoundError as error:
        raise SplitError(f"{store.address(path)} is not there any more") from error
    except UnicodeEncodeError as error:
        raise SplitError(
            f"{store.address(path)} has a name that is not UTF-8", hint="Rename the file"
        ) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = one_line(error, most=200)
        raise SplitError(
            f"{store.address(path)} is not a readable Parquet file: {reason}",
            hint="Write it again, or take it out of the dataset",
        ) from error


def read_batches(file: OpenFile, region: Region, *, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Reads a region of a file in order, a bounded batch at a time.

    Args:
        file: An open file that has the region.
        region: What to read of it.
        columns: What to read of each row.
    """
    waiting: list[pa.RecordBatch] = []
    count = held = 0
    for batch in file.read(region, columns):
        for part, size in _in_bounds(batch):
            rows = part.num_rows
            if held + size > BATCH_BYTES:  # perhaps: they are counted with what lies unused
                held, size = sum(each.nbytes for each in waiting), part.nbytes
            if waiting and (count + rows > BATCH_ROWS or held + size > BATCH_BYTES):
                yield _joined(waiting)
                waiting, count, held = [], 0, 0
            waiting.append(part)
            count += rows
            held += size
    if count:
        yield _joined(waiting)


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.Table:
    """In one piece: all that follows looks at each piece for itself."""
    return pa.Table.from_batches(batches).combine_chunks()


def _in_bounds(batch: pa.RecordBatch) -> Iterator[tuple[pa.RecordBatch, int]]:
    """The batch, or row by row if it is larger than that, and what it holds in bytes at most."""
    size = batch.get_total_buffer_size()  # a tenth of the time that `nbytes` takes
    if size <= BATCH_BYTES or (size := batch.nbytes) <= BATCH_BYTES:
        yield batch, size
    else:
        for row in range(batch.num_rows):
            part = batch.slice(row, 1)
            yield part, part.nbytes


def texts_of(column: pa.Array) -> tuple[list[str | None], dict[int, RowError]]:
    """A text column as Python strings.

    Returns:
        One entry per row, None for null and for what is not UTF-8; why, by row, for the latter.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return column.to_pylist(), {}
    except UnicodeDecodeError:
        pass
    texts: list[str | None] = []
    failures = {}
    for row, raw in enumerate(column.cast(_binary(column.type)).to_pylist()):
        try:
            texts.append(None if raw is None else raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            texts.append(None)
            failures[row] = RowError(f"the text is not UTF-8: {error}", code="not_utf8")
    return texts, failures


def _binary(kind: Any) -> pa.DataType:
    return pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()
