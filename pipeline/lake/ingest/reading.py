"""What a reader of rows from other formats gives: pieces, and the lines that are no rows."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

# What is parsed at once. Where a piece ends depends on where it begins and on the file alone, so
# that a run that was killed cuts the same shards.
PIECE_BYTES = 1 << 20
PIECE_ROWS = 1024
# Of a bad line that is kept aside; the rest is found by its place in the file.
KEPT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a file the next row begins.

    Attributes:
        at: Bytes of the file's text, after decompression; batches or rows, where there is none.
        line: Lines before it; or rows of the batch before it.
    """

    at: int = 0
    line: int = 0


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no row.

    Attributes:
        line: Its number in the file, from 1.
        at: Where it begins, in bytes of the text after decompression.
        size: Bytes.
        reason: What is wrong with it.
        raw: The line, or its beginning.
    """

    line: int
    at: int
    size: int
    reason: str
    raw: bytes

    def told(self, path: str) -> bytes:
        """As a line of JSON for the file where bad lines are kept."""
        kept = base64.b64encode(self.raw[:KEPT_BYTES]).decode()
        said = {"file": path, "line": self.line, "offset": self.at, "bytes": self.size}
        return json.dumps({**said, "reason": self.reason, "raw": kept}).encode() + b"\n"


@dataclass(slots=True)
class Piece:
    """Some rows of a file.

    Attributes:
        table: The rows, in the schema that was asked for.
        weight: Bytes that they had there.
        bad: Lines among them that are no rows.
    """

    table: pa.Table
    weight: int
    bad: list[BadLine] = field(default_factory=list)


class RowReader(Protocol):
    """An open file of another format, as rows."""

    @property
    def place(self) -> Place:
        """Where it stands."""

    def learn(self, known: pa.Schema) -> Iterator[pa.Schema]:
        """Reads on to the end; gives what the columns must be as far as it has read.

        Args:
            known: Of the files before.

        Raises:
            JobError: Columns that can't be.
        """

    def read(self, schema: pa.Schema, most: int) -> Piece | None:
        """The next rows; None at the end.

        Args:
            schema: Of all files.
            most: How many rows at most.
        """

    def consumed(self) -> int:
        """How many bytes of the file have been read, as they are stored."""

    def close(self) -> None:
        """Lets go of the file."""


def conform(table: Any, schema: pa.Schema) -> pa.Table:
    """A table with a schema's columns, of its types; what it does not have is null."""
    columns = [
        table[name].cast(kind) if name in table.column_names else pa.nulls(table.num_rows, kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.table(columns, schema=schema)
