"""An address -> the source that it names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import takewhile

from pipeline.errors import JobError
from pipeline.lake.delta import is_table
from pipeline.lake.iceberg import TableName
from pipeline.lake.source.base import Source
from pipeline.lake.source.choice import Choice
from pipeline.lake.source.delta import DeltaTable
from pipeline.lake.source.files import WILD, Branch, FileSource
from pipeline.lake.source.iceberg import IcebergTable
from pipeline.lake.source.table import TableSource
from pipeline.lake.split import SUFFIXES
from pipeline.lake.store.base import Store
from pipeline.lake.store.local import LocalStore
from pipeline.lake.store.open import open_store


def open_source(address: str | Sequence[str], *, choice: Choice | None = None) -> FileSource:
    """The source of an address: of a file, a directory or a glob; or of several of these.

    Args:
        address: As a job file writes it.
        choice: What of it is wanted; all by default.

    Raises:
        JobError: There is nothing.
    """
    if not isinstance(address, str):
        return _several(address, choice or Choice())
    address, choice = address.removeprefix("file://"), choice or Choice()
    root, pattern = _parted(address)
    if pattern is not None:
        top = root or ("/" if address.startswith("/") else ".")
        return FileSource(open_store(top), address, pattern=pattern, choice=choice)
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
            return FileSource(parent, address, single=name, choice=choice)
    # `/` alone is nothing when trimmed; nothing at all is the working directory, as elsewhere.
    return FileSource(open_store(trimmed or ("/" if address else ".")), address, choice=choice)


def _several(addresses: Sequence[str], choice: Choice) -> FileSource:
    """The source of several addresses: of the innermost directory that holds them all."""
    parts = [open_source(address) for address in addresses]
    roots = [part.store.root.rstrip("/").split("/") for part in parts]
    steps = takewhile(lambda step: len({*step}) == 1, zip(*roots, strict=False))
    common = [step[0] for step in steps]
    remote = "://" in parts[0].store.root
    if len(common) < (3 if remote else 1):
        raise JobError(
            f"input.path names {addresses[0]} and other places that no one directory holds",
            hint="Write a job for each bucket",
        )
    store = open_store("/".join(common) or "/")
    branches = tuple(
        Branch("".join(f"{step}/" for step in root[len(common) :]), part)
        for root, part in zip(roots, parts, strict=True)
    )
    return FileSource(store, ", ".join(addresses), branches=branches, choice=choice)


def as_found(source: Source, *, version: int | str | None = None) -> Source:
    """What is at the place of files: a Delta table, or files.

    Args:
        source: Files.
        version: Which version of the table is wanted.

    Raises:
        JobError: A version of what has none is wanted.
    """
    if (
        isinstance(source, FileSource)
        and source.single is source.pattern is None
        and not source.branches
        and is_table(source.store)
    ):
        if source.choice.partitions:
            raise _has_types(source.address, "a Delta table")
        table = DeltaTable(source.store, source.address, version)
        return TableSource(table, filter=source.choice.filter)
    if version is not None:
        raise JobError(
            f"input.version is of a table, and {source.address} is none",
            hint="Take it out, or name a table as input.path",
        )
    return source


def open_table(name: TableName, *, choice: Choice, version: int | str | None = None) -> Source:
    """The source of an Iceberg table.

    Args:
        name: By which a catalog has it.
        choice: What of it is wanted.
        version: Which snapshot is wanted, by its id or a time; the latest by default.

    Raises:
        JobError: Types of columns are wanted that the table knows.
    """
    if choice.partitions:
        raise _has_types(name.name, "an Iceberg table")
    return TableSource(IcebergTable(name, version), filter=choice.filter)


def _has_types(address: str, kind: str) -> JobError:
    return JobError(
        f"input.partitions is of directories, and {address} is {kind}, which knows the types of "
        "its columns",
        hint="Take it out",
    )


def _is_directory(parent: Store, name: str) -> bool:
    return isinstance(parent, LocalStore) and (parent.base / name).is_dir()


def _parted(address: str) -> tuple[str, str | None]:
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
