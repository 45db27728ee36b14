"""A split -> bounded batches of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RowError, SplitError, near, one_line
from pipeline.lake.split import Region, RowGroups, Rows, Split
from pipeline.lake.store.base import Store
from pipeline.moves import moved

# A batch is what is sorted by length at once: large enough to leave little padding, small
# enough that memory does not depend on the file.
BATCH_ROWS = 16_384
BATCH_BYTES = 8 * 1024 * 1024
# What is decoded at once. Whoever sorts a lake by length puts its largest texts side by side, and a
# footer tells neither where they are nor how large a text is that repeats. Reading 100,000 texts of
# 300 bytes takes 0.3 s so, 0.06 s by 256 rows: less than a thousandth of what models take.
STEP_ROWS = 8
BUFFER_BYTES = 1 << 20  # of each column


def open_split(store: Store, path: str) -> pq.ParquetFile:
    """Opens an input file.

    Raises:
        SplitError: It is not there or is not Parquet.
    """
    try:
        # By default pyarrow holds all of a row group's columns, as they are in the file, at once.
        return pq.ParquetFile(store.open(path), buffer_size=BUFFER_BYTES, pre_buffer=False)
    except FileNotFoundError as error:
        raise SplitError(f"{store.address(path)} is not there any more") from error
    except UnicodeEncodeError as error:
        raise SplitError(
            f"{store.address(path)} has a name that is not UTF-8", hint="Rename the file"
        ) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = one_line(error, most=200)
        raise SplitError(
            f"{store.address(path)} is not a readable Parquet file: {reason}",
            hint="Write it again, or take it out of the dataset",
        ) from error


def input_schema(
    schema: pa.Schema,
    *,
    texts: Sequence[str],
    columns: Sequence[str] | None,
    where: str,
    reads: Sequence[str] = (),
    named: Mapping[str, str] | None = None,
) -> pa.Schema:
    """The carried columns of a file, after checking that it has what the job names.

    Args:
        schema: The file's.
        texts: Columns that must hold text.
        columns: Carried columns; None for all.
        where: The file, for messages.
        reads: Further columns that tasks look at, of any type.
        named: The job's field that names each column, such as ``tasks.topic.input``.

    Raises:
        SplitError: A column is missing or a text column holds no text.
    """
    have = ", ".join(schema.names)
    fields = {name: (named or {}).get(name, "input.text") for name in (*texts, *reads)}
    for name in (*fields, *(columns or ())):
        if schema.get_field_index(name) < 0:
            again = " (or more than once)" if schema.names.count(name) > 1 else ""
            hint = f"{near(name, schema.names)} in {fields.get(name, 'input.columns')}"
            raise SplitError(f"{where} has no column `{name}`{again}; it has {have}", hint=hint)
    for name in texts:
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
        return schema
    return pa.schema([schema.field(name) for name in columns], metadata=schema.metadata)


def read_batches(
    file: pq.ParquetFile, split: Split, *, columns: Sequence[str]
) -> Iterator[tuple[pa.Table, float]]:
    """Reads a split in order, a bounded batch at a time.

    Args:
        file: The open input file.
        split: What to read of it.
        columns: What to read of each row.

    Yields:
        A batch, and the fraction of the split's rows that it is.
    """
    rows = split_rows(file, split)
    waiting: list[pa.RecordBatch] = []
    count = held = 0
    for batch in _batches(file, split, columns):
        for part in _in_bounds(batch):
            full = count + part.num_rows > BATCH_ROWS or held + part.nbytes > BATCH_BYTES
            if waiting and full:
                yield pa.Table.from_batches(waiting), count / rows
                waiting, count, held = [], 0, 0
            waiting.append(part)
            count += part.num_rows
            held += part.nbytes
    if count:
        yield pa.Table.from_batches(waiting), count / rows


def _batches(
    file: pq.ParquetFile, split: Split, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """A split's rows, a few at a time."""
    groups, skip = _groups(file, split.region)
    left = split_rows(file, split)
    for batch in file.iter_batches(
        batch_size=STEP_ROWS, row_groups=groups, columns=list(columns), use_threads=False
    ):
        moved()
        wanted = batch.slice(skip, left)
        skip = max(0, skip - batch.num_rows)
        left -= wanted.num_rows
        if wanted.num_rows:
            yield wanted
        if not left:
            return


def _in_bounds(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch, or row by row if it is larger than that."""
    if batch.nbytes <= BATCH_BYTES:
        yield batch
    else:
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)


def split_rows(file: pq.ParquetFile, split: Split) -> int:
    """How many rows a split has.

    Raises:
        SplitError: The file has fewer.
    """
    first, last = extent(file, split.region)
    if not 0 <= first <= last <= file.metadata.num_rows:
        raise SplitError(
            f"{split.told} is not in the file, which has {file.metadata.num_rows} rows",
            hint="Run the same command again when it is finished being written",
        )
    return last - first


def first_row(file: pq.ParquetFile, split: Split) -> int:
    """The row of the file that a split begins with."""
    return extent(file, split.region)[0]


def extent(file: pq.ParquetFile, region: Region) -> tuple[int, int]:
    """The first row of a region, and the one behind its last."""
    match region:
        case Rows(first, count):
            return first, first + count
        case RowGroups(first, last):
            sizes = [file.metadata.row_group(group).num_rows for group in range(last + 1)]
            return sum(sizes[:first]), sum(sizes)
        case _:
            return 0, file.metadata.num_rows


def _groups(file: pq.ParquetFile, region: Region) -> tuple[list[int], int]:
    """The row groups that a region is in, and how many rows of them are before it."""
    begin, end = extent(file, region)
    groups: list[int] = []
    skip = at = 0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if at < end and at + rows > begin:
            if not groups:
                skip = begin - at
            groups.append(group)
        at += rows
    return groups, skip


def texts_of(column: pa.Array) -> tuple[list[str | None], dict[int, RowError]]:
    """A text column as Python strings.

    Returns:
        One entry per row, None for null and for what is not UTF-8; why, by row, for the latter.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return column.to_pylist(), {}
    except UnicodeDecodeError:
        pass
    texts: list[str | None] = []
    failures = {}
    for row, raw in enumerate(column.cast(_binary(column.type)).to_pylist()):
        try:
            texts.append(None if raw is None else raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            texts.append(None)
            failures[row] = RowError(f"the text is not UTF-8: {error}", code="not_utf8")
    return texts, failures


def _binary(kind: Any) -> pa.DataType:
    return pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()
