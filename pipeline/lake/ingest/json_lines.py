"""JSON lines as rows: an object on each line, in the columns that all lines together have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.json as pj

from pipeline.errors import JobError, one_line
from pipeline.lake.ingest.lines import Lines, what_is_wrong
from pipeline.lake.ingest.reading import PIECE_BYTES, BadLine, Piece, Place, conform
from pipeline.lake.ingest.types import as_text, first, has_floats, widened

BLANK = b" \t\r\n"
# More levels of brackets than any data has; libraries call themselves for each.
DEEPEST = 60
STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')
# Integers that a float may not hold.
LARGE = re.compile(rb"[:\[,]\s*-?\d{16,}\s*[,\]}]")


class _Row(NamedTuple):
    line: int
    at: int
    size: int
    raw: bytes


class JsonRows:
    """A file of JSON lines.

    Args:
        lines: Of the file, from where to read.
        path: Of the file, for messages.
    """

    def __init__(self, lines: Lines, path: str) -> None:
        self._lines = lines
        self._path = path
        self.consumed, self.close = lines.consumed, lines.close

    @property
    def place(self) -> Place:
        """Where it stands."""
        return self._lines.place

    def learn(self, known: pa.Schema) -> Iterator[pa.Schema]:
        """Reads on to the end; gives what the columns must be as far as it has read.

        Raises:
            JobError: The file is one array.
        """
        rows = self._take(2**62)
        if rows and rows[0].line == 1 and rows[0].raw.lstrip(BLANK).startswith(b"["):
            raise JobError(
                f"{self._path} is a JSON array and no JSON lines",
                hint="Add --format datasets, or write a line for each row: jq -c '.[]'",
            )
        while rows is not None:
            known = _learnt(self._good(rows, []), known)
            yield known
            rows = self._take(2**62)

    def read(self, schema: pa.Schema, most: int) -> Piece | None:
        """The next rows; None at the end."""
        rows = self._take(most)
        if rows is None:
            return None
        bad: list[BadLine] = []
        tables = list(_parsed(self._good(rows, bad), schema, bad))
        empty = schema.empty_table()
        weight = sum(row.size for row in rows)
        bad.sort(key=lambda line: line.line)
        return Piece(pa.concat_tables([empty, *tables]), weight, bad)

    def _take(self, most: int) -> list[_Row] | None:
        rows: list[_Row] = []
        weight = 0
        while weight < PIECE_BYTES and len(rows) < most:
            at = self._lines.at
            line = self._lines.next()
            if line is None:
                return rows or None
            raw, size = line
            weight += size
            rows.append(_Row(self._lines.number, at, size, raw))
        return rows

    def _good(self, rows: Sequence[_Row], bad: list[BadLine]) -> list[_Row]:
        """Those that may be objects; blank lines are none, and not bad."""
        whole = what_is_wrong((b"".join(row.raw for row in rows), 0)) == ""
        good = []
        for row in rows:
            text = row.raw.strip(BLANK)
            wrong = "" if whole else what_is_wrong((row.raw, row.size))
            # Of what begins and ends so, no two lines can be read as one.
            if not wrong and text and not (text[:1] == b"{" and text[-1:] == b"}"):
                wrong = "it is no JSON object"
            if not wrong and text.count(b"{") + text.count(b"[") > DEEPEST and _depth(text):
                wrong = f"it is nested deeper than {DEEPEST} levels"
            if wrong:
                bad.append(BadLine(row.line, row.at, row.size, wrong, row.raw))
            elif text:
                good.append(row)
        return good


def _depth(text: bytes) -> bool:
    depth = 0
    for bracket in re.finditer(rb"[\[\]{}]", STRINGS.sub(b"", text)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > DEEPEST:
            return True
    return False


def _learnt(rows: Sequence[_Row], known: pa.Schema) -> pa.Schema:
    """Types widened by rows; by those that can be read, if some can't."""
    if not rows:
        return known
    try:
        return widened(known, as_text(_parse(rows, None).schema), first)
    except pa.ArrowInvalid:
        for some in _apart(rows):
            known = _learnt(some, known)
        return known


def _parsed(rows: Sequence[_Row], schema: pa.Schema, bad: list[BadLine]) -> Iterator[pa.Table]:
    """Takes apart what can't be read until the bad lines stand alone."""
    if not rows:
        return
    try:
        found = _parse(rows, schema)
    except pa.ArrowInvalid as error:
        for some in _apart(rows):
            yield from _parsed(some, schema, bad)
        if len(rows) == 1:
            why = one_line(error).removeprefix("JSON parse error: ").removesuffix(" in row 0")
            bad.append(BadLine(rows[0].line, rows[0].at, rows[0].size, _plain(why), rows[0].raw))
    else:
        yield conform(found, schema)


def _apart(rows: Sequence[_Row]) -> list[Sequence[_Row]]:
    """Some rows in fewer: what is no JSON alone; or else, by halves. One row is none."""
    if len(rows) == 1:
        return []
    parts: list[Sequence[_Row]] = []
    begin = 0
    for at, row in enumerate(rows):
        if not _is_json(row.raw):
            parts += [rows[begin:at], rows[at : at + 1]]
            begin = at + 1
    half = (begin + len(rows)) // 2 if not parts else len(rows)
    return [*parts, rows[begin:half], rows[half:]]


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def _plain(why: str) -> str:
    """What Arrow says, where its own words mean little to others."""
    return "it has a key that no line before had" if why == "unexpected field" else why


def _parse(rows: Sequence[_Row], schema: pa.Schema | None) -> pa.Table:
    content = b"\n".join(row.raw.strip(BLANK) for row in rows)
    if schema is not None and any(map(has_floats, schema.types)):
        for row in rows if LARGE.search(content) else ():
            _refuse_rounding(row.raw, schema)
    table = pj.read_json(
        pa.BufferReader(content),
        read_options=pj.ReadOptions(use_threads=False, block_size=len(content) + 1),
        parse_options=pj.ParseOptions(
            explicit_schema=schema,
            unexpected_field_behavior="infer" if schema is None else "error",
        ),
    )
    if table.num_rows != len(rows):
        raise pa.ArrowInvalid(f"it holds {table.num_rows} objects")
    return table


def _refuse_rounding(raw: bytes, schema: pa.Schema) -> None:
    """A float column takes integers, but none that it would change."""
    if not LARGE.search(raw):
        return
    try:
        _walk(json.loads(raw), pa.struct(list(schema)))
    except (ValueError, RecursionError) as error:
        raise pa.ArrowInvalid(str(error)) from error


def _walk(value: Any, kind: pa.DataType) -> None:
    if isinstance(value, dict) and pa.types.is_struct(kind):
        for name, inner in value.items():
            if (at := kind.get_field_index(name)) >= 0:
                _walk(inner, kind.field(at).type)
    elif isinstance(value, list) and pa.types.is_list(kind):
        for inner in value:
            _walk(inner, kind.value_type)
    elif type(value) is int and pa.types.is_floating(kind) and int(float(value)) != value:
        raise ValueError(f"a column of floats would change the integer {value}")
