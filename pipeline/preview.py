"""A few rows: annotated in this process, or read from an output."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from pipeline.check import check, pin
from pipeline.errors import JobError
from pipeline.job import Job
from pipeline.lake.dataset import SUFFIXES, Split
from pipeline.lake.store import open_store
from pipeline.models.device import device_here

if TYPE_CHECKING:
    import pyarrow as pa


def preview_rows(job: Job, *, rows: int) -> pa.Table:
    """Annotates the first rows of a dataset without Ray and without writing.

    Args:
        job: From `load_job`.
        rows: How many, over as many files as it takes.

    Returns:
        Carried columns, task columns and errors.

    Raises:
        JobError: The job is wrong.
    """
    checked = check(job)
    import pyarrow as pa

    from pipeline.engine.annotator import Annotator
    from pipeline.lake.reader import input_schema, open_split, windows

    pinned = pin(checked)
    asked = pinned.checked.job.compute.device
    device = device_here() if asked == "auto" else asked
    annotator = Annotator(pinned.work(device=device, threads=os.cpu_count() or 1))
    store = checked.dataset.store
    parts: list[pa.Table] = []
    for entry in checked.files:
        missing = rows - sum(part.num_rows for part in parts)
        if missing <= 0:
            break
        with closing(open_split(store, entry.path)) as file:
            carried = input_schema(
                file.schema_arrow,
                reads=job.reads,
                texts=job.texts_read,
                named=job.named_by,
                columns=job.input.columns,
                where=store.address(entry.path),
            )
            columns = list(dict.fromkeys([*carried.names, *job.reads]))
            split = Split.of(entry, fingerprint=pinned.fingerprint)
            for table, _ in windows(file, split, columns=columns):
                few = table.slice(0, missing)
                part = annotator.annotate_table(few, annotator.schema(carried))
                parts.append(part)
                break
    return pa.concat_tables(parts, promote_options="permissive")


def output_rows(job: Job, *, rows: int) -> pa.Table:
    """The first annotated rows of a job's output.

    Raises:
        JobError: There is no output yet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    store = open_store(job.output.path)
    paths = sorted(entry.path for entry in store.entries() if entry.path.endswith(SUFFIXES))
    parts: list[pa.Table] = []
    for path in paths:
        missing = rows - sum(part.num_rows for part in parts)
        if missing <= 0:
            break
        with closing(pq.ParquetFile(store.open(path))) as file:
            for batch in file.iter_batches(batch_size=missing):
                parts.append(pa.Table.from_batches([batch]))
                break
    if not parts:
        raise JobError(f"{job.output.path} holds no annotated rows yet", mend="Run the job first")
    return pa.concat_tables(parts, promote_options="permissive")
