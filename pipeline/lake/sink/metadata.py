"""What an input file says of its columns, made to tell of the output's columns too.

pandas, `datasets` and others keep types that Arrow has no name for in a file's metadata, and
believe it: what is carried over has to know the new columns, or is better left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.lake.sink.footers import FOOTER_KEY
from pipeline.lake.sink.seal import SEAL_KEY

HUGGINGFACE, PANDAS = b"huggingface", b"pandas"
# They describe all columns of the input, or the input file itself, in ways that readers believe.
LEFT_OUT = (
    FOOTER_KEY,
    SEAL_KEY,
    b"ARROW:schema",
    b"org.apache.spark.sql.parquet.row.metadata",
    b"parquet.avro.schema",
    b"avro.schema",
    b"iceberg.schema",
    b"writer.model.name",
    b"parquet.proto.class",
    b"parquet.proto.descriptor",
    b"thrift.class",
    b"thrift.descriptor",
)
STRING_NAMES = {
    "name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object",
    "metadata": {"encoding": "UTF-8"},
}  # fmt: skip


def output_metadata(
    given: Mapping[bytes, bytes] | None,
    carried: Sequence[str],
    added: Sequence[pa.Field],
    *,
    rows: tuple[int, int] | None = None,
) -> dict[bytes, bytes]:
    """The metadata of an output file's schema.

    Args:
        given: The input file's.
        carried: Columns of the input that the output has.
        added: Columns after those.
        rows: First row and number of rows of the input that it is of; None if they are not known
            to follow each other.
    """
    found = {key: value for key, value in (given or {}).items() if key not in LEFT_OUT}
    for key, describe in ((HUGGINGFACE, _huggingface), (PANDAS, _pandas)):
        if key in found:
            try:
                said = json.loads(found[key])
                found[key] = json.dumps(describe(said, carried, added, rows)).encode()
            except (ValueError, TypeError, KeyError, AttributeError):
                # Not what it should be, or of no use here: readers infer without it.
                del found[key]
    return found


def _huggingface(
    said: dict[str, Any], carried: Sequence[str], added: Sequence[pa.Field], rows: object
) -> dict[str, Any]:
    from datasets import Features

    features = said["info"]["features"]
    ours = Features.from_arrow_schema(pa.schema(list(added))).to_dict()
    # In the order of the columns, and without those that are not carried.
    said["info"]["features"] = {name: features[name] for name in carried} | ours
    return said


def _pandas(
    said: dict[str, Any],
    carried: Sequence[str],
    added: Sequence[pa.Field],
    rows: tuple[int, int] | None,
) -> dict[str, Any]:
    levels = said["column_indexes"]
    if len(levels) > 1:
        raise ValueError("names of several levels, of which the new columns have but one")
    if levels and levels[0].get("pandas_type") not in ("unicode", "string", "empty"):
        said["column_indexes"] = [STRING_NAMES]
    columns = [column for column in said["columns"] if column["field_name"] in carried]
    said["columns"] = columns + [
        {
            "name": field.name,
            "field_name": field.name,
            "pandas_type": "object",
            "numpy_type": "object",
            "metadata": None,
        }
        for field in added
    ]
    # An index that is counted and not written down is one of rows that follow each other.
    index = [i for i in said["index_columns"] if (rows and isinstance(i, dict)) or i in carried]
    said["index_columns"] = [_part(i, *rows) if rows and isinstance(i, dict) else i for i in index]
    return said


def _part(index: dict[str, Any], first: int, rows: int) -> dict[str, Any]:
    """A range index of some of its rows."""
    start = index["start"] + first * index["step"]
    return {**index, "start": start, "stop": start + rows * index["step"]}
