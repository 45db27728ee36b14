"""The columns of an input that a job reads and carries."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa

from pipeline.errors import SplitError, near
from pipeline.job.job import ERRORS_COLUMN, Job
from pipeline.lake.iceberg import without_number

ERRORS_TYPE = pa.list_(
    pa.struct([("task", pa.string()), ("code", pa.string()), ("message", pa.string())])
)


def carried_columns(
    job: Job, schema: pa.Schema, *, where: str, beside: Collection[str] = ()
) -> pa.Schema:
    """The columns that an output file keeps, after checking that all are there that the job names.

    Args:
        job: What is to be done.
        schema: Of the rows of an input file.
        where: The file, for messages.
        beside: Columns that the file's path tells: the output's path tells them, too.

    Raises:
        SplitError: A column is missing, of a wrong type, or would be overwritten.
    """
    # A table's columns are those of its files, wherever they lie.
    beside = beside if job.output.format == "parquet" else ()
    columns = job.carried
    have = ", ".join(schema.names)
    fields = {name: job.named_by.get(name, "input.text") for name in (*job.texts_read, *job.reads)}
    for name in (*fields, *(columns or ())):
        if schema.get_field_index(name) < 0:
            again = " (or more than once)" if schema.names.count(name) > 1 else ""
            hint = f"{near(name, schema.names)} in {fields.get(name, job.carried_by)}"
            raise SplitError(f"{where} has no column `{name}`{again}; it has {have}", hint=hint)
    for name in job.texts_read:
        kind = schema.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (
            pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or pa.types.is_string_view(kind)
            or pa.types.is_null(kind)  # what pandas writes when all texts of a file are missing
        ):
            raise SplitError(
                f"{where}: column `{name}` is {schema.field(name).type}, not text; "
                f"the columns are {', '.join(f'{f.name}: {f.type}' for f in schema)}",
                hint=f"Set {fields[name]} to a string column, or cast that one",
            )
    if columns is None:
        twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
        if twice is not None:
            raise SplitError(
                f"{where} has more than one column `{twice}`",
                hint="Name the columns to carry in input.columns, or write the file anew",
            )
        columns = tuple(schema.names)
    kept = [schema.field(name) for name in columns if name not in beside]
    if job.output.format == "iceberg":  # whose columns have numbers of their own
        kept = [without_number(field) for field in kept]
    carried = pa.schema(kept, metadata=schema.metadata)
    for name in [*job.tasks, ERRORS_COLUMN]:
        if name in carried.names or name in beside:
            raise SplitError(
                f"{where} has a column `{name}`, which the output would overwrite",
                hint="Rename the task, or list the columns to carry in input.columns",
            )
    return carried


def columns_of(job: Job, carried: pa.Schema) -> list[str]:
    """The columns to read of an input: those that are carried, and those that tasks look at."""
    return list(dict.fromkeys([*carried.names, *job.reads]))


def output_columns(job: Job, carried: pa.Schema) -> pa.Schema:
    """The columns of an output file: what is carried, one per task, errors.

    Args:
        job: Whose tasks are bound to their models.
        carried: From `carried_columns`.
    """
    added = [pa.field(name, task.output_type()) for name, task in job.configured.items()]
    return pa.schema([*carried, *added, pa.field(ERRORS_COLUMN, ERRORS_TYPE)])
