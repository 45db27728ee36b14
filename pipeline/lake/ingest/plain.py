"""Plain text as rows: each line one, in a column ``text``."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipeline.lake.ingest.lines import Lines, what_is_wrong
from pipeline.lake.ingest.reading import PIECE_BYTES, BadLine, Piece, Place

SCHEMA = pa.schema([("text", pa.string())])


class TextRows:
    """A file of plain text.

    Args:
        lines: Of the file, from where to read.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.consumed, self.close = lines.consumed, lines.close

    @property
    def place(self) -> Place:
        """Where it stands."""
        return self._lines.place

    def learn(self, _known: pa.Schema) -> Iterator[pa.Schema]:
        """There is but one column; the file is read all the same, as it may be broken."""
        while self.read(SCHEMA, 2**62) is not None:
            yield SCHEMA

    def read(self, schema: pa.Schema, most: int) -> Piece | None:
        """The next rows; None at the end."""
        texts: list[str] = []
        bad: list[BadLine] = []
        weight = 0
        while weight < PIECE_BYTES and len(texts) < most:
            at = self._lines.at
            line = self._lines.next()
            if line is None:
                break
            weight += line[1]
            if wrong := what_is_wrong(line):
                bad.append(BadLine(self._lines.number, at, line[1], wrong, line[0]))
            else:
                texts.append(line[0].decode().removesuffix("\n").removesuffix("\r"))
        if not weight:
            return None
        return Piece(pa.table([pa.array(texts, pa.string())], schema=schema), weight, bad)
