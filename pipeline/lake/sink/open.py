"""An address -> the sink that it names."""

from __future__ import annotations

from pipeline.lake.delta import is_table
from pipeline.lake.iceberg import TableName
from pipeline.lake.sink.base import Sink
from pipeline.lake.sink.compacted import CompactedSink
from pipeline.lake.sink.delta import DeltaOutput
from pipeline.lake.sink.files import FileSink
from pipeline.lake.sink.iceberg import IcebergOutput, place_of
from pipeline.lake.sink.table import TableSink
from pipeline.lake.store.open import open_store


def open_sink(address: str) -> Sink:
    """The sink of an address: a directory or a prefix, existing or not.

    Args:
        address: As a job file writes it.

    Raises:
        JobError: It makes no sense.
    """
    return CompactedSink(open_store(address))


def as_table(sink: Sink) -> Sink:
    """The Delta table, existing or not, at the place of files."""
    return TableSink(sink.store, DeltaOutput(sink.store)) if isinstance(sink, FileSink) else sink


def as_found(sink: Sink) -> Sink:
    """What is at the place of files: a Delta table, or files."""
    return as_table(sink) if isinstance(sink, FileSink) and is_table(sink.store) else sink


def open_iceberg(name: TableName, *, address: str | None = None) -> Sink:
    """An Iceberg table, existing or not.

    Args:
        name: By which a catalog has it.
        address: The place of its files; below the table's own by default.

    Raises:
        JobError: The catalog does not answer, or a place makes no sense.
    """
    place, location = (address, None) if address is not None else place_of(name)
    store = open_store(place)
    return TableSink(store, IcebergOutput(name, store.root, location))
