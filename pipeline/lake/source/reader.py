"""A split of a Parquet file -> bounded batches of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RowError, SplitError, one_line
from pipeline.lake.split import Region, RowGroups, Rows, Split
from pipeline.lake.store.base import Store
from pipeline.moves import moved

# A batch is what is sorted by length at once: large enough to leave little padding, small
# enough that memory does not depend on the file.
BATCH_ROWS = 16_384
BATCH_BYTES = 8 * 1024 * 1024
# What is decoded at once. Whoever sorts a lake by length puts its largest texts side by side, and a
# footer tells neither where they are nor how large a text is that repeats. Reading 100,000 texts of
# 300 bytes takes 0.3 s so, 0.06 s by 256 rows: less than a thousandth of what models take.
STEP_ROWS = 8
BUFFER_BYTES = 1 << 20  # of each column
# What pyarrow raises over a file that is not what it says.
SPOILT = (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError)


class ParquetSplit:
    """A split of a Parquet file, open for reading.

    Args:
        store: Where the file is.
        split: What of it is read.

    Attributes:
        schema: Of all the file's columns, with its metadata.
        first: The row of the file that the split begins with.
        rows: How many rows it has.

    Raises:
        SplitError: The file is not there, is not Parquet, or has no such region.
    """

    def __init__(self, store: Store, split: Split) -> None:
        self._where = store.address(split.path)
        self._region = split.region
        self._file = _open(store, split.path)
        self.schema: pa.Schema = self._file.schema_arrow
        self.first, end = extent(self._file, split.region)
        self.rows = end - self.first
        if not 0 <= self.first <= end <= self._file.metadata.num_rows:
            self.close()
            raise SplitError(
                f"{split.told} is not in the file, which has {self._file.metadata.num_rows} rows",
                hint="Run the same command again when it is finished being written",
            )

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows in order, a bounded batch at a time.

        Raises:
            SplitError: The file is damaged, or can't be read any more.
        """
        try:
            yield from read_batches(self._file, self._region, columns=columns)
        except SPOILT as error:
            raise SplitError(
                f"{self._where} can't be read: {one_line(error, most=200)}",
                hint="If the file is damaged, write it again or take it out of the dataset",
            ) from error

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


def _open(store: Store, path: str) -> pq.ParquetFile:
    try:
        # By default pyarrow holds all of a row group's columns, as they are in the file, at once.
        return pq.ParquetFile(store.open(path), buffer_size=BUFFER_BYTES, pre_buffer=False)
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


def read_batches(
    file: pq.ParquetFile, region: Region, *, columns: Sequence[str]
) -> Iterator[pa.Table]:
    """Reads a region of a file in order, a bounded batch at a time.

    Args:
        file: An open file that has the region.
        region: What to read of it.
        columns: What to read of each row.
    """
    waiting: list[pa.RecordBatch] = []
    count = held = 0
    for batch in _few_rows(file, region, columns):
        for part in _in_bounds(batch):
            full = count + part.num_rows > BATCH_ROWS or held + part.nbytes > BATCH_BYTES
            if waiting and full:
                yield pa.Table.from_batches(waiting)
                waiting, count, held = [], 0, 0
            waiting.append(part)
            count += part.num_rows
            held += part.nbytes
    if count:
        yield pa.Table.from_batches(waiting)


def _few_rows(
    file: pq.ParquetFile, region: Region, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """A region's rows, a few at a time."""
    groups, skip = _groups(file, region)
    begin, end = extent(file, region)
    left = end - begin
    for batch in file.iter_batches(
        batch_size=STEP_ROWS, row_groups=groups, columns=list(columns), use_threads=False
    ):
        moved()
        wanted = batch.slice(skip, left)
        skip = max(0, skip - batch.num_rows)
        left -= wanted.num_rows
        if wanted.num_rows:
            yield wanted
        if not left:
            return


def _in_bounds(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch, or row by row if it is larger than that."""
    if batch.nbytes <= BATCH_BYTES:
        yield batch
    else:
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)


def extent(file: pq.ParquetFile, region: Region) -> tuple[int, int]:
    """The first row of a region, and the one behind its last."""
    match region:
        case Rows(first, count):
            return first, first + count
        case RowGroups(first, last):
            sizes = [file.metadata.row_group(group).num_rows for group in range(last + 1)]
            return sum(sizes[:first]), sum(sizes)
        case _:
            return 0, file.metadata.num_rows


def _groups(file: pq.ParquetFile, region: Region) -> tuple[list[int], int]:
    """The row groups that a region is in, and how many rows of them are before it."""
    begin, end = extent(file, region)
    groups: list[int] = []
    skip = at = 0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if at < end and at + rows > begin:
            if not groups:
                skip = begin - at
            groups.append(group)
        at += rows
    return groups, skip


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
