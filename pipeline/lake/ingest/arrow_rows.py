"""Arrow files, streams and what `datasets` loads, as rows: their types are their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline.errors import JobError, one_line
from pipeline.lake.ingest.reading import PIECE_ROWS, Piece, Place, conform
from pipeline.lake.ingest.types import widened
from pipeline.lake.store.base import Store

FILE, FEATHER = b"ARROW1", b"FEA1"


class ArrowRows:
    """An Arrow file or stream, Feather among them.

    Args:
        store: Where the file is.
        path: Its path there.
        place: Where to begin: a batch, and rows of it that are passed over.

    Raises:
        JobError: It is neither.
    """

    def __init__(self, store: Store, path: str, place: Place) -> None:
        found = store.open(path)
        self._path = store.address(path)
        # Mapped where it is local: a batch takes memory only as it is read.
        self._raw: Any = pa.memory_map(found) if isinstance(found, str) else found
        self.place = place
        start = self._raw.read(len(FILE))
        self._raw.seek(0)
        if start.startswith(FEATHER):
            raise self._refused("it is of the first version of Feather")
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._schema = pa.schema([])
        self._batch: pa.RecordBatch | None = None
        if start:
            try:
                self._open(start == FILE)
            except pa.ArrowInvalid as error:
                raise self._refused(one_line(error, most=200)) from error

    def learn(self, known: pa.Schema) -> Iterator[pa.Schema]:
        """What the columns must be is said at the beginning; all is read, as it may be broken."""
        yield widened(known, self._schema, self._refuse)
        try:
            for _ in self._batches:
                yield widened(known, self._schema, self._refuse)
        except pa.ArrowInvalid as error:
            raise self._refused(one_line(error, most=200)) from error

    def read(self, schema: pa.Schema, most: int) -> Piece | None:
        """The next rows; None at the end."""
        while self._batch is None or self.place.line >= self._batch.num_rows:
            if self._batch is not None:
                self.place = Place(self.place.at + 1)
            self._batch = next(self._batches, None)
            if self._batch is None:
                return None
        found = self._batch.slice(self.place.line, min(PIECE_ROWS, most))
        self.place = Place(self.place.at, self.place.line + found.num_rows)
        return Piece(conform(pa.Table.from_batches([found]), schema), found.nbytes)

    def consumed(self) -> int:
        """How many bytes of the file have been read."""
        return int(self._raw.tell())

    def close(self) -> None:
        """Lets go of the file."""
        self._batches, self._batch = iter(()), None
        self._raw.close()

    def _open(self, is_file: bool) -> None:
        if is_file:
            file = pa.ipc.open_file(self._raw)
            self._schema = file.schema
            wanted = range(self.place.at, file.num_record_batches)
            self._batches = (file.get_batch(at) for at in wanted)
        else:
            stream = pa.ipc.open_stream(self._raw)
            self._schema = stream.schema
            self._batches = iter(stream)
            for _ in range(self.place.at):
                next(self._batches, None)

    def _refused(self, why: str) -> JobError:
        return JobError(
            f"{self._path} is no Arrow file that can be read: {why}",
            hint="Write it anew with pyarrow.feather.write_feather, or as an Arrow stream",
        )

    def _refuse(self, known: pa.DataType, found: pa.DataType) -> pa.DataType:
        raise JobError(
            f"{self._path} has a column of type {found}, which is {known} in files before it",
            hint="Import them into two directories, or write one of them anew",
        )


class DatasetRows:
    """Rows of a dataset that `datasets` holds in memory-mapped files.

    Args:
        dataset: With its format set to Arrow.
        place: Where to begin.
    """

    def __init__(self, dataset: Any, place: Place) -> None:
        self._dataset = dataset
        self.place = place

    def learn(self, known: pa.Schema) -> Iterator[pa.Schema]:
        """The dataset says what its columns are."""

        def refuse(first: pa.DataType, second: pa.DataType) -> pa.DataType:
            raise JobError(
                f"the parts of the dataset have a column as {first} and as {second}",
                hint="Import them into two directories",
            )

        yield widened(known, self._dataset.features.arrow_schema, refuse)

    def read(self, schema: pa.Schema, most: int) -> Piece | None:
        """The next rows; None at the end."""
        begin = self.place.at
        end = min(begin + min(PIECE_ROWS, most), len(self._dataset))
        if begin >= end:
            return None
        found = self._dataset[begin:end]
        self.place = Place(end)
        return Piece(conform(found, schema), found.nbytes)

    def consumed(self) -> int:
        """Rows, as bytes tell nothing here."""
        return self.place.at

    def close(self) -> None:
        """There is nothing to let go of."""
