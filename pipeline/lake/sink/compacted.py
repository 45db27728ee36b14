"""Parquet files of a store, of which some were merged: what is done is known all the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RunError, SplitError
from pipeline.lake.at_once import each
from pipeline.lake.sink.base import CommittedFile, Damaged, Footer
from pipeline.lake.sink.committed import CommittedParquet
from pipeline.lake.sink.files import FileSink
from pipeline.lake.sink.merged import Holdings, MergedFile, MergedPart
from pipeline.lake.sink.merging import MergeOrigin, merge
from pipeline.lake.sink.metadata import output_metadata
from pipeline.lake.sink.seal import SEAL_KEY
from pipeline.lake.store.base import Entry, Store


class KnownFiles:
    """What this process knows of an output. Pickled, it is nothing.

    Attributes:
        holdings: As it was when it was last looked at.
        read: Merged files that were read.
        doomed: Splits' files that are to leave the merged files that they are in.
    """

    def __init__(self) -> None:
        self.holdings: Holdings | None = None
        self.read: dict[Entry, MergedFile] = {}
        self.doomed: set[str] = set()
        self._open: tuple[str, CommittedParquet] | None = None

    def open(self, store: Store, path: str) -> CommittedParquet:
        """A merged file, kept open, as its parts are read one after the other."""
        if self._open is None or self._open[0] != path:
            if self._open is not None:
                self._open[1].close()
                self._open = None
            file = CommittedParquet(store, path)
            weakref.finalize(self, file.close)
            self._open = (path, file)
        return self._open[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return KnownFiles, ()


class CommittedPart:
    """What a merged file has of a split, as the split's own file had it.

    Args:
        file: The merged file.
        part: Of the split.
    """

    def __init__(self, file: CommittedParquet, part: MergedPart) -> None:
        self._file, self._part = file, part
        self.said = part.said
        self.names = file.names
        self.rows = part.region.count

    def batches(self) -> Iterator[pa.Table]:
        """Its rows in order."""
        yield from self._file.batches(self._part.region)

    def close(self) -> None:
        """The merged file stays open for the next."""


@dataclass(frozen=True)
class CompactedSink(FileSink):
    """One Parquet file per split, or several splits' rows in one, by whatever `compact` merged.

    Attributes:
        known: In this process.
    """

    known: KnownFiles = field(default_factory=KnownFiles, compare=False, repr=False)

    def look_again(self) -> Holdings:
        """What counts now."""
        holdings = Holdings.of(super().present(), self.known.read, self.store)
        self.known.holdings = holdings
        return holdings

    @property
    def _holdings(self) -> Holdings:
        return self.known.holdings or self.look_again()

    def present(self) -> list[Entry]:
        """Every split's file, those included that are in merged files."""
        holdings = self.look_again()
        inside = [_told(*held) for path, held in holdings.parts.items() if holdings.inside(path)]
        found = [*holdings.single.values(), *(one.entry for one in holdings.broken), *inside]
        doomed = self.known.doomed
        return [entry for entry in found if entry.path not in doomed]

    def files(self) -> int:
        """How many files there are, whatever they hold."""
        return len(super().present())

    def entry(self, path: str) -> Entry | None:
        """A file as it is now, or as it was before it was merged."""
        inside = self._holdings.inside(path)
        return super().entry(path) if inside is None else _told(*inside)

    def look(self, entries: Sequence[Entry]) -> Iterator[Footer]:
        """Reads the ends of files; of those that are merged, what their merged file says."""
        found = [self._holdings.inside(entry.path) for entry in entries]
        alone = [e for e, inside in zip(entries, found, strict=True) if inside is None]
        read = super().look(alone)
        for inside in found:
            if inside is None:
                yield next(read)
            else:
                merged, part = inside
                yield Footer(part.said, damage=merged.damage, inside=merged.entry)

    def open(self, path: str) -> CommittedFile:
        """Opens a file, or its rows in a merged one."""
        inside = self._holdings.inside(path)
        if inside is None:
            return super().open(path)
        merged, part = inside
        return CommittedPart(self.known.open(self.store, merged.entry.path), part)

    def delete(self, path: str) -> None:
        """Removes a file; what is in a merged one leaves it when the run is finished."""
        if path in self._holdings.parts:
            self.known.doomed.add(path)
        if self._holdings.inside(path) is None:
            super().delete(path)
            self._holdings.single.pop(path, None)

    def finish(
        self, run: str, *, wanted: Container[str] = (), guard: Callable[[], None] = lambda: None
    ) -> None:
        """Removes from merged files what has left them, and what a killed `compact` left over."""
        holdings = self.known.holdings
        if holdings is None or holdings.merged or holdings.void or self.known.doomed:
            self.settle(guard)

    def settle(self, guard: Callable[[], None]) -> None:
        """Has each split's rows in one file: what else there is of them goes.

        Raises:
            RunError: A merged file can't be written anew without what has left it.
        """
        holdings = self.look_again()
        self.remove(holdings.void, guard)
        spare = [path for path in self._spare(holdings) if path not in self.known.doomed]
        self.remove(spare, guard)
        for path in spare:
            del holdings.single[path]
        for merged in holdings.merged.values():
            kept = [
                part
                for part in merged.parts
                if holdings.counts(merged, part) and part.path not in self.known.doomed
            ]
            if len(kept) < len(merged.parts):
                self._rewrite(merged, kept, guard)
        self.known.doomed.clear()
        self.known.holdings = None

    def _spare(self, holdings: Holdings) -> Iterator[str]:
        """Files that are in a merged one as they are; what was annotated since is another."""
        overlap = [path for path in holdings.parts if path in holdings.single]
        whole: dict[str, bool] = {}
        for path, seal in zip(overlap, each(self._seal, overlap), strict=True):
            merged, part = holdings.parts[path]
            if not part.seal or seal != part.seal:
                continue
            place = merged.entry.path
            # One whose bytes are spoilt had its splits annotated anew, maybe to the same bytes.
            if place not in whole:
                whole[place] = self._is_whole(place)
            if whole[place]:
                yield path

    def _is_whole(self, path: str) -> bool:
        try:
            CommittedParquet(self.store, path).close()
        except (Damaged, OSError, pa.ArrowException):
            return False
        return True

    def remove(self, paths: Sequence[str], guard: Callable[[], None]) -> None:
        """Removes files whose rows are elsewhere."""
        if paths:
            guard()
            for _ in each(self.store.delete, paths):
                pass

    def _seal(self, path: str) -> str:
        try:
            with pq.ParquetFile(self.store.open(path)) as file:
                return seal_of(file.metadata)
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            return ""

    def _rewrite(
        self, merged: MergedFile, kept: Sequence[MergedPart], guard: Callable[[], None]
    ) -> None:
        path = merged.entry.path
        if kept and (merged.damage or not self._is_whole(path)):
            return  # what it still holds has to be annotated anew first
        if kept:
            try:
                with pq.ParquetFile(self.store.open(path)) as file:
                    schema, compression = layout_of(file)
                origin = MergeOrigin(path, kept, merged=True)
                merge(self, self.store, [origin], schema, compression=compression, guard=guard)
            except (Damaged, SplitError, OSError, pa.ArrowException) as error:
                raise RunError(
                    f"{self.where(path)} can't be written anew without what has changed: {error}",
                    hint="If it is damaged, run: shardscribe retry JOB --damaged",
                ) from error
        self.remove([path], guard)


def seal_of(metadata: pq.FileMetaData) -> str:
    """A committed file's seal; empty if it has none."""
    return bytes((metadata.metadata or {}).get(SEAL_KEY, b"")).decode("ascii", "replace")


def layout_of(file: pq.ParquetFile) -> tuple[pa.Schema, str]:
    """The columns that a merged file has of a file, and how it is compressed."""
    schema = file.schema_arrow
    metadata = output_metadata(schema.metadata, schema.names, [])
    some = file.metadata.num_row_groups and file.metadata.num_columns
    codec = file.metadata.row_group(0).column(0).compression.lower() if some else "zstd"
    return schema.with_metadata(metadata), "none" if codec == "uncompressed" else codec


def _told(merged: MergedFile, part: MergedPart) -> Entry:
    """A split's file as it was; of another size where it can't be whole any more."""
    return Entry(part.path, -1, "merged") if merged.damage else part.entry
