"""An Iceberg table as output."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import JobError, ShardscribeError
from pipeline.lake.iceberg import TableName, arrow_schema, plain
from pipeline.lake.sink.iceberg_schema import table_schema
from pipeline.lake.sink.ledger import APPLICATION
from pipeline.lake.sink.output_table import End, NotTaken, OutputVersion

# Below the table's place, beside what other writers have there.
OURS = "data/shardscribe"
RUN = "shardscribe.run"
MAPPING = "schema.name-mapping.default"
# An address that no reader takes for another: elsewhere in it, # and ? begin a part of its own.
SAFE = re.compile(r"[\w./=+,~@-]*")


@dataclass
class IcebergVersion:
    """What an Iceberg table is at a moment.

    Attributes:
        name: By which a catalog has it.
        table: As `pyiceberg` gives it.
        root: The address of the place of our files.
    """

    name: TableName
    table: Any
    root: str

    @property
    def number(self) -> str:
        """Where its metadata is: each change writes it anew."""
        return str(self.table.metadata_location)

    @cached_property
    def entries(self) -> dict[str, Any]:
        """Our data files in it, by path, as `pyiceberg` has them."""
        from pyiceberg.manifest import ManifestContent

        snapshot, root = self.table.current_snapshot(), f"{plain(self.root)}/"
        found = {}
        with self.name.telling("read"):
            for manifest in snapshot.manifests(self.table.io) if snapshot is not None else ():
                if manifest.content != ManifestContent.DATA:
                    continue
                for entry in manifest.fetch_manifest_entry(self.table.io):
                    address = plain(entry.data_file.file_path)
                    if address.startswith(root):
                        found[address.removeprefix(root)] = entry.data_file
        return found

    @property
    def files(self) -> dict[str, int]:
        """The data files, by path, with their sizes."""
        return {path: file.file_size_in_bytes for path, file in self.entries.items()}

    @cached_property
    def columns(self) -> dict[str, str]:
        """The columns, each as an Arrow type in words."""
        return {f.name: str(f.type) for f in arrow_schema(self.table.schema())}

    @property
    def problems(self) -> list[str]:
        """Why our files can't be its."""
        found = []
        if not self.table.spec().is_unpartitioned():
            names = ", ".join(field.name for field in self.table.spec().fields)
            found.append(f"it is partitioned by {names}, and the job's output is not")
        fields = self.table.schema().fields
        found += [f"its column `{f.name}` may not be null" for f in fields if f.required]
        return found

    def transactions(self, application: str) -> int:
        """The number that the last transaction of an application carried; 0 for none."""
        return int(self.table.properties.get(application, 0))


@dataclass(frozen=True)
class IcebergOutput:
    """An Iceberg table that takes data files.

    Attributes:
        name: By which a catalog has it.
        root: The address of the place of the files.
        location: Where the table is to be made; None if the catalog says so.
    """

    name: TableName
    root: str
    location: str | None = None
    format = "iceberg"

    def columns_of(self, schema: pa.Schema) -> dict[str, str]:
        """The columns of a file as the table's, each as an Arrow type in words."""
        return {field.name: str(field.type) for field in table_schema(schema)}

    def told(self, kind: str) -> str:
        """A column's type, for people."""
        return kind

    def look(self) -> IcebergVersion | None:
        """The table as it is now."""
        table = self.name.load()
        return None if table is None else IcebergVersion(self.name, table, self.root)

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
                with transaction.update_schema() as change:
                    change.union_by_name(columns)
            mapping = transaction.table_metadata.schema().name_mapping.model_dump_json()
            transaction.set_properties({
                **{name: str(number) for name, number in marks.items()},
                **({} if transaction.table_metadata.name_mapping() else {MAPPING: mapping}),
            })  # fmt: skip
            update = transaction.update_snapshot(snapshot_properties={RUN: run})
            with update.overwrite() if gone else update.fast_append() as producer:
                for path in gone:
                    assert now is not None
                    producer.delete_data_file(now.entries[path])
                for file in self._data_files(added, transaction.table_metadata):
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
    """A transaction that is tried once.

    Tried again by the library, files that another run of ours has added meanwhile would be in the
    table twice.
    """
    from pyiceberg.table import TableProperties

    properties = {**table.metadata.properties, TableProperties.COMMIT_NUM_RETRIES: "0"}
    table.metadata = table.metadata.model_copy(update={"properties": properties})
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
