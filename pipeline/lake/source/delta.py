"""A Delta table, found by its log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.errors import JobError
from pipeline.lake.delta import load, telling
from pipeline.lake.source.base import NothingThere
from pipeline.lake.source.delta_files import DeltaFiles, made_at, refuse_mapping
from pipeline.lake.source.table import moment_of
from pipeline.lake.source.table_files import TableFiles
from pipeline.lake.store.base import Store
from pipeline.lake.store.places import is_within


@dataclass(frozen=True)
class DeltaTable:
    """A Delta table.

    Attributes:
        store: Its place.
        address: As the job file writes it.
        asked: Which version is wanted, by number or time; None for the latest.
    """

    store: Store
    address: str
    asked: int | str | None = None
    kind = "Delta table"

    def overlaps(self, place: Store) -> bool:
        """Whether one of both places is in the other."""
        return is_within(place, self.store) or is_within(self.store, place)

    def files(self, version: int | None) -> DeltaFiles:
        """The files of a version."""
        table = self._load(version)
        refuse_mapping(self.store, table)
        return DeltaFiles(self.store, table)

    def pinned(self, files: TableFiles) -> DeltaTable:
        """The same: a version is found by its number."""
        return self

    def _load(self, version: int | None) -> Any:
        asked = self.asked if version is None else version
        table = load(self.store, asked if isinstance(asked, int) else None)
        if table is None:
            raise NothingThere(f"{self.address} is no Delta table any more")
        if isinstance(asked, str):
            with telling(self.store, f"read as of {asked}"):
                moment = moment_of(asked)
                table.load_as_version(moment)
            # The library takes the first version for all times before it.
            if made_at(self.store, table.version()) > moment.timestamp() * 1000:
                raise JobError(
                    f"the Delta table {self.address} had no version yet at {asked}",
                    hint="Set input.version to a later time, or to a number",
                )
        return table
