"""An address -> the sink that it names."""

from __future__ import annotations

from pipeline.lake.sink.files import FileSink
from pipeline.lake.store.open import open_store


def open_sink(address: str) -> FileSink:
    """The sink of an address: a directory or a prefix, existing or not.

    Args:
        address: As a job file writes it.

    Raises:
        JobError: It makes no sense.
    """
    return FileSink(open_store(address))
