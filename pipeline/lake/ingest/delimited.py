"""CSV as rows: fields in quotes may hold delimiters, quotes and line ends; a row has all fields.

Where a quote is the mistake it costs one line: what it has swallowed is read anew.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import JobError
from pipeline.escape import visible
from pipeline.lake.ingest.lines import LONGEST, Line, Lines, what_is_wrong
from pipeline.lake.ingest.reading import PIECE_BYTES, BadLine, Piece, Place
from pipeline.lake.ingest.types import widened

DELIMITERS = ",;\t|"
# What can be told from the number that it becomes: no zeros before it, no more digits than it has.
INTEGER = r"^(0|-?[1-9]\d{0,17})$"
FLOAT = r"^-?(0|[1-9]\d{0,14})(\.\d+)?([eE][+-]?\d{1,2})?$"
BOOLEAN = r"^(true|false|True|False|TRUE|FALSE)$"
KINDS = ((INTEGER, pa.int64()), (FLOAT, pa.float64()), (BOOLEAN, pa.bool_()))


class CsvRows:
    """A CSV file, the first record of which names the columns.

    Args:
        lines: Of the file, from its beginning.
        path: Of the file, for messages.
        delimiter: Between fields; by default the one that divides the first record most.

    Raises:
        JobError: The columns can't be told.
    """

    def __init__(self, lines: Lines, path: str, delimiter: str | None) -> None:
        csv.field_size_limit(LONGEST)
        self._lines = lines
        self._path = path
        self._delimiter = delimiter or ","
        self.columns = self._header(delimiter)

    def go_on(self, lines: Lines) -> None:
        """Goes on at other lines of the same file."""
        self._lines.close()
        self._lines = lines

    def consumed(self) -> int:
        """How many bytes of the file have been read, as they are stored."""
        return self._lines.consumed()

    def close(self) -> None:
        """Lets go of the file."""
        self._lines.close()

    @property
    def place(self) -> Place:
        """Where it stands."""
        return self._lines.place

    def learn(self, known: pa.Schema) -> Iterator[pa.Schema]:
        """Reads on to the end; gives what the columns must be as far as it has read."""
        yield widened(known, pa.schema([(name, pa.null()) for name in self.columns]), _text)
        while (found := self._take(2**62)) is not None:
            arrays = self._arrays(found[0])
            fields = []
            for name, texts in zip(self.columns, arrays, strict=True):
                at = known.get_field_index(name)
                is_text = at >= 0 and known.field(at).type == pa.string()
                fields.append((name, pa.string() if is_text else _kind(texts)))
            known = widened(known, pa.schema(fields), _text)
            yield known

    def read(self, schema: pa.Schema, most: int) -> Piece | None:
        """The next rows; None at the end."""
        found = self._take(most)
        if found is None:
            return None
        records, weight, bad = found
        by_name = dict(zip(self.columns, self._arrays(records), strict=True))
        arrays = [
            _typed(by_name[field.name], field.type)
            if field.name in by_name
            else pa.nulls(len(records), field.type)
            for field in schema
        ]
        return Piece(pa.table(arrays, schema=schema), weight, bad)

    def _header(self, delimiter: str | None) -> list[str]:
        first = self._lines.next()
        while first is not None and not first[0].strip():
            first = self._lines.next()
        if first is None:
            return []
        self._lines.give_back([first])
        if delimiter is None:
            text = first[0].decode("utf-8", "surrogateescape")
            self._delimiter = max(DELIMITERS, key=lambda one: len(_fields_of(text, one)))
        bad: list[BadLine] = []
        names = next(self._records(bad), [])
        if bad or not names:
            wrong = bad[0].reason if bad else "it is empty"
            raise JobError(
                f"{self._path} has no line that names its columns: {wrong}",
                hint="Mend its first line, or name its --encoding",
            )
        # Spreadsheets and pandas leave the name of an index empty.
        names = [name or f"column_{at}" for at, name in enumerate(names, 1)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise JobError(
                f"{self._path} has the column {visible(twice[0], most=80)!r} {len(twice)} times",
                hint="Give each column of its first line a name of its own",
            )
        return names

    def _take(self, most: int) -> tuple[list[list[str]], int, list[BadLine]] | None:
        """Records up to a piece, with what they weigh; None at the end."""
        begin = self._lines.at
        bad: list[BadLine] = []
        records: list[list[str]] = []
        if self.columns:
            for record in self._records(bad, len(self.columns)):
                records.append(record)
                if len(records) == most:
                    break
        weight = self._lines.at - begin
        return (records, weight, bad) if weight else None

    def _records(self, bad: list[BadLine], fields: int | None = None) -> Iterator[list[str]]:
        """Records up to a piece; of a broken one, the first line is bad and the rest read anew."""
        begin = self._lines.at
        taken: list[Line] = []
        dirty: list[str] = []
        reader = self._reader(taken, dirty)
        while self._lines.at - begin < PIECE_BYTES:
            taken.clear()
            dirty.clear()
            record: list[str] = []
            wrong = ""
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                wrong = str(error)
                self._lines.give_back(taken[1:])
                del taken[1:]
                reader = self._reader(taken, dirty)
            if not wrong and dirty:
                wrong = dirty[0]
            if not wrong and record and fields is not None and len(record) != fields:
                wrong = f"it has {len(record)} fields, not {fields}"
            if wrong:
                bad.append(self._bad(taken, wrong))
            elif record:
                yield record

    def _bad(self, taken: Sequence[Line], wrong: str) -> BadLine:
        size = sum(size for _, size in taken)
        number, at = self._lines.number - len(taken) + 1, self._lines.at - size
        return BadLine(number, at, size, wrong, b"".join(raw for raw, _ in taken))

    def _reader(self, taken: list[Line], dirty: list[str]) -> Iterator[list[str]]:
        """Parses records; what lines a record took, and what is wrong with them, it leaves."""

        def texts() -> Iterator[str]:
            weight = 0
            while (line := self._lines.next()) is not None:
                weight = weight + len(line[0]) if taken else len(line[0])
                taken.append(line)
                if weight > LONGEST:
                    raise csv.Error(f"a record of more than {LONGEST:,} bytes")
                if wrong := what_is_wrong(line):
                    dirty.append(wrong)
                yield line[0].decode("utf-8", "surrogateescape")

        return csv.reader(texts(), delimiter=self._delimiter, strict=True)

    def _arrays(self, records: Sequence[Sequence[str]]) -> list[pa.Array]:
        if not records:
            return [pa.array([], pa.string()) for _ in self.columns]
        return [pa.array(column, pa.string()) for column in zip(*records, strict=True)]


def _fields_of(text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=delimiter), [])
    except csv.Error:
        return []


def _text(_: pa.DataType, __: pa.DataType) -> pa.DataType:
    """Whatever can't be one type is text, as it was."""
    return pa.string()


def _kind(texts: pa.Array) -> pa.DataType:
    """What all texts of a column can be; null if all are empty."""
    values = texts.filter(pc.not_equal(texts, ""))
    if not len(values):
        return pa.null()
    for pattern, kind in KINDS:
        if pc.all(pc.match_substring_regex(values, pattern)).as_py():
            return kind
    return pa.string()


def _typed(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    if kind == pa.string():
        return texts
    return pc.if_else(pc.equal(texts, ""), None, texts).cast(kind)
