"""An address -> the sink that it names."""

from __future__ import annotations

from pipeline.lake.delta import is_table
from pipeline.lake.sink.base import Sink
from pipeline.lake.sink.compacted import CompactedSink
from pipeline.lake.sink.delta import DeltaSink
from pipeline.lake.sink.files import FileSink
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
    return DeltaSink(sink.store) if isinstance(sink, FileSink) else sink


def as_found(sink: Sink) -> Sink:
    """What is at the place of files: a Delta table, or files."""
    return as_table(sink) if isinstance(sink, FileSink) and is_table(sink.store) else sink
