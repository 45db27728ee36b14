"""Rows of other formats -> Parquet shards, whatever kills it: the same shards, each row once.

A shard's footer says where the next one begins. So one listing of the directory tells what is done,
and a run that goes on there cuts what an undisturbed one would have cut, byte for byte.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import JobError, OutputBusy, one_line
from pipeline.lake.ingest.origin import Origin, all_parts, check_parquet
from pipeline.lake.ingest.reading import Place
from pipeline.lake.ingest.shards import Next, ShardWriter
from pipeline.lake.ingest.standing import Standing
from pipeline.lake.ingest.types import settled
from pipeline.lake.sink.files import FileSink
from pipeline.lake.sink.footers import look
from pipeline.lake.sink.scratch import clean_up
from pipeline.lake.split import SUFFIXES
from pipeline.lake.store.base import Entry, Store
from pipeline.lake.store.local import LocalStore
from pipeline.lake.store.probe import check_create_only

# What decides how a shard looks; raised when that changes.
VERSION = 1
CLAIM = "import.json"
SHARD = re.compile(r"^(?:.*/)?part-(\d{5,})-([0-9a-f]{12})\.parquet$")


@dataclass(slots=True)
class Imported:
    """How far an import is.

    Attributes:
        phase: What it does.
        read: Bytes of the files that were read in this phase.
        size: Bytes of all files.
        rows: In shards.
        bad: Lines that are no rows.
        shards: Committed.
        first_bad: Where the first bad line is, and why it is one.
        bad_in: Where bad lines are kept.
    """

    phase: str = "looking at types"
    read: int = 0
    size: int = 0
    rows: int = 0
    bad: int = 0
    shards: int = 0
    first_bad: str = ""
    bad_in: str = ""


def check_place(store: Store) -> None:
    """Refuses a place where no shards can be.

    Raises:
        JobError: It is a file or below one, can't be written, or keeps no two imports apart.
    """
    if isinstance(store, LocalStore):
        above = next(path for path in (store.base, *store.base.parents) if path.exists())
        if not above.is_dir():
            raise JobError(
                f"{store.root} can't hold shards: {above} is a file",
                hint="Name a directory, existing or not",
            )
    try:
        check_create_only(store.own)
    except OSError as error:
        raise JobError(
            f"{store.root} can't be written: {error.strerror or error}",
            hint="Check its permissions, or choose another directory",
        ) from error


@dataclass
class Importer:
    """An import: from where, into where, and how shards are cut.

    Attributes:
        origin: What is read.
        store: Where the shards go.
        size: Bytes of a shard.
        rows: Rows of a shard at most.
        told: Called with how far it is, often.
    """

    origin: Origin
    store: Store
    size: int
    rows: int | None = None
    told: Callable[[Imported], None] = lambda _: None
    state: Imported = field(default_factory=Imported)

    def run(self) -> Imported:
        """Imports all that is not imported yet.

        Raises:
            JobError: The files or the directory can't be what they should be.
            RunError: A file changes or breaks while it is read.
        """
        check_place(self.store)
        sink = FileSink(self.store)
        clean_up(sink)
        there = self._present()
        self._claim()
        self.state.size = sum(part.size for part in all_parts(self.origin))
        schema = self._schema_of(there) or self._learn()
        self.state.phase, self.state.read = "importing", 0
        self.state.bad_in = self.store.own.address(f"bad-lines/{self.id}")
        standing = Standing(self.origin)
        with closing(standing):
            for directory in self.origin.parts:
                self._directory(directory, schema, sink, standing, there)
        return self.state

    @property
    def id(self) -> str:
        """Of all that decides what the shards hold."""
        reading = getattr(self.origin, "reading", None)
        parts = [(part.path, part.size, part.version) for part in all_parts(self.origin)]
        said = repr((VERSION, pa.__version__, parts, reading, self.size, self.rows))
        return hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()[:12]

    def _present(self) -> dict[str, Entry]:
        """Shards that are there already."""
        found = {}
        for entry in self.store.entries():
            if not entry.path.lower().endswith(SUFFIXES):
                continue
            shard = SHARD.match(entry.path)
            if shard is None or shard[2] != self.id:
                why = "are of another import" if shard else "no import has written"
                raise JobError(
                    f"{self.store.root} holds files that {why}, such as {entry.path}",
                    hint="Name an empty directory; files that have changed since, or other "
                    "options, make another import",
                )
            found[entry.path] = entry
        return found

    @property
    def _mine(self) -> bytes:
        return json.dumps({"import": self.id, "source": self.origin.address}).encode()

    def _claim(self) -> None:
        """Of several imports that are started at once, the last one gets the directory."""
        own = self.store.own
        if own.create(CLAIM, self._mine):
            return
        theirs = own.read(CLAIM) or b""
        if theirs != self._mine and not own.swap(CLAIM, theirs, self._mine):
            self._guard()

    def _guard(self) -> None:
        """Refuses to commit to a directory that another import has taken."""
        if self.store.own.read(CLAIM) != self._mine:
            raise OutputBusy(
                f"another import into {self.store.root} is under way",
                hint="Let it end, or name another directory",
            )

    def _schema_of(self, there: dict[str, Entry]) -> pa.Schema | None:
        for path in sorted(there):
            if not look(self.store, there[path]).damage:
                # As it was when it was written; what is read of Parquet has names of its own.
                kept = pq.read_metadata(self.store.open(path)).metadata[b"ARROW:schema"]
                return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(kept)))
        return None

    def _learn(self) -> pa.Schema:
        """Reads everything once, for the types of all columns."""
        schema = pa.schema([])
        done = 0
        for part in all_parts(self.origin):
            rows = None
            try:
                rows = self.origin.open(part, Place())
                for found in rows.learn(schema):
                    schema = found
                    self.state.read = done + rows.consumed()
                    self.told(self.state)
            except (OSError, EOFError, ValueError) as error:
                raise JobError(
                    f"{self.origin.where(part)} can't be read: {one_line(error)}",
                    hint="Mend the file, or move it elsewhere",
                ) from error
            finally:
                if rows is not None:
                    rows.close()
            done += part.size
        if not schema.names:
            raise JobError(
                f"{self.origin.address} holds no row that can be read",
                hint="Check its first lines, and name its --format or its --encoding",
            )
        schema = settled(schema)
        check_parquet(schema, self.origin.address)
        return schema

    def _directory(
        self,
        directory: str,
        schema: pa.Schema,
        sink: FileSink,
        standing: Standing,
        there: dict[str, Entry],
    ) -> None:
        parts = self.origin.parts[directory]
        prefix = f"{directory}/" if directory else ""
        at = Next()
        for number in range(10**9):
            if at.file >= len(parts) and number:
                return
            name = f"{prefix}part-{number:05d}-{self.id}.parquet"
            if name in there:
                at = self._adopt(name, there[name])
                self.state.read = self._before(directory, parts[: at.file])
            else:
                writer = ShardWriter(
                    standing, sink, schema, id=self.id, told=self._tell, guard=self._guard
                )
                base = self._before(directory, ())
                at = writer.write(name, parts, at, size=self.size, rows=self.rows, base=base)
                self._count(writer.rows, writer.bad, writer.first_bad, committed=writer.committed)
                if not writer.committed:
                    return

    def _before(self, directory: str, parts: Sequence[Entry]) -> int:
        """Bytes of files before a directory's, and of some of its own."""
        found = [*parts]
        for other, entries in self.origin.parts.items():
            if other == directory:
                break
            found += entries
        return sum(part.size for part in found)

    def _tell(self, read: int) -> None:
        self.state.read = read
        self.told(self.state)

    def _adopt(self, name: str, entry: Entry) -> Next:
        """A shard that is there: where the next one begins."""
        footer = look(self.store, entry)
        said = footer.said
        if footer.damage or footer.unread or said.get("import") != self.id:
            raise JobError(
                f"{self.store.address(name)} is not what was imported: "
                f"{footer.damage or footer.unread or 'it is of something else'}",
                hint="Remove it, and run the same command again",
            )
        self._count(said["rows"], said["bad"], said["first_bad"], committed=True)
        return Next(**said["next"])

    def _count(self, rows: int, bad: int, first_bad: str, *, committed: bool) -> None:
        self.state.rows += rows
        self.state.bad += bad
        self.state.shards += committed
        self.state.first_bad = self.state.first_bad or first_bad
        self.told(self.state)
