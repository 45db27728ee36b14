"""From where to where the splits of a worker go, and what their files look like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.engine.messages import WorkPlan
from pipeline.job.columns import ERRORS_TYPE, carried_columns, columns_of
from pipeline.job.job import ERRORS_COLUMN
from pipeline.lake.sink.base import Sink
from pipeline.lake.sink.metadata import PANDAS, output_metadata
from pipeline.lake.source.base import OpenSplit, Source


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
    # Of the last file: files of a dataset are alike, and small ones are many.
    _layout: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def layout(self, found: OpenSplit, *, where: str) -> tuple[pa.Schema, list[str]]:
        """What a split's output file looks like.

        Args:
            found: The split, open for reading.
            where: Its file, for messages.

        Returns:
            The schema of the output file, and the columns to read of the split.

        Raises:
            SplitError: A column is missing, of a wrong type, or would be overwritten.
        """
        given = found.schema
        rows = None if found.filtered else (found.first, found.rows)
        key = (tuple(found.beside), rows if PANDAS in (given.metadata or {}) else None)
        last = self._layout.get("last")
        if last is not None and last[1] == key and given.equals(last[0], check_metadata=True):
            return last[2], last[3]
        carried = carried_columns(self.plan.job, given, where=where, beside=found.beside)
        schema, columns = self.schema(carried, rows=rows), columns_of(self.plan.job, carried)
        self._layout["last"] = (given, key, schema, columns)
        return schema, columns

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
