"""A Delta table as output."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import one_line
from pipeline.lake.delta import files_of, library, load, location
from pipeline.lake.sink import delta_schema
from pipeline.lake.sink.delta_stats import statistics
from pipeline.lake.sink.ledger import APPLICATION
from pipeline.lake.sink.output_table import End, NotTaken, OutputVersion, united
from pipeline.lake.store.base import Store
from pipeline.lake.store.client import reason

# Properties of a table by which it would forget our transactions.
FORGETFUL = "delta.setTransactionRetentionDuration"
# The library's own tries, for what only adds.
REBASES = 100


@dataclass
class DeltaVersion:
    """What a Delta table is at a version.

    Attributes:
        table: As `deltalake` gives it.
    """

    table: Any

    @property
    def number(self) -> int:
        """The version's number."""
        return int(self.table.version())

    @cached_property
    def files(self) -> dict[str, int]:
        """The data files, by path, with their sizes."""
        return files_of(self.table)

    @cached_property
    def columns(self) -> dict[str, str]:
        """The columns, each as its type's JSON."""
        return delta_schema.fields_of(self.table.schema())

    @property
    def problems(self) -> list[str]:
        """Why our files can't be its."""
        found = []
        metadata, protocol = self.table.metadata(), self.table.protocol()
        if metadata.partition_columns:
            names = ", ".join(metadata.partition_columns)
            found.append(f"it is partitioned by {names}, and the job's output is not")
        if FORGETFUL in metadata.configuration:
            found.append(f"its property {FORGETFUL} makes it forget which runs it holds")
        if protocol.reader_features and "columnMapping" in protocol.reader_features:
            found.append("its columns are mapped to other names")
        return found

    def transactions(self, application: str) -> int:
        """The version that the last transaction of an application carried; 0 for none."""
        return int(self.table.transaction_version(application) or 0)


@dataclass(frozen=True)
class DeltaOutput:
    """A Delta table that takes data files.

    Attributes:
        store: Its place, and the files'.
    """

    store: Store
    format = "delta"

    def columns_of(self, schema: pa.Schema) -> dict[str, str]:
        """The columns of a file as the table's, each as its type's JSON."""
        return delta_schema.columns_of(schema)

    def told(self, kind: str) -> str:
        """A column's type, for people."""
        return delta_schema.told(kind)

    def look(self) -> DeltaVersion | None:
        """The table as it is now."""
        table = load(self.store)
        return None if table is None else DeltaVersion(table)

    def statistics(self, metadata: pq.FileMetaData, schema: pa.Schema) -> str:
        """A file's statistics as JSON."""
        return statistics(metadata, schema)

    def widened(self, version: OutputVersion | None, added: Sequence[End]) -> bool:
        """Adds columns that the table lacks, in a transaction of their own."""
        if not isinstance(version, DeltaVersion):
            return False
        columns, _ = united(self, version, added)
        new = {name: kind for name, kind in columns.items() if name not in version.columns}
        if new:
            with _trying():
                version.table.alter.add_columns(delta_schema.schema_of(new).fields)
        return bool(new)

    def commit(
        self,
        version: OutputVersion | None,
        added: Sequence[End],
        removed: Collection[str],
        *,
        run: str,
        marks: Mapping[str, int],
        guard: Callable[[], None],
    ) -> bool:
        """Adds and removes files in one transaction."""
        deltalake = library()
        now = int(time.time() * 1000)
        actions = [
            deltalake.transaction.AddAction(
                end.entry.path, end.entry.size, {}, now, True, end.stats
            )
            for end in added
        ]
        properties = deltalake.CommitProperties(
            app_transactions=[deltalake.Transaction(app, at) for app, at in marks.items()],
            max_commit_retries=0 if removed else REBASES,
        )
        guard()
        if not isinstance(version, DeltaVersion):
            columns, _ = united(self, None, added)
            with _trying():
                deltalake.transaction.create_table_with_add_actions(
                    **location(self.store), schema=delta_schema.schema_of(columns),
                    add_actions=actions, mode="error", commit_properties=properties,
                )  # fmt: skip
            return True
        table = version.table
        if removed:
            # What is slow is done: others have little time left to be faster.
            latest = DeltaVersion(load(self.store))
            sizes = latest.files
            if latest.transactions(APPLICATION) != marks[APPLICATION] - 1 or any(
                path not in sizes for path in removed
            ):
                return False
            table = latest.table
            actions += [
                deltalake.transaction.RemoveAction(path, True, now, sizes[path], {})
                for path in removed
            ]
        with _trying():
            table.create_write_transaction(
                actions, "append", table.schema(), commit_properties=properties
            )
        return True


@contextmanager
def _trying() -> Iterator[None]:
    try:
        yield
    except (library().exceptions.DeltaError, OSError) as error:
        raise NotTaken(one_line(reason(error), most=200)) from None
