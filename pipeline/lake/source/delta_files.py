"""The data files of a version of a Delta table: which of their rows count, what is beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import JobError
from pipeline.lake.delta import LOG, telling
from pipeline.lake.source.moved import Commit
from pipeline.lake.source.table_split import as_type
from pipeline.lake.store.base import Entry, Store

TOLD = (pa.types.is_integer, pa.types.is_date32, pa.types.is_string)
MAPPING = "delta.columnMapping.mode"


@dataclass
class DeltaFiles:
    """What a version of a table says of its files.

    Attributes:
        store: The table's place.
        table: As `deltalake` gives it.
    """

    store: Store
    table: Any

    @property
    def version(self) -> int:
        """The version's number."""
        return int(self.table.version())

    @cached_property
    def schema(self) -> pa.Schema:
        """The table's columns, those that it is partitioned by included."""
        return pa.schema(self.table.schema().to_arrow())

    @cached_property
    def actions(self) -> pa.Table:
        """A row for each file."""
        with telling(self.store, "read"):
            return pa.table(self.table.get_add_actions())

    @cached_property
    def _rows(self) -> dict[str, int]:
        """The row of each file in `actions`; the log has paths percent-encoded."""
        paths = self.actions.column("path").to_pylist()
        return {unquote(path): at for at, path in enumerate(paths)}

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The files, by path.

        A data file never changes: only which of its rows are deleted does.

        Raises:
            JobError: A file is elsewhere.
        """
        sizes = self.actions.column("size_bytes").to_pylist()
        for path in self._rows:
            if urlsplit(path).scheme or path.startswith("/"):
                raise JobError(
                    f"the Delta table {self.store.root} has data files elsewhere, such as {path}",
                    hint="Make a deep copy of what is a shallow one",
                )
        found = {
            path: Entry(path, sizes[at], self.deleted_version(path))
            for path, at in self._rows.items()
        }
        return dict(sorted(found.items()))

    @cached_property
    def _partitions(self) -> list[dict[str, Any]]:
        """For each row of `actions`, what the file's rows have in partition columns."""
        if not self.table.metadata().partition_columns:
            return [{}] * self.actions.num_rows
        return list(self.actions.column("partition").to_pylist())

    def partition_values(self, path: str) -> tuple[Any, ...]:
        """What tells a file's partition from others."""
        return tuple(self._partitions[self._rows[path]].values())

    def partition(self, path: str) -> Mapping[str, pa.Scalar]:
        """What all rows of a file have in the columns that the table is partitioned by."""
        values = self._partitions[self._rows[path]]
        return {n: pa.scalar(value, self.schema.field(n).type) for n, value in values.items()}

    def bounds(self, files: Sequence[Entry]) -> tuple[pa.Table, pa.Table]:
        """Least and greatest values of files' columns, a row for each, null where none are told.

        Of whole numbers, dates and texts: others are told rounded, or leave out NaN.
        """
        rows = pa.array([self._rows[entry.path] for entry in files], pa.int64())
        return self._bound("min", rows), self._bound("max", rows)

    def _bound(self, end: str, rows: pa.Array) -> pa.Table:
        if end not in self.actions.column_names:
            return pa.table({})
        values = self.actions.column(end).combine_chunks().take(rows)
        told = [field.name for field in values.type if any(is_one(field.type) for is_one in TOLD)]
        return pa.table({name: pc.struct_field(values, name) for name in told})

    @cached_property
    def _kept(self) -> dict[str, np.ndarray]:
        """By file, of those with deleted rows, which rows are not."""
        features = self.table.protocol().reader_features or ()
        if "deletionVectors" not in features:
            return {}
        found = {}
        with telling(self.store, "read"):
            for batch in self.table.deletion_vectors():
                table = pa.table(batch)
                for uri, mask in zip(*(c.to_pylist() for c in table.columns), strict=True):
                    found[self._relative(uri)] = np.array(mask, bool)
        return found

    def kept(self, path: str) -> np.ndarray | None:
        """Which rows of a file are not deleted, from its first on; None if all are there.

        Rows behind the last that it tells of are there.
        """
        return self._kept.get(path)

    def deleted_version(self, path: str) -> str:
        """Which rows of a file are deleted, as a word; empty for none."""
        mask = self.kept(path)
        if mask is None or mask.all():
            return ""
        return f"less {hashlib.sha256(np.flatnonzero(~mask).tobytes()).hexdigest()[:16]}"

    def columns(self, path: str, schema: pa.Schema) -> DeltaColumns:
        """How a file's columns become the table's: by their names."""
        return DeltaColumns(self, path, schema)

    def rewritten(self, paths: Sequence[str]) -> set[str]:
        """Which of the table's former files had their rows written anew into others."""
        return rewritten(self.store, self.version, paths)

    def commits(self) -> Iterator[Commit]:
        """What led to the version, as the log says."""
        for number in range(self.version, -1, -1):
            raw = self.store.read(f"{LOG}/{number:020}.json")
            if raw is None:
                return
            actions = [json.loads(line) for line in raw.splitlines() if line.strip()]
            came, went = (
                {
                    unquote(action[kind]["path"]): action[kind]
                    for action in actions
                    if kind in action
                }
                for kind in ("add", "remove")
            )
            changes = any(one.get("dataChange", True) for one in (*came.values(), *went.values()))
            yield Commit(number, came.keys(), went.keys(), bool(came and went and not changes))

    def address(self, path: str) -> str:
        """The full address of a file, for messages."""
        return self.store.address(path)

    def open(self, path: str) -> Any:
        """Opens a file for reading."""
        return self.store.open(path)

    def _relative(self, uri: str) -> str:
        """A path of the log, of what the library makes of it."""
        for one in (uri, unquote(uri)):
            for other in (str(self.table.table_uri), unquote(self.table.table_uri)):
                path = _local(one).removeprefix(f"{_local(other).rstrip('/')}/")
                if path in self._rows:
                    return path
        raise JobError(
            f"the Delta table {self.store.root} has deleted rows of a file that it does not have: "
            f"{uri}",
            hint="Write the table anew",
        )


class DeltaColumns:
    """The columns of a data file by their names, and what the log tells of its rows.

    Args:
        files: What the table says.
        path: The file.
        schema: Of the file.
    """

    def __init__(self, files: DeltaFiles, path: str, schema: pa.Schema) -> None:
        self._where = files.store.address(path)
        self._told = files.partition(path)
        self._schema = files.schema
        self._there = {*schema.names} - {*self._told}

    def read_for(self, names: Sequence[str]) -> list[str]:
        """Those of the same names that are there."""
        return [name for name in names if name in self._there]

    def made(self, table: pa.Table, names: Sequence[str]) -> pa.Table:
        """What is there as the table's types, what is told, and nulls."""
        schema = pa.schema([self._schema.field(name) for name in names])
        return pa.table([self._column(name, table) for name in names], schema=schema)

    def _column(self, name: str, table: pa.Table) -> Any:
        kind = self._schema.field(name).type
        if name in self._told:
            return pa.repeat(self._told[name], table.num_rows)
        if name not in table.column_names:
            return pa.nulls(table.num_rows, kind)
        return as_type(table.column(name), kind, f"{self._where}: column `{name}`")


def _local(uri: str) -> str:
    return uri.removeprefix("file://")


def refuse_mapping(store: Store, table: Any) -> None:
    """Refuses a table whose columns have other names in its files.

    Raises:
        JobError: With what to do about it.
    """
    mode = table.metadata().configuration.get(MAPPING, "none")
    if mode != "none":
        raise JobError(
            f"the columns of the Delta table {store.root} have other names in its files "
            f"({MAPPING}: {mode}), which is not read",
            hint="Write the table anew without it, or drop the feature columnMapping",
        )


def rewritten(store: Store, version: int, paths: Iterable[str]) -> set[str]:
    """Which of a table's former files had their rows written anew into others.

    A commit that takes files out and puts none in deletes rows. Of a file whose going the log has
    forgotten nothing else is known than that it is not in the table.

    Args:
        store: The table's place.
        version: Of the table, by which they are gone.
        paths: The files.
    """
    left = set(paths)
    deleted: set[str] = set()
    for number in range(version, -1, -1):
        if not left:
            break
        raw = store.read(f"{LOG}/{number:020}.json")
        if raw is None:
            break
        gone, adds = _changes(raw.splitlines())
        here = left & gone
        left -= here
        if not adds:
            deleted |= here
    return set(paths) - deleted


def made_at(store: Store, version: int) -> int:
    """When a version was made, in milliseconds since the epoch; 0 if the log does not say."""
    raw = store.read(f"{LOG}/{version:020}.json") or b""
    actions = [json.loads(line) for line in raw.splitlines() if line.strip()]
    for said in (action["commitInfo"] for action in actions if "commitInfo" in action):
        return int(said.get("inCommitTimestamp") or said.get("timestamp") or 0)
    return 0


def _changes(lines: Sequence[bytes]) -> tuple[set[str], bool]:
    actions = [json.loads(line) for line in lines if line.strip()]
    gone = {unquote(action["remove"]["path"]) for action in actions if "remove" in action}
    return gone, any("add" in action for action in actions)
