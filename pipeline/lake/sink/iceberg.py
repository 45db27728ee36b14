"""An Iceberg table as output."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import JobError, ShardscribeError
from pipeline.lake.iceberg import TableName
from pipeline.lake.sink.iceberg_schema import table_schema
from pipeline.lake.sink.iceberg_version import IcebergVersion, ReadManifests
from pipeline.lake.sink.ledger import APPLICATION
from pipeline.lake.sink.output_table import End, NotTaken, OutputVersion

# Below the table's place, beside what other writers have there.
OURS = "data/shardscribe"
RUN = "shardscribe.run"
MAPPING = "schema.name-mapping.default"
# An address that no reader takes for another: elsewhere in it, # and ? begin a part of its own.
SAFE = re.compile(r"[\w./=+,~@-]*")


@dataclass(frozen=True)
class IcebergOutput:
    """An Iceberg table that takes data files.

    Attributes:
        name: By which a catalog has it.
        root: The address of the place of the files.
        location: Where the table is to be made; None if the catalog says so.
        read: What was read of manifests, for the next look.
    """

    name: TableName
    root: str
    location: str | None = None
    read: ReadManifests = field(default_factory=ReadManifests, compare=False, repr=False)
    format = "iceberg"

    def columns_of(self, schema: pa.Schema) -> dict[str, str]:
        """The columns of a file as the table's, each as an Arrow type in words."""
        return {f.name: str(f.type) for f in table_schema(schema)}

    def told(self, kind: str) -> str:
        """A column's type, for people."""
        return kind

    def look(self) -> IcebergVersion | None:
        """The table as it is now."""
        table = self.name.load()
        return None if table is None else IcebergVersion(self.name, table, self.root, self.read)

    def statistics(self, metadata: pq.FileMetaData, schema: pa.Schema) -> pq.FileMetaData:
        """What the footer has: what is made of it depends on the numbers of the table's columns."""
        return metadata

    def widened(self, version: OutputVersion | None, added: Sequence[End]) -> bool:
        """Columns are added by the transaction itself."""
        return False

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
        """Adds and removes files in one transaction, with the run's id in its snapshot's summary.

        The table keeps the marks as its properties, as snapshots expire.
        """
        columns = pa.unify_schemas([table_schema(end.schema) for end in added] or [pa.schema([])])
        with self._trying():
            now = self.look()
            if (now is None) != (version is None):
                return False
            gone = {*removed}
            if now is None:
                transaction = self._made(columns)
                if transaction is None:
                    return False
            else:
                if now.transactions(APPLICATION) != marks[APPLICATION] - 1:
                    return False
                if any(path not in now.entries for path in removed):
                    return False
                gone |= {end.entry.path for end in added if end.entry.path in now.entries}
                transaction = _transaction(now.table)
                if any(now.columns.get(f.name) != str(f.type) for f in columns):
                    with transaction.update_schema() as change:
                        change.union_by_name(columns)
            # The library makes it anew each time it is asked, from all that the table ever was.
            metadata = transaction.table_metadata
            mapping = metadata.schema().name_mapping.model_dump_json()
            transaction.set_properties({
                **{name: str(number) for name, number in marks.items()},
                **({} if metadata.name_mapping() else {MAPPING: mapping}),
            })  # fmt: skip
            update = transaction.update_snapshot(snapshot_properties={RUN: run})
            with update.overwrite() if gone else update.fast_append() as producer:
                for path in gone:
                    assert now is not None
                    producer.delete_data_file(now.entries[path])
                for file in self._data_files(added, metadata):
                    producer.append_data_file(file)
            guard()
            transaction.commit_transaction()
        return True

    def _made(self, columns: pa.Schema) -> Any:
        """A transaction that makes the table; None if it is made already, and has no rows."""
        where = {} if self.location is None else {"location": self.location}
        catalog = self.name.opened()
        catalog.create_namespace_if_not_exists(self.name.name.rpartition(".")[0])
        try:
            return catalog.create_table_transaction(self.name.name, columns, **where)
        except Exception:  # as each catalog says that it can't make a table and fill it at once
            catalog.create_table(self.name.name, columns, **where)
            return None

    def _data_files(self, ends: Sequence[End], metadata: Any) -> Iterator[Any]:
        """Files as a manifest has them."""
        from pyiceberg.io.pyarrow import (
            compute_statistics_plan,
            data_file_statistics_from_parquet_metadata,
            parquet_path_to_id_mapping,
        )
        from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
        from pyiceberg.typedef import Record

        schema = metadata.schema()
        plan = compute_statistics_plan(schema, metadata.properties)
        numbers = parquet_path_to_id_mapping(schema)
        for end in ends:
            statistics = data_file_statistics_from_parquet_metadata(
                parquet_metadata=end.stats, stats_columns=plan, parquet_column_mapping=numbers
            )
            yield DataFile.from_args(
                content=DataFileContent.DATA,
                file_path=self._address(end.entry.path),
                file_format=FileFormat.PARQUET,
                partition=Record(),
                file_size_in_bytes=end.entry.size,
                sort_order_id=None,
                spec_id=metadata.default_spec_id,
                equality_ids=None,
                key_metadata=None,
                **statistics.to_serialized_dict(),
            )

    def _address(self, path: str) -> str:
        address = posixpath.join(self.root, path)
        if "://" not in address and SAFE.fullmatch(address):
            return f"file://{address}"
        if "://" in address and re.search(r"[?#]", address):
            raise NotTaken(
                f"{address} has a # or ? in its name, which Iceberg's readers part it at"
            )
        return address

    @contextmanager
    def _trying(self) -> Iterator[None]:
        """What the library raises is told in a line, as whoever calls tries again."""
        try:
            yield
        except (ShardscribeError, NotTaken):
            raise
        except Exception as error:  # the library lets through what databases and servers raise
            raise NotTaken(self.name.told(error)) from None


def _transaction(table: Any) -> Any:
    """A transaction that is tried once, with no more of the table's past than it needs.

    Tried again by the library, files that another run of ours has added meanwhile would be in the
    table twice. It copies the metadata it starts from a dozen times, and a catalog applies what is
    new to its own: of 250 snapshots but the last, 1.0 s of 1.3 s that a race can be lost in.
    """
    from pyiceberg.table import TableProperties

    properties = {**table.metadata.properties, TableProperties.COMMIT_NUM_RETRIES: "0"}
    last = table.metadata.current_snapshot()
    small = {
        "properties": properties,
        "snapshots": [last] if last is not None else [],
        "snapshot_log": [],
        "metadata_log": [],
    }
    table.metadata = table.metadata.model_copy(update=small)
    return table.transaction()


def place_of(name: TableName) -> tuple[str, str | None]:
    """Where the files of a table go that has no place of its own for them.

    Returns:
        The address; and where the table is to be made, if there is none.

    Raises:
        JobError: The catalog has no such namespace, or does not say where the table will be.
    """
    table = name.load()
    if table is not None:
        return f"{table.location().rstrip('/')}/{OURS}", None
    namespace = name.name.rpartition(".")[0]
    with name.telling("looked for"):
        known = name.opened().namespace_exists(namespace)
    if not known:
        raise JobError(
            f"the catalog has no namespace {namespace}",
            hint="Check output.table and output.catalog, make the namespace, or name a place for "
            "the files as output.path: then it is made with the table",
        )
    location = staged(name)
    if staged(name) != location:
        raise JobError(
            f"the catalog has no Iceberg table {name.name}, and does not say where it will be",
            hint="Name a place for its files as output.path, or make the table",
        )
    return f"{location.rstrip('/')}/{OURS}", location


def staged(name: TableName) -> str:
    """Where a table would be if it were made; it is not."""
    with name.telling("made"):
        schema = pa.schema([("id", pa.int64())])
        transaction = name.opened().create_table_transaction(name.name, schema)
        return str(transaction.table_metadata.location)
