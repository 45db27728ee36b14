"""What a table has of our files, what it has had, and what is committed and not yet in it."""

from __future__ import annotations

import posixpath
from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property

from pipeline.lake.sink import ledger as ledgers
from pipeline.lake.sink.ledger import Ledger
from pipeline.lake.sink.output_table import OutputVersion
from pipeline.lake.split import OUTPUT_NAME
from pipeline.lake.store.base import Entry, Store


@dataclass(frozen=True)
class TableState:
    """What there was of our files at a version of a table.

    Attributes:
        version: The table; None if there is none yet.
        files: Those in the place, by path, whether or not in the table.
        active: The sizes of those that the table's version has.
        ledger: What our transactions did before.
    """

    version: OutputVersion | None
    files: dict[str, Entry]
    active: dict[str, int]
    ledger: Ledger

    @cached_property
    def merged(self) -> dict[str, Entry]:
        """Files that others have taken out of the table; their rows are elsewhere, or nowhere."""
        added = self.ledger.added
        return {path: entry for path, (entry, _) in added.items() if path not in self.active}

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Files that are there and are the table's, or are to become its."""
        passed = self.ledger.removed
        return {
            path: entry
            for path, entry in self.files.items()
            if path in self.active or (path not in self.merged and path not in passed)
        }

    def missing(self, wanted: Container[str], doomed: Container[str]) -> list[str]:
        """Files that the table is to get.

        Also what it has had, that went, and that is wanted again, as an input that is as it was
        before; and what was written anew and is of another size than the table has it.

        Args:
            wanted: Output files of all splits.
            doomed: Files that are to go.
        """
        again = {path: e for path, e in self.files.items() if path in self.ledger.removed}
        again = {path: entry for path, entry in again.items() if path in wanted}
        waiting = {
            path
            for path, entry in (self.entries | again).items()
            if path not in doomed and self.active.get(path) != entry.size
        }
        return sorted(waiting)

    def incomplete(self, wanted: Container[str], doomed: Container[str]) -> set[str]:
        """Inputs of which the table still has what an earlier version of them gave."""
        return {
            str(said.get("input"))
            for path, (_, said) in self.ledger.added.items()
            if path in self.active and path not in wanted and path not in doomed
        }


def look_at(store: Store, version: OutputVersion | None) -> TableState:
    """What there is now.

    Args:
        store: The place.
        version: Its table, if there is one; listed before the place, so that what is in the table
            and was written since is there.
    """
    active = version.files if version is not None else {}
    ledger = ledgers.read(store.own, version) if version is not None else Ledger()
    files = {e.path: e for e in store.entries() if OUTPUT_NAME.match(posixpath.basename(e.path))}
    ours = {path: size for path, size in active.items() if path in files or path in ledger.added}
    return TableState(version, files, ours, ledger)
