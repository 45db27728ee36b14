"""Delta tables, as `deltalake` knows them: opened, and what is wrong with one told in a line."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from pipeline.errors import JobError, one_line
from pipeline.lake.store.base import Store
from pipeline.lake.store.client import CLIENT_OPTIONS, prefix_of, reason
from pipeline.lake.store.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG = "_delta_log"
PERCENT = re.compile(r"%[0-9a-fA-F]{2}")


def is_table(store: Store) -> bool:
    """Whether a place holds a Delta table; needs no library."""
    if isinstance(store, LocalStore):
        return (store.base / LOG).is_dir()
    # What is older than a checkpoint may have been cleaned up; the first entry is there else. Read
    # before anything is looked up: only an answer with a body says what is wrong with a request.
    checkpoint = store.read(f"{LOG}/_last_checkpoint")
    return checkpoint is not None or store.entry(f"{LOG}/{0:020}.json") is not None


def library() -> Any:
    """The `deltalake` package.

    Raises:
        JobError: It is not installed.
    """
    try:
        import deltalake
        import deltalake.exceptions
        import deltalake.transaction
    except ImportError as error:
        raise JobError(
            "a Delta table needs the package deltalake",
            hint="Install it: pip install 'shardscribe[delta]'",
        ) from error
    return deltalake


def location(store: Store) -> dict[str, Any]:
    """What `deltalake` takes to find a place: its address, and how to get at it.

    Credentials it reads from the environment, as our stores do.

    Raises:
        JobError: The library takes the address for another.
    """
    if PERCENT.search(store.root):
        raise JobError(
            f"{store.root} can't be the place of a Delta table: deltalake takes the % in it for "
            "an escape",
            hint="Choose another name",
        )
    if isinstance(store, LocalStore):
        return {"table_uri": str(Path(store.root).absolute())}
    prefix = prefix_of(store.root)
    said = {name: os.environ.get(f"{prefix}_{name.upper()}") for name in CLIENT_OPTIONS}
    options = {name: value for name, value in said.items() if value}
    return {"table_uri": store.root, "storage_options": options}


@contextmanager
def telling(store: Store, doing: str) -> Iterator[None]:
    """Makes one line of what the library raises.

    Raises:
        JobError: Naming the table.
    """
    deltalake = library()
    try:
        yield
    except (deltalake.exceptions.DeltaError, OSError, ValueError, pa.ArrowException) as error:
        said = one_line(reason(error), most=200)
        hint = "Check the table, the address and the credentials in the environment"
        if "nsupported" in said or "not supported" in said:
            hint = "Upgrade deltalake, or write the table without what that names"
        raise JobError(
            f"the Delta table {store.root} can't be {doing}: {said}", hint=hint
        ) from None  # the cause may repeat the request


def load(store: Store, version: int | None = None) -> Any:
    """A place's Delta table; None if there is none.

    Args:
        store: The place.
        version: Which of its versions; the latest by default.

    Raises:
        JobError: It can't be read, is of a later protocol, or has no such version.
    """
    deltalake = library()
    if isinstance(store, LocalStore) and not is_table(store):
        return None  # the library would say the same in five lines
    with telling(store, "opened"):
        try:
            return deltalake.DeltaTable(**location(store), version=version)
        except deltalake.exceptions.TableNotFoundError:
            if version is None and not is_table(store):
                return None
            raise


def files_of(table: Any) -> dict[str, int]:
    """The data files of a table's version, by path, with their sizes."""
    actions = pa.table(table.get_add_actions())
    paths, sizes = (actions.column(name).to_pylist() for name in ("path", "size_bytes"))
    # As the log has them: percent-encoded once.
    return {unquote(path): size for path, size in zip(paths, sizes, strict=True)}
