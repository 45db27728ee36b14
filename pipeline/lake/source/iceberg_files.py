"""The data files of a snapshot of an Iceberg table: which of their rows count, what is known."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import JobError
from pipeline.lake.iceberg import TableName, arrow_schema, plain
from pipeline.lake.source.iceberg_bounds import bounds_of, partition_of
from pipeline.lake.source.iceberg_columns import IcebergColumns
from pipeline.lake.source.iceberg_history import rewritten
from pipeline.lake.source.moved import Commit
from pipeline.lake.store.base import Entry
from pipeline.lake.store.walk import HIDDEN

# Where files are said to be that are not below the table's place.
ELSEWHERE = "elsewhere"


@dataclass
class IcebergFiles:
    """What a snapshot of a table says of its files.

    Attributes:
        name: By which a catalog has the table.
        table: As `pyiceberg` gives it.
        version: The snapshot's id.
        latest: Whether the snapshot is read as the latest: with the table's columns as they are
            now, and not as they were then.
    """

    name: TableName
    table: Any
    version: int
    latest: bool

    @cached_property
    def _fields(self) -> Any:
        """The table's columns, as `pyiceberg` has them."""
        snapshot = self.table.snapshot_by_id(self.version)
        if self.latest or snapshot.schema_id is None:
            return self.table.schema()
        return self.table.schemas()[snapshot.schema_id]

    @cached_property
    def schema(self) -> pa.Schema:
        """The table's columns, those that it is partitioned by included."""
        return arrow_schema(self._fields)

    @cached_property
    def _tasks(self) -> dict[str, Any]:
        """What is to be read of each file, by path."""
        with self.name.telling("read"):
            tasks = list(self.table.scan(snapshot_id=self.version).plan_files())
        found: dict[str, Any] = {}
        for task in tasks:
            path = self._path(task.file.file_path)
            if path in found:
                raise JobError(
                    f"the Iceberg table {self.name.name} has the file {task.file.file_path} twice",
                    hint="Rewrite its data files",
                )
            for file in (task.file, *task.delete_files):
                if file.file_format.value != "PARQUET" or file.key_metadata is not None:
                    what = "encrypted" if file.key_metadata is not None else file.file_format.value
                    raise JobError(
                        f"the Iceberg table {self.name.name} has a file that is {what}, which is "
                        f"not read: {file.file_path}",
                        hint="Rewrite its data files as plain Parquet",
                    )
            found[path] = task
        return found

    def _path(self, uri: str) -> str:
        """A file's path, which output files get: below the table's place, or one made of where."""
        place, full = plain(self.table.location()).rstrip("/"), plain(uri)
        path = full.removeprefix(f"{place}/")
        if path == full or any(step.startswith(HIDDEN) for step in path.split("/")):
            directory, name = posixpath.split(full)
            digest = hashlib.sha256(directory.encode()).hexdigest()[:12]
            return f"{ELSEWHERE}/{digest}/{name.lstrip('_.')}"
        return path

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The files, by path.

        A data file never changes: only which of its rows are deleted does.
        """
        found = {
            path: Entry(path, task.file.file_size_in_bytes, self._deleted_version(path))
            for path, task in self._tasks.items()
        }
        return dict(sorted(found.items()))

    def partition_values(self, path: str) -> tuple[Any, ...]:
        """What tells a file's partition from others."""
        file = self._tasks[path].file
        return (file.spec_id, *file.partition)

    def partition(self, path: str) -> Mapping[str, pa.Scalar]:
        """What all rows of a file have in the columns that it is partitioned by as they are."""
        return partition_of(self._tasks[path].file, self.table.specs(), self._fields, self.schema)

    def bounds(self, files: Sequence[Entry]) -> tuple[pa.Table, pa.Table]:
        """Least and greatest values of files' columns, a row for each, null where none are told."""
        return bounds_of([self._tasks[e.path].file for e in files], self._fields, self.schema)

    @cached_property
    def _deleted(self) -> dict[str, dict[str, np.ndarray]]:
        """What was read of delete files, by their address: positions by data file."""
        return {}

    def kept(self, path: str) -> np.ndarray | None:
        """Which rows of a file are not deleted, from its first on; None if all are there."""
        task = self._tasks[path]
        found = [
            self._positions(delete.file_path).get(task.file.file_path)
            for delete in task.delete_files
        ]
        gone = [positions for positions in found if positions is not None and len(positions)]
        if not gone:
            return None
        positions = np.concatenate(gone)
        mask = np.ones(int(positions.max()) + 1, bool)
        mask[positions] = False
        return mask

    def _positions(self, uri: str) -> dict[str, np.ndarray]:
        """The rows that a delete file deletes, by the address of their data file."""
        if uri not in self._deleted:
            with self.name.telling("read"), self.table.io.new_input(uri).open() as file:
                table = pq.read_table(file, columns=["file_path", "pos"])
            paths, positions = (table.column(name).to_numpy() for name in ("file_path", "pos"))
            order = np.argsort(paths, kind="stable")
            names, starts = np.unique(paths[order].astype(str), return_index=True)
            parts = np.split(positions[order], starts[1:])
            self._deleted[uri] = dict(zip(names.tolist(), parts, strict=True))
        return self._deleted[uri]

    def _deleted_version(self, path: str) -> str:
        """Which rows of a file are deleted, as a word; empty for none."""
        mask = self.kept(path)
        if mask is None:
            return ""
        return f"less {hashlib.sha256(np.flatnonzero(~mask).tobytes()).hexdigest()[:16]}"

    def columns(self, path: str, schema: pa.Schema) -> IcebergColumns:
        """How a file's columns become the table's: by the numbers that both have for them."""
        return IcebergColumns(
            schema,
            self._fields,
            mapping=self.table.name_mapping(),
            told=self.partition(path),
            where=self.address(path),
        )

    def rewritten(self, paths: Sequence[str]) -> set[str]:
        """Which of the table's former files had their rows written anew into others."""
        with self.name.telling("read"):
            return rewritten(self.table, self.version, paths, path_of=self._path)

    def commits(self) -> Iterator[Commit]:
        """Nothing: a snapshot that only moves rows is taken for one that writes them anew."""
        return iter(())

    def address(self, path: str) -> str:
        """The full address of a file, for messages."""
        task = self._tasks.get(path)
        return path if task is None else str(task.file.file_path)

    def open(self, path: str) -> Any:
        """Opens a file for reading, as the catalog says how."""
        try:
            return self.table.io.new_input(self._tasks[path].file.file_path).open()
        except FileNotFoundError:
            raise
        except Exception as error:  # the library lets through what its file systems raise
            raise OSError(self.name.told(error)) from None
