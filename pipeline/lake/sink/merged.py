"""Files that hold what several splits' files held, and what of them counts.

A merged file is created under a name that follows from what it holds; only then do the files go
whose rows it has. Killed in between, both are there, and each split still counts once: its own file
comes first, and of merged files one that says it replaces another. No file is ever changed: what
has to leave a merged file leaves by another that replaces it.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import JobError, one_line
from pipeline.lake.at_once import each
from pipeline.lake.sink.footers import is_damage, said
from pipeline.lake.sink.seal import sealed_size
from pipeline.lake.split import MERGED_NAME, Rows, Split
from pipeline.lake.store.base import Entry, Store

PARTS, REPLACES = "merged", "replaces"


@dataclass(frozen=True)
class MergedPart:
    """What a merged file has of a split.

    Attributes:
        path: The split's own output file, there or not.
        seal: Of that file, by which it is known again.
        said: What was said of it when it was committed.
        region: Where its rows are.
    """

    path: str
    seal: str
    said: dict[str, Any]
    region: Rows

    @property
    def entry(self) -> Entry:
        """Its own file, as it was."""
        return Entry(self.path, int(self.seal.split()[0]) if self.seal else 0, "merged")


@dataclass(frozen=True)
class MergedFile:
    """A merged file.

    Attributes:
        entry: The file.
        parts: What it holds, in order.
        replaces: Merged files that count no more where this one is.
        damage: Why it can't be whole.
    """

    entry: Entry
    parts: Sequence[MergedPart] = ()
    replaces: frozenset[str] = frozenset()
    damage: str = ""


def is_merged(path: str) -> bool:
    """Whether a file has the name of a merged one."""
    return MERGED_NAME.match(posixpath.basename(path)) is not None


def merged_path(directory: str, parts: Iterable[MergedPart], replaces: Iterable[str]) -> str:
    """The name of a merged file: by what it holds, and by what it replaces and that replaced."""
    told = [[part.path, part.seal, str(part.said.get("split"))] for part in parts]
    text = json.dumps([told, sorted(replaces)])
    name = f"merged-{hashlib.sha256(text.encode()).hexdigest()[:16]}.parquet"
    return posixpath.join(directory, name)


def merged_footer(parts: Sequence[MergedPart], replaces: Iterable[str]) -> dict[str, Any]:
    """What to say of a merged file; what is so of all its parts is said once."""
    first = parts[0].said
    common = {k: v for k, v in first.items() if all(p.said.get(k, p) == v for p in parts)}
    told = [
        {
            "path": part.path,
            "seal": part.seal,
            "rows_there": [part.region.first, part.region.count],
            "said": {key: value for key, value in part.said.items() if key not in common},
        }
        for part in parts
    ]
    return {**common, PARTS: told, REPLACES: sorted(replaces)}


def read_merged(store: Store, entry: Entry) -> MergedFile:
    """What a merged file holds.

    Raises:
        JobError: It can't be got at now: what is done already can't be told.
    """
    try:
        with closing(pq.ParquetFile(store.open(entry.path))) as file:
            metadata = file.metadata
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if is_damage(error):
            return MergedFile(entry, damage=one_line(error, most=200))
        raise JobError(
            f"{store.address(entry.path)} can't be read, and with it what is annotated already: "
            f"{one_line(error, most=200)}",
            hint="Run the same command again when it can be",
        ) from error
    ours = said(metadata.metadata)
    try:
        told, replaces = ours.pop(PARTS), frozenset(ours.pop(REPLACES))
        parts = [
            MergedPart(one["path"], one["seal"], {**ours, **one["said"]}, Rows(*one["rows_there"]))
            for one in told
        ]
    except (KeyError, TypeError, ValueError):
        return MergedFile(entry, damage="its footer does not say what it holds")
    committed = sealed_size(metadata.metadata)
    damage = ""
    if committed is not None and entry.size != committed:
        damage = f"it has {entry.size:,} bytes, {committed:,} were committed"
    return MergedFile(entry, parts, replaces, damage)


@dataclass
class Holdings:
    """What counts of the files of an output.

    Attributes:
        single: Files that are not merged ones, by path.
        merged: Merged files that count, by path; whole ones first.
        void: Merged files that another one replaces.
        broken: Merged files of which nothing is known.
    """

    single: dict[str, Entry]
    merged: dict[str, MergedFile] = field(default_factory=dict)
    void: list[str] = field(default_factory=list)
    broken: list[MergedFile] = field(default_factory=list)

    @classmethod
    def of(cls, entries: Iterable[Entry], read: dict[Entry, MergedFile], store: Store) -> Holdings:
        """What counts.

        Args:
            entries: All files.
            read: Merged files that were read before, kept up to date.
            store: Where they are.

        Raises:
            JobError: A merged file can't be got at.
        """
        found = cls({})
        there = []
        for entry in entries:
            if is_merged(entry.path):
                there.append(entry)
            else:
                found.single[entry.path] = entry
        new = [entry for entry in there if entry not in read]
        read.update(zip(new, each(lambda entry: read_merged(store, entry), new), strict=True))
        all_merged = [read[entry] for entry in there]
        void = {path for one in all_merged if not one.damage for path in one.replaces}
        for one in sorted(all_merged, key=lambda one: (bool(one.damage), one.entry.path)):
            if one.entry.path in void:
                found.void.append(one.entry.path)
            elif one.parts:
                found.merged[one.entry.path] = one
            else:
                found.broken.append(one)
        return found

    @cached_property
    def parts(self) -> dict[str, tuple[MergedFile, MergedPart]]:
        """By their own files' names, what splits have in merged files; the first one counts."""
        found: dict[str, tuple[MergedFile, MergedPart]] = {}
        for merged in self.merged.values():
            for part in merged.parts:
                found.setdefault(part.path, (merged, part))
        return found

    def inside(self, path: str) -> tuple[MergedFile, MergedPart] | None:
        """Where a split's rows are, if it has no file of its own."""
        return None if path in self.single else self.parts.get(path)

    def counts(self, merged: MergedFile, part: MergedPart) -> bool:
        """Whether a split's rows are read there, and not elsewhere."""
        return part.path not in self.single and self.parts[part.path][0] is merged


def rows_once(store: Store, entries: Sequence[Entry]) -> Iterator[Split]:
    """Files as splits that have each row of an output once, whatever was killed while it merged.

    Args:
        store: Where they are.
        entries: The files, in order.

    Raises:
        JobError: A merged file can't be got at.
    """
    holdings = Holdings.of(entries, {}, store)
    for entry in entries:
        merged = holdings.merged.get(entry.path)
        if entry.path in holdings.void:
            continue
        if merged is None or all(holdings.counts(merged, part) for part in merged.parts):
            yield Split.of(entry, fingerprint="")
            continue
        for part in merged.parts:
            if holdings.counts(merged, part):
                yield Split.of(entry, fingerprint="", region=part.region)
