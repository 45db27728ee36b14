"""Where a job reads and writes: its parts -> source and sink."""

from __future__ import annotations

from pathlib import Path

from pipeline.job.input import Input
from pipeline.job.job import Job
from pipeline.lake.iceberg import TableName
from pipeline.lake.sink.base import Sink
from pipeline.lake.sink.open import as_table, open_iceberg, open_sink
from pipeline.lake.source.base import Source
from pipeline.lake.source.open import as_found, open_source, open_table


def sink_of(job: Job) -> Sink:
    """A job's output; of an Iceberg table, its catalog is asked.

    Raises:
        JobError: The address makes no sense, or the catalog does not answer.
    """
    part = job.output
    if part.table is not None:
        return open_iceberg(TableName(part.table, part.catalog), address=part.path)
    sink = open_sink(part.path or "")
    return as_table(sink) if part.format == "delta" else sink


def output_address(job: Job) -> str:
    """Where a job's files go; of an Iceberg table, its catalog may be asked."""
    return job.output.path or sink_of(job).address


def source_of(part: Input) -> Source:
    """A job's input; of an Iceberg table, nothing is asked yet.

    Raises:
        JobError: There is nothing.
    """
    if part.table is not None:
        name = TableName(part.table, part.catalog)
        return open_table(name, choice=part.choice, version=part.version)
    return as_found(open_source(part.path or (), choice=part.choice), version=part.version)


def absolute_input(part: Input) -> Input:
    """The same from whatever directory."""
    path = part.path
    if path is None:
        return part
    absolute = _absolute(path) if isinstance(path, str) else tuple(map(_absolute, path))
    return part.model_copy(update={"path": absolute})


def _absolute(address: str) -> str:
    if "://" in address:
        return address
    # Not resolved: a glob's pattern is part of it.
    return str(Path.cwd() / Path(address).expanduser())
