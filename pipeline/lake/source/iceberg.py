"""An Iceberg table, found by a catalog."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import JobError, ShardscribeError
from pipeline.lake.iceberg import TableName
from pipeline.lake.source.base import NothingThere
from pipeline.lake.source.iceberg_files import IcebergFiles
from pipeline.lake.source.table import moment_of
from pipeline.lake.source.table_files import TableFiles
from pipeline.lake.store.base import Store
from pipeline.lake.store.open import open_store
from pipeline.lake.store.places import is_within


@dataclass(frozen=True)
class IcebergTable:
    """An Iceberg table.

    Attributes:
        name: By which a catalog has it.
        asked: Which snapshot is wanted, by its id or a time; None for the latest.
        found: The table as it was listed, which needs no catalog. It goes to workers as it is,
            with what they need to read its files.
    """

    name: TableName
    asked: int | str | None = None
    found: Any = field(default=None, compare=False, repr=False)
    kind = "Iceberg table"

    @property
    def address(self) -> str:
        """As the job file writes it."""
        return self.name.name

    def overlaps(self, place: Store) -> bool:
        """Whether one of both places is in the other."""
        table = self._table()
        try:
            store = open_store(table.location())
        except ShardscribeError:
            return False  # a kind of place that nothing is written to here
        return is_within(place, store) or is_within(store, place)

    def files(self, version: int | None) -> IcebergFiles:
        """The files of a snapshot."""
        if version is not None and self.found is not None:
            return IcebergFiles(self.name, self.found, version, latest=self.asked is None)
        table = self._table()
        snapshot = self._snapshot(table) if version is None else table.snapshot_by_id(version)
        if snapshot is None:
            raise JobError(
                f"the Iceberg table {self.address} has no snapshot {version or self.asked}; it may "
                "have expired",
                hint="Name another as input.version, or none for the latest",
            )
        return IcebergFiles(self.name, table, snapshot.snapshot_id, latest=self.asked is None)

    def pinned(self, files: TableFiles) -> IcebergTable:
        """The same, with all that workers need to read its files."""
        from pyiceberg.catalog.noop import NoopCatalog
        from pyiceberg.table import StaticTable

        if not isinstance(files, IcebergFiles):
            return self
        table = files.table
        found = StaticTable(
            identifier=table.name(),
            metadata=table.metadata,
            metadata_location=table.metadata_location,
            io=table.io,
            catalog=NoopCatalog(self.address),
        )
        return replace(self, found=found)

    def _table(self) -> Any:
        table = self.name.load()
        if table is None:
            raise NothingThere(
                f"the catalog has no Iceberg table {self.address}",
                hint="Check input.table and input.catalog; a table is named namespace.table",
            )
        return table

    def _snapshot(self, table: Any) -> Any:
        if self.asked is None:
            snapshot = table.current_snapshot()
            if snapshot is None:
                raise NothingThere(
                    f"the Iceberg table {self.address} has no snapshot yet", hint="Write some rows"
                )
            return snapshot
        if isinstance(self.asked, int):
            return table.snapshot_by_id(self.asked)
        snapshot = table.snapshot_as_of_timestamp(int(moment_of(self.asked).timestamp() * 1000))
        if snapshot is None:
            raise JobError(
                f"the Iceberg table {self.address} had no snapshot yet at {self.asked}",
                hint="Set input.version to a later time, or to a snapshot's id",
            )
        return snapshot
