"""A dataset -> its splits."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import JobError
from pipeline.lake.memory import Memory
from pipeline.lake.split import SUFFIXES, RowGroups, Split
from pipeline.lake.store.base import Entry, Store
from pipeline.lake.store.local import LocalStore
from pipeline.lake.store.open import open_store

# A larger file is cut into runs of row groups of about this many bytes. It decides output names,
# so it is part of the fingerprint.
SPLIT_BYTES = 256 * 1024 * 1024
# A footer is a small read: what counts is the answer time of an object store.
FOOTER_THREADS = 16
WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Dataset:
    """What an input path points at.

    Attributes:
        store: Where the files are.
        address: As the job file writes it.
        pattern: For a glob, relative to the store's root.
        single: For a single file, its name.
    """

    store: Store
    address: str
    pattern: str | None = None
    single: str | None = None

    @classmethod
    def open(cls, address: str) -> Dataset:
        """Finds out whether an address is a file, a directory or a glob.

        Raises:
            JobError: There is nothing.
        """
        address = address.removeprefix("file://")
        root, pattern = _parts(address)
        if pattern is not None:
            top = root or ("/" if address.startswith("/") else ".")
            return cls(open_store(top), address, pattern=pattern)
        trimmed = address.rstrip("/")
        directory, _, name = trimmed.rpartition("/")
        if name.lower().endswith(SUFFIXES):
            parent = open_store(directory or ("/" if trimmed.startswith("/") else "."))
            try:
                is_file = parent.entry(name) is not None and not _is_directory(parent, name)
            except OSError as error:
                raise JobError(
                    f"input.path {address} can't be read: {error.strerror or error}",
                    hint="Check its permissions and the disk",
                ) from error
            if is_file:
                return cls(parent, address, single=name)
        return cls(open_store(trimmed or "/"), address)

    def files(
        self,
        *,
        missed: Callable[[str, str], None] | None = None,
        at_most: int | None = None,
    ) -> list[Entry]:
        """The dataset's Parquet files, by path.

        Args:
            missed: Told path and reason of what may belong to it and can't be read.
            at_most: Only the first so many that are found.

        Raises:
            JobError: The path does not exist, or holds no Parquet file.
        """
        if self.single is not None:
            entry = self.store.entry(self.single)
            return [entry] if entry is not None else []
        found: list[Entry] = []
        others = 0

        def tell(path: str, reason: str) -> None:
            if missed is not None and self._may_hold(path):
                missed(path, reason)

        for entry in self.store.entries(tell):
            if len(found) == at_most:
                break
            if self.pattern is not None:
                wanted = fnmatch.fnmatchcase(entry.path, self.pattern)
            else:
                wanted = entry.path.lower().endswith(SUFFIXES)
            if wanted:
                found.append(entry)
            else:
                others += 1
        if not found:
            raise self._nothing(others)
        return sorted(found, key=lambda entry: entry.path)

    def _may_hold(self, path: str) -> bool:
        """Whether a path, or one below it, may be of the dataset."""
        fixed = WILD.split(self.pattern, maxsplit=1)[0] if self.pattern is not None else ""
        return f"{path}/".startswith(fixed) or fixed.startswith(f"{path}/")

    def _nothing(self, others: int) -> JobError:
        if self.pattern is not None:
            return JobError(
                f"input.path {self.address} matches no file",
                hint="Check the pattern; * crosses directories",
            )
        if isinstance(self.store, LocalStore) and not self.store.base.exists():
            return JobError(
                f"input.path {self.address} does not exist",
                hint=f"Looked for {self.store.base}; relative paths count from the working "
                "directory",
            )
        if isinstance(self.store, LocalStore) and self.store.base.is_file():
            return JobError(
                f"input.path {self.address} is not a Parquet file by its name",
                hint=f"Name a file that ends in {' or '.join(SUFFIXES)}, or a directory of such",
            )
        held = f"it holds {others} other files" if others else "it is empty"
        return JobError(
            f"input.path {self.address} holds no Parquet file: {held}",
            hint=f"Files must end in {' or '.join(SUFFIXES)}",
        )


def splits_of(
    store: Store,
    files: Sequence[Entry],
    *,
    fingerprint: str,
    split_bytes: int = SPLIT_BYTES,
    memory: Memory | None = None,
) -> Iterator[Split]:
    """Cuts files into splits.

    Only the footers of files over `split_bytes` are read, many at once.

    Args:
        store: Of the dataset.
        files: Of the dataset.
        fingerprint: Of the job.
        split_bytes: How large a split may be.
        memory: Spares the reading of footers that were read before.
    """

    def sizes_of(entry: Entry) -> Sequence[int]:
        known = None if memory is None else memory.get(entry.path, entry.version)
        return _row_group_sizes(store, entry) if known is None else known

    large = [entry for entry in files if entry.size > split_bytes]
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        found = dict(zip(large, threads.map(sizes_of, large), strict=True))
    for entry in files:
        sizes = found.get(entry, ())
        if sizes and memory is not None:
            memory.put(entry.path, entry.version, sizes)
        runs = _runs(sizes, split_bytes)
        if len(runs) < 2:
            yield Split.of(entry, fingerprint=fingerprint)
            continue
        for first, last, size in runs:
            yield Split.of(entry, fingerprint=fingerprint, region=RowGroups(first, last), size=size)


def _row_group_sizes(store: Store, entry: Entry) -> list[int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(store.open(entry.path)) as file:
            return [
                sum(group.column(c).total_compressed_size for c in range(group.num_columns))
                for group in map(file.metadata.row_group, range(file.metadata.num_row_groups))
            ]
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return []  # a broken file is one split, which fails by itself with a clear message


def _runs(sizes: Sequence[int], split_bytes: int) -> list[tuple[int, int, int]]:
    """First and last row group and bytes of each split of a file."""
    runs: list[tuple[int, int, int]] = []
    for index, size in enumerate(sizes):
        if runs and runs[-1][2] + size <= split_bytes:
            runs[-1] = (runs[-1][0], index, runs[-1][2] + size)
        else:
            runs.append((index, index, size))
    return runs


def _is_directory(parent: Store, name: str) -> bool:
    return isinstance(parent, LocalStore) and (parent.base / name).is_dir()


def _parts(address: str) -> tuple[str, str | None]:
    """The directory and the pattern in it that an address is; no pattern if it is none.

    A name may hold the characters of a pattern: what is there under that very name is meant.
    """
    scheme, _, path = address.rpartition("://")
    steps = path.split("/")
    for at, step in enumerate(steps):
        here = "/".join(steps[: at + 1])
        if WILD.search(step) and not _is_there(f"{scheme}://{here}" if scheme else here):
            above = "/".join(steps[:at])
            return f"{scheme}://{above}" if scheme else above, "/".join(steps[at:])
    return address, None


def _is_there(address: str) -> bool:
    """Whether a file, or a directory with something in it, has exactly this name."""
    if "://" not in address:
        return os.path.lexists(os.path.expanduser(address))  # noqa: PTH111 (takes any text)
    parent, _, name = address.rpartition("/")
    if not parent.endswith("/") and open_store(parent).entry(name) is not None:
        return True
    return next(iter(open_store(address).entries()), None) is not None
