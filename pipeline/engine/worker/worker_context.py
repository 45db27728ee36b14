"""From where to where the splits of a worker go, and what their files look like."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pipeline.engine.messages import WorkPlan
from pipeline.job.columns import ERRORS_TYPE
from pipeline.job.job import ERRORS_COLUMN
from pipeline.lake.sink.base import Sink
from pipeline.lake.sink.metadata import output_metadata
from pipeline.lake.source.base import Source


@dataclass(frozen=True)
class WorkerContext:
    """From where to where the splits of a worker go.

    Attributes:
        plan: The job and its models.
        source: Where splits are read.
        sink: Where they are committed.
        types: Of the tasks' columns.
        dtype: What models compute in, for the footer.
        worker: Its name, for results.
    """

    plan: WorkPlan
    source: Source
    sink: Sink
    types: dict[str, pa.DataType]
    dtype: str
    worker: str

    def schema(self, carried: pa.Schema, *, rows: tuple[int, int] | None = None) -> pa.Schema:
        """The output schema of a file: carried columns, one per task, errors.

        Args:
            carried: What is carried, with the metadata of the input.
            rows: First row and number of rows, of a part of a file; None if it is none, or not
                one whole part.
        """
        added = [pa.field(name, kind) for name, kind in self.types.items()]
        added.append(pa.field(ERRORS_COLUMN, ERRORS_TYPE))
        said = output_metadata(carried.metadata, carried.names, added, rows=rows)
        return pa.schema([*carried, *added], metadata=said)
