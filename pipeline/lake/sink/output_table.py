"""What is asked of a kind of table as output: what it holds, and one transaction of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.lake.store.base import Entry


class NoSuchType(Exception):
    """A column that a table can't hold; the message says why."""


class NotTaken(Exception):
    """A transaction that a table has not taken, or nobody knows; the message says why."""


@dataclass(frozen=True)
class End:
    """What the end of a data file tells.

    Attributes:
        entry: The file.
        schema: Its columns.
        said: What it says of itself.
        stats: Its statistics, as its table wants them.
    """

    entry: Entry
    schema: pa.Schema
    said: Mapping[str, Any]
    stats: Any


class OutputVersion(Protocol):
    """What a table is at a version."""

    @property
    def number(self) -> Hashable:
        """Another one for each version."""

    @property
    def files(self) -> Mapping[str, int]:
        """The data files that are in our place, by path in it, with their sizes."""

    @property
    def columns(self) -> Mapping[str, str]:
        """Its columns, each with its type as `OutputTable.columns_of` has it."""

    @property
    def problems(self) -> Collection[str]:
        """Why our files can't be its."""

    def transactions(self, application: str) -> int:
        """The number that the last transaction of an application carried; 0 for none."""


class OutputTable(Protocol):
    """A table that takes data files, existing or not. It pickles."""

    @property
    def format(self) -> str:
        """As `output.format` has it."""

    def columns_of(self, schema: pa.Schema) -> dict[str, str]:
        """The columns of a file as the table's, each with its type.

        Raises:
            NoSuchType: Of a column, which it names.
        """

    def told(self, kind: str) -> str:
        """A column's type, for people."""

    def look(self) -> OutputVersion | None:
        """The table as it is now; None if there is none.

        Raises:
            JobError: It can't be read.
        """

    def statistics(self, metadata: pq.FileMetaData, schema: pa.Schema) -> Any:
        """What a transaction will want to know of a file."""

    def widened(self, version: OutputVersion | None, added: Sequence[End]) -> bool:
        """Adds columns that the table lacks, where that takes a transaction of its own.

        Returns:
            Whether there were any.

        Raises:
            NotTaken: The table did not take it.
        """

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
        """Adds and removes files in one transaction.

        Args:
            version: The table that it was worked out for, or None to make it.
            added: Files.
            removed: Paths of files that are in it.
            run: The run's id.
            marks: What the transaction carries: by application, the number of its transaction.
            guard: Called right before it.

        Returns:
            False if the table has changed, so that all has to be worked out anew.

        Raises:
            NotTaken: The table did not take it, or it is not known whether it did.
        """


def differing(
    table: OutputTable, columns: Mapping[str, str], there: Mapping[str, str]
) -> Iterable[str]:
    """Which columns a table has with another type, in words."""
    for name, kind in columns.items():
        if there.get(name, kind) != kind:
            yield (
                f"column `{name}` is {table.told(kind)}, and {table.told(there[name])} in the table"
            )


def united(
    table: OutputTable, version: OutputVersion | None, added: Iterable[End]
) -> tuple[dict[str, str], list[str]]:
    """The columns of a table and of files, each with its type.

    Returns:
        The columns; and what is wrong, naming the file and the column that differ.
    """
    columns = dict(version.columns) if version is not None else {}
    wrong: list[str] = []
    known: list[pa.Schema] = []
    for end in added:
        if any(end.schema.equals(schema) for schema in known):
            continue
        known.append(end.schema)
        ours = table.columns_of(end.schema)
        wrong += [f"{end.entry.path}: {said}" for said in differing(table, ours, columns)]
        columns |= ours
    return columns, wrong
