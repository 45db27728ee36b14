"""Parquet files of a store, as they are: the first kind of sink."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.errors import JobError, RunError
from pipeline.lake.delta import is_table
from pipeline.lake.sink.base import CommittedFile, Footer, Sink
from pipeline.lake.sink.committed import CommittedParquet
from pipeline.lake.sink.footers import look_all, read_footer
from pipeline.lake.sink.ledger import holds_table
from pipeline.lake.source.base import Source
from pipeline.lake.split import SUFFIXES, Split
from pipeline.lake.store.base import Entry, Store
from pipeline.lake.store.local import LocalStore


@dataclass(frozen=True)
class FileSink:
    """One Parquet file per split, beside each other; a finished file appears under its name.

    Attributes:
        store: Where the files go.
    """

    store: Store

    @property
    def address(self) -> str:
        """The directory or prefix."""
        return self.store.root

    @property
    def own(self) -> Store:
        """Beside it, where there is such a place."""
        return self.store.own

    @property
    def scratch(self) -> Path:
        """From where the store can publish."""
        return self.store.scratch()

    def where(self, path: str) -> str:
        """The full address of a file, for messages."""
        return self.store.address(path)

    def check(self, source: Source) -> None:
        """Refuses what is inside the input or around it, and what is no directory to write to."""
        if source.overlaps(self.store):
            raise JobError(
                f"output.path {self.address} and input.path {source.address} are inside each other",
                hint="Annotated files would be read as input: choose a directory beside the input",
            )
        if not isinstance(self.store, LocalStore):
            return
        directory = self.store.base
        if directory.is_file():
            raise JobError(
                f"output.path {self.address} is a file", hint="Name a directory, existing or not"
            )
        file = next((above for above in directory.parents if above.is_file()), None)
        if file:
            raise JobError(
                f"output.path {self.address} is below {file}, which is a file",
                hint="Name a directory, existing or not",
            )
        if not self.store.is_writable():
            raise JobError(
                f"output.path {self.address} can't be written: no permission",
                hint="Check its permissions, or choose another directory",
            )

    def present(self) -> list[Entry]:
        """Every Parquet file there."""
        return [entry for entry in self.store.entries() if entry.path.endswith(SUFFIXES)]

    def entry(self, path: str) -> Entry | None:
        """A file as it is now."""
        return self.store.entry(path)

    def look(self, entries: Sequence[Entry]) -> Iterator[Footer]:
        """Reads the ends of files, many at once."""
        return look_all(self.store, entries)

    def open(self, path: str) -> CommittedFile:
        """Opens a file, on this machine and with its seal unbroken."""
        return CommittedParquet(self.store, path)

    def commit(self, split: Split, file: Path, *, guard: Callable[[], None]) -> bool:
        """Puts the file create-only; if the name is taken, the footer that is there tells whose."""
        path = split.output_path
        guard()
        if split.replace:
            self.store.replace(path, file)
            return True
        if self.store.put_new(path, file):
            return True
        there = read_footer(self.store, path).get("split")
        if there != split.id:
            raise RunError(
                f"{self.where(path)} exists and is of split {there}, not {split.id}",
                hint="Something else writes to this output: choose another directory",
            )
        return False

    def delete(self, path: str) -> None:
        """Removes a file."""
        self.store.delete(path)

    def declared(self, schema: pa.Schema) -> Sink:
        """Each file has its own columns; but a table there is no place for files."""
        if is_table(self.store):
            raise JobError(
                f"output.path {self.address} is a Delta table",
                hint="Set output.format: delta, or choose another directory",
            )
        if holds_table(self.own):
            raise JobError(
                f"output.path {self.address} holds the files of a table",
                hint="Set output.format as it was, or choose another directory",
            )
        return self

    def takes(self, schema: pa.Schema, *, where: str) -> None:
        """Each file has its own columns."""

    def refuse(self, paths: Sequence[str], *, rewrite: str = "") -> None:
        """Any file can be removed, and written again."""

    def finish(self, run: str, *, wanted: Container[str], guard: Callable[[], None]) -> None:
        """Files are all there is."""
