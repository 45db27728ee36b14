"""The unit of work: a region of one file, with a name of its own."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pipeline.lake.store.base import Entry

SUFFIXES = (".parquet", ".pq", ".parq")
MAX_STEM_BYTES = 180
# A name that only we give. Of a file that can't be read any more it is all there is to go by.
# `rows` and its number are one word, or a file `a-rows.parquet` could have the same.
OUTPUT_NAME = re.compile(
    r"^(?P<stem>.*)-(?P<region>all|\d+-\d+|rows\d+-\d+)-(?P<id>[0-9a-f]{16})\.parquet$"
)
# One that `compact` gives to a file which holds what several of those held.
MERGED_NAME = re.compile(r"^merged-[0-9a-f]{16}\.parquet$")


@dataclass(frozen=True, slots=True)
class Whole:
    """All of a file."""

    @property
    def key(self) -> str:
        """What a split's id has of it; never to be changed."""
        return "None"

    @property
    def name(self) -> str:
        """What an output file's name has of it; never to be changed."""
        return "all"

    @property
    def fields(self) -> dict[str, Any]:
        """For footers and records."""
        return {"row_groups": None}

    def of(self, path: str) -> str:
        """What to call it, for people."""
        return path


@dataclass(frozen=True, slots=True)
class RowGroups:
    """A run of a file's row groups."""

    first: int
    last: int

    @property
    def key(self) -> str:
        """What a split's id has of it; never to be changed."""
        return f"({self.first}, {self.last})"

    @property
    def name(self) -> str:
        """What an output file's name has of it; never to be changed."""
        return f"{self.first}-{self.last}"

    @property
    def fields(self) -> dict[str, Any]:
        """For footers and records."""
        return {"row_groups": (self.first, self.last)}

    def of(self, path: str) -> str:
        """What to call it, for people."""
        return f"{path} (row groups {self.first} to {self.last})"


@dataclass(frozen=True, slots=True)
class Rows:
    """A range of a file's rows, counted from its first one whatever its row groups are."""

    first: int
    count: int

    @property
    def last(self) -> int:
        """The last row of it."""
        return self.first + self.count - 1

    @property
    def key(self) -> str:
        """What a split's id has of it; never to be changed."""
        return f"rows ({self.first}, {self.last})"

    @property
    def name(self) -> str:
        """What an output file's name has of it; sorted by name, files are in the input's order."""
        return f"rows{self.first:010}-{self.last:010}"

    @property
    def fields(self) -> dict[str, Any]:
        """For footers and records."""
        return {"row_groups": None, "row_range": (self.first, self.last)}

    def of(self, path: str) -> str:
        """What to call it, for people."""
        return f"{path} (rows {self.first} to {self.last})"


Region = Whole | RowGroups | Rows
WHOLE = Whole()


@dataclass(frozen=True, slots=True)
class Split:
    """The unit of work: a region of one input file.

    Attributes:
        id: Hash of all that identifies it, 16 hexadecimal digits.
        path: The input file, relative to the dataset.
        size: Bytes to read, for progress.
        version: The file's etag or time of modification when it was planned.
        region: What of the file it is.
        replace: Annotate it again and put the result in the place of what is there.
    """

    id: str
    path: str
    size: int
    version: str
    region: Region = field(default=WHOLE)
    replace: bool = False

    @classmethod
    def of(
        cls, entry: Entry, *, fingerprint: str, region: Region = WHOLE, size: int | None = None
    ) -> Split:
        """The split of a region of a file.

        Args:
            entry: The file.
            fingerprint: Of the job.
            region: What of it; all by default.
            size: Bytes of it; those of the file by default.
        """
        text = "\0".join([entry.path, str(entry.size), entry.version, region.key, fingerprint])
        identity = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        size = entry.size if size is None else size
        return cls(identity, entry.path, size, entry.version, region)

    @property
    def told(self) -> str:
        """What to call it, for people."""
        return self.region.of(self.path)

    @property
    def stem_path(self) -> str:
        """What the names of all output files of the input begin with."""
        return _stem_path(self.path)

    @property
    def output_path(self) -> str:
        """The one output file of this split, relative to the output."""
        return f"{self.stem_path}-{self.region.name}-{self.id}.parquet"


@dataclass(frozen=True, slots=True)
class Cut:
    """How large splits are. It decides output names, so that other defaults need other results.

    Attributes:
        bytes: A larger file is cut into runs of row groups of about so many; None for no bound.
        range_bytes: A row group larger than that is cut into ranges of rows of about so many.
            Smaller, so that all workers are busy to the end, also over one file.
        rows: At most so many rows.
        text_bytes: At most so many bytes of text, but a row at least.
        texts: The columns of that text.
    """

    bytes: int | None = 256 * 1024 * 1024
    range_bytes: int = 8 * 1024 * 1024
    rows: int | None = None
    text_bytes: int | None = None
    texts: tuple[str, ...] = ()

    def is_whole(self, entry: Entry) -> bool:
        """Whether a file is one split, whatever its footer says."""
        return self.rows is None and (self.bytes is None or entry.size <= self.bytes)


@lru_cache(maxsize=1024)
def _stem_path(path: str) -> str:
    directory, name = posixpath.split(path)
    # File systems take names of 255 bytes; the id keeps a shortened one apart.
    stem = _stem(name)
    while len(os.fsencode(stem)) > MAX_STEM_BYTES:
        stem = stem[:-1]
    return posixpath.join(directory, stem)


def _stem(name: str) -> str:
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
