"""Open Parquet files that stand where they were read to.

A row group can be read from its start alone: a range of rows in its middle costs all that is
before it. Ranges that are asked for in order are read by one reader, which goes on where it stands,
so that all of a file's cost one pass over it, and not a pass each.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.lake.split import Region, RowGroups, Rows, Split
from pipeline.moves import moved

# What is decoded at once. Whoever sorts a lake by length puts its largest texts side by side, and a
# footer tells neither where they are nor how large a text is that repeats. Reading 100,000 texts of
# 300 bytes takes 0.3 s so, 0.06 s by 256 rows: less than a thousandth of what models take.
STEP_ROWS = 8
# Where so many rows could not hold more than this, even if each were the largest of its row group.
STEP_BYTES = 8 * 1024 * 1024
MOST_STEPS = 128
# As many as a worker reads at once; each holds a buffer and a page of each column.
KEPT = 2


class OpenFile:
    """A Parquet file, and where in it a reader stands.

    Args:
        parquet: The file.
        key: Its path and version.
    """

    def __init__(self, parquet: pq.ParquetFile, key: tuple[str, str] = ("", "")) -> None:
        self.parquet = parquet
        self.key = key
        metadata = self.parquet.metadata
        groups = range(metadata.num_row_groups)
        self._starts = [0, *accumulate(metadata.row_group(group).num_rows for group in groups)]
        self._columns: Sequence[str] = ()
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._rest: pa.RecordBatch | None = None
        self._at = self._until = 0

    def extent(self, region: Region) -> tuple[int, int]:
        """The first row of a region, and the one behind its last."""
        match region:
            case Rows(first, count):
                return first, first + count
            case RowGroups(first, last):
                return self._starts[first], self._starts[min(last + 1, len(self._starts) - 1)]
            case _:
                return 0, self._starts[-1]

    def without(self, region: Region, may: Sequence[bool]) -> list[Region]:
        """What is left of a region without some row groups, in order.

        Args:
            region: Which is in the file.
            may: Which row groups are wanted, true or false for each.
        """
        begin, end = self.extent(region)
        found: list[Region] = []
        left = 0
        for wanted, run in groupby(range(len(may)), key=lambda group: may[group]):
            groups = list(run)
            first = max(begin, self._starts[groups[0]])
            behind = min(end, self._starts[groups[-1] + 1])
            if wanted and first < behind:
                whole = RowGroups(groups[0], groups[-1])
                alike = self.extent(whole) == (first, behind)
                found.append(whole if alike else Rows(first, behind - first))
                left += behind - first
        # As it was where nothing is left out, so that what is read ahead is the same.
        return [region] if left == end - begin else found

    def way_to(self, row: int) -> int | None:
        """How many rows it would pass over to get to one; None if it would have to start anew."""
        if self._batches is None or not self._at <= row < self._until:
            return None
        if self._group(self._at) != self._group(row):
            return None
        return row - self._at

    def read(
        self, region: Region, columns: Sequence[str], *, step: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """A region's rows, a few at a time; then it stands behind them.

        Args:
            region: Which is in the file.
            columns: What to read of each row.
            step: How many rows to decode at once; so few that they can't be too much, by default.
        """
        begin, end = self.extent(region)
        if begin < end and (self.way_to(begin) is None or list(columns) != self._columns):
            # Behind a range comes the next; behind row groups, a page that nobody wants.
            behind = len(self._starts) - 2 if isinstance(region, Rows) else self._group(end - 1)
            self._start(range(self._group(begin), behind + 1), columns, step)
        while self._at < end and begin < end:
            batch = self._next()
            if begin <= self._at and self._at + batch.num_rows <= end:
                self._at += batch.num_rows
                yield batch
                continue
            skip = min(max(0, begin - self._at), batch.num_rows)
            wanted = batch.slice(skip, max(0, end - self._at - skip))
            self._at += skip + wanted.num_rows
            if skip + wanted.num_rows < batch.num_rows:
                self._rest = batch.slice(skip + wanted.num_rows)
            if wanted.num_rows:
                yield wanted

    def close(self) -> None:
        """Lets go of the file."""
        self._batches = self._rest = None
        self.parquet.close(force=True)

    def _group(self, row: int) -> int:
        """The row group that a row is in; of those without rows, none."""
        return bisect_right(self._starts, row) - 1

    def _start(self, groups: range, columns: Sequence[str], step: int | None) -> None:
        if step is None:
            metadata = self.parquet.metadata
            largest = max(metadata.row_group(group).total_byte_size for group in groups)
            times = min(MOST_STEPS, STEP_BYTES // (STEP_ROWS * max(1, largest)))
            # By powers of two, so that what is annotated together begins and ends where it did.
            step = STEP_ROWS << max(1, times).bit_length() - 1
        self._columns, self._rest, self._at = list(columns), None, self._starts[groups.start]
        self._until = self._starts[groups.stop]
        self._batches = self.parquet.iter_batches(
            batch_size=step, row_groups=list(groups), columns=self._columns, use_threads=False
        )

    def _next(self) -> pa.RecordBatch:
        rest, self._rest = self._rest, None
        if rest is not None:
            return rest
        assert self._batches is not None
        reader, self._batches = self._batches, None  # one that has failed is no use any more
        batch = next(reader)
        self._batches = reader
        moved()
        return batch


class OpenFiles:
    """What ranges of a file's rows were read of, kept open for the next. Pickled, there is none."""

    def __init__(self) -> None:
        self._idle: list[OpenFile] = []
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenFiles, ()

    def take(self, split: Split) -> OpenFile | None:
        """A file that is open already, the one that has the shortest way to a split's rows."""
        if not isinstance(split.region, Rows):
            return None
        row = split.region.first
        with self._lock:
            same = [file for file in self._idle if file.key == (split.path, split.version)]
            if not same:
                return None
            ways = [(way, file) for file in same if (way := file.way_to(row)) is not None]
            best = min(ways, key=lambda found: found[0])[1] if ways else same[0]
            self._idle.remove(best)
            return best

    def give(self, file: OpenFile, split: Split) -> None:
        """Takes a file back, and closes what is not to be kept."""
        closed = [file]
        if isinstance(split.region, Rows):
            with self._lock:
                kept = [other for other in self._idle if other.key == file.key][1 - KEPT :]
                closed = [other for other in self._idle if other not in kept]
                self._idle = [*kept, file]
        for each in closed:
            each.close()
