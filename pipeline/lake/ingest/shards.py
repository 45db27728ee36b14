"""One shard of an import: rows from a place in the files up to its size, and its bad lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from pipeline.errors import RunError, SplitError
from pipeline.lake.ingest.reading import BadLine, Piece, Place
from pipeline.lake.ingest.standing import Standing
from pipeline.lake.sink.files import FileSink
from pipeline.lake.sink.footers import read_footer
from pipeline.lake.sink.scratch import OutputFile, scratch_file
from pipeline.lake.store.base import Entry

# Bytes of rows, as they came, that make a row group: a shard is larger than asked for by one at
# most. Of a small shard, a part of its size.
GROUP_BYTES = 32 << 20
LEAST_GROUP = 64 << 10
GROUPS_AT_LEAST = 4


@dataclass(frozen=True, slots=True)
class Next:
    """Where a shard begins: a file of a directory, and a place in it."""

    file: int = 0
    at: int = 0
    line: int = 0


class ShardWriter:
    """Writes one shard and commits it.

    Args:
        standing: Opens what is read.
        sink: Where the shard goes.
        schema: Of all shards.
        id: Of the import.
        told: Called with the bytes that were read of all files.
        guard: Called before a commit; raises if the directory is another's.

    Attributes:
        rows: In the shard.
        bad: Lines among them that are no rows.
        first_bad: The first of those, and why it is one.
        committed: Whether there was a shard to commit.
    """

    def __init__(
        self,
        standing: Standing,
        sink: FileSink,
        schema: pa.Schema,
        *,
        id: str,
        told: Callable[[int], None],
        guard: Callable[[], None],
    ) -> None:
        self.standing = standing
        self.origin = standing.origin
        self.sink = sink
        self.schema = schema
        self.id = id
        self.told = told
        self.guard = guard
        self.rows = self.bad = 0
        self.first_bad = ""
        self.committed = False

    def write(
        self,
        name: str,
        parts: Sequence[Entry],
        begin: Next,
        *,
        size: int,
        rows: int | None,
        base: int,
    ) -> Next:
        """Writes a shard, and before it the file of its bad lines.

        Args:
            name: Of the shard.
            parts: Files of its directory.
            begin: Where it begins.
            size: Bytes after which it ends.
            rows: Rows after which it ends.
            base: Bytes of all files before those.

        Returns:
            Where the next one begins.

        Raises:
            RunError: A file is not what it was, or can't be read any more.
            SplitError: The shard can't be written.
        """
        with ExitStack() as stack:
            out = OutputFile(self.sink, name, self.schema, compression="zstd")
            stack.callback(out.discard)
            aside = scratch_file(self.sink.scratch)
            stack.callback(aside.unlink, missing_ok=True)
            with aside.open("wb") as bad:
                end = self._fill(out, bad, parts, begin, size=size, rows=rows, base=base)
            for part in parts[begin.file : end.file + 1]:
                if self.origin.is_changed(part):
                    raise RunError(
                        f"{self.origin.where(part)} has changed while it was read",
                        hint="Import what does not change, into an empty directory",
                    )
            self._commit(out, aside, end, is_first=begin == Next())
        return end

    def _commit(self, out: OutputFile, aside: Path, end: Next, *, is_first: bool) -> None:
        self.guard()
        if self.bad:
            kept = f"bad-lines/{self.id}/{out.path.removesuffix('.parquet')}.jsonl"
            self.sink.own.put_new(kept, aside)
        if not self.rows and not is_first:
            return
        said = {"import": self.id, "rows": self.rows, "bad": self.bad}
        out.close({**said, "first_bad": self.first_bad, "next": asdict(end)}, rows=self.rows)
        if not self.sink.store.put_new(out.path, out.scratch):
            there = read_footer(self.sink.store, out.path)
            if there.get("import") != self.id:
                raise RunError(f"{self.sink.where(out.path)} exists and is of something else")
        self.committed = True

    def _fill(
        self,
        out: OutputFile,
        bad: BinaryIO,
        parts: Sequence[Entry],
        begin: Next,
        *,
        size: int,
        rows: int | None,
        base: int,
    ) -> Next:
        group = max(LEAST_GROUP, min(GROUP_BYTES, size // GROUPS_AT_LEAST))
        held: list[pa.Table] = []
        weight = 0
        place = Place(begin.at, begin.line)
        base += sum(part.size for part in parts[: begin.file])
        for number in range(begin.file, len(parts)):
            with self.standing.open(parts[number], place) as reader:
                while True:
                    most = rows - self.rows if rows is not None else 2**62
                    piece = reader.read(self.schema, most)
                    if piece is None:
                        break
                    self._note(piece, parts[number], bad)
                    held.append(piece.table)
                    weight += piece.weight
                    self.told(base + reader.consumed())
                    full = self.rows == rows
                    if weight >= group or full:
                        out.write(pa.concat_tables(held))
                        held, weight = [], 0
                        if full or out.written >= size:
                            return Next(number, reader.place.at, reader.place.line)
            place = Place()
            base += parts[number].size
        if held:
            out.write(pa.concat_tables(held))
        return Next(len(parts))

    def _note(self, piece: Piece, part: Entry, bad: BinaryIO) -> None:
        self.rows += piece.table.num_rows
        self.bad += len(piece.bad)
        for line in piece.bad:
            self.first_bad = self.first_bad or self._told(line, part)
            try:
                bad.write(line.told(part.path))
            except OSError as error:
                raise SplitError(f"bad lines can't be kept: {error.strerror}") from error

    def _told(self, line: BadLine, part: Entry) -> str:
        return f"{self.origin.where(part)} line {line.line}: {line.reason}"
