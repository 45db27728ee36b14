"""One transaction of a Delta table, made against the very version that it was worked out for."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RunError, one_line
from pipeline.lake.at_once import each
from pipeline.lake.delta import files_of, library, load, location
from pipeline.lake.sink import delta_schema, ledger
from pipeline.lake.sink.delta_state import TableState
from pipeline.lake.sink.delta_stats import statistics
from pipeline.lake.sink.footers import said
from pipeline.lake.store.base import Entry, Store
from pipeline.lake.store.client import reason

# Another writer may win the race for a version again and again.
TRIES = 100
# Where nobody else has won, it is refused for a reason that won't go away.
REFUSALS = 3
# The library's own, for what only adds.
REBASES = 100
LONGEST_PAUSE = 1.0


@dataclass(frozen=True)
class Change:
    """What is to become of a table.

    Attributes:
        state: What it was worked out from.
        added: Files that the table is to get.
        removed: Files that are to go.
        incomplete: Inputs of which the table keeps what an earlier version of them gave, as what
            this one gives is not all there; of them nothing is added.
    """

    state: TableState
    added: Sequence[str]
    removed: Sequence[str]
    incomplete: Collection[str]


@dataclass(frozen=True)
class End:
    """What the end of a data file tells.

    Attributes:
        entry: The file.
        schema: Its columns.
        said: What it says of itself.
        stats: Its statistics, as a table's log has them.
    """

    entry: Entry
    schema: pa.Schema
    said: Mapping[str, Any]
    stats: str


def commit_strictly(
    store: Store, run: str, work_out: Callable[[], Change], guard: Callable[[], None]
) -> None:
    """Adds and removes files in one transaction, or none if nothing is to change.

    Where files are to go, it is made against the latest version or not at all, as another writer
    may take the same files out meanwhile; then all is worked out anew. What only adds goes beside
    what others did, unless that was a transaction of ours, too.

    Args:
        store: The table's place.
        run: The run's id.
        work_out: Looks at the table as it is.
        guard: Called right before the transaction.

    Raises:
        RunError: Others change the table all the time, or it refuses.
    """
    deltalake = library()
    ends: dict[str, End] = {}
    versions: Counter[int] = Counter()
    why = "others change it all the time"
    while versions.total() < TRIES and max(versions.values(), default=0) < REFUSALS:
        change = work_out()
        table, files = change.state.table, change.state.files
        versions[-1 if table is None else table.version()] += 1
        ends |= _read(store, [files[path] for path in change.added if path not in ends])
        added = [ends[path] for path in change.added]
        added = [end for end in added if end.said.get("input") not in change.incomplete]
        if not added and not change.removed:
            return
        try:
            if _commit(store, run, change, added, guard):
                break
        except (deltalake.exceptions.DeltaError, OSError) as error:
            why = one_line(reason(error), most=200)
            pause = min(LONGEST_PAUSE, 0.02 * 2 ** versions.total())
            time.sleep(random.uniform(0, pause))  # noqa: S311
    else:
        raise RunError(
            f"the table {store.root} takes no transaction: {why}",
            hint="All that is annotated is committed: run the same command again",
        )
    there = {entry.path for entry in store.entries()}
    gone = [end.entry.path for end in added if end.entry.path not in there]
    if gone:
        raise RunError(
            f"{len(gone)} files were removed while the table {store.root} took them, such as "
            f"{gone[0]}",
            hint="Let nobody vacuum files that are in no version of the table yet, and run the "
            "same command again",
        )


def _read(store: Store, entries: Sequence[Entry]) -> dict[str, End]:
    return {end.entry.path: end for end in each(lambda entry: _end(store, entry), entries)}


def _end(store: Store, entry: Entry) -> End:
    with closing(pq.ParquetFile(store.open(entry.path))) as file:
        metadata, schema = file.metadata, file.schema_arrow
    return End(entry, schema, said(metadata.metadata), statistics(metadata, schema))


def _commit(
    store: Store, run: str, change: Change, added: Sequence[End], guard: Callable[[], None]
) -> bool:
    """Tries once; False if all is to be worked out anew."""
    deltalake, table = library(), change.state.table
    columns = _columns(store, table, added)
    if table is not None and _has_more(table, columns):
        return False
    number = change.state.ledger.transactions + 1
    app = ledger.application(run)
    before = (table.transaction_version(app) or 0) if table is not None else 0
    listed = ledger.listed([(end.entry, end.said) for end in added], change.removed)
    at = ledger.write(store.own, run, listed, before=before, number=number)
    now = int(time.time() * 1000)
    actions = [
        deltalake.transaction.AddAction(end.entry.path, end.entry.size, {}, now, True, end.stats)
        for end in added
    ]
    properties = deltalake.CommitProperties(
        app_transactions=[
            deltalake.Transaction(app, at),
            deltalake.Transaction(ledger.APPLICATION, number),
        ],
        max_commit_retries=0 if change.removed else REBASES,
    )
    guard()
    if table is None:
        deltalake.transaction.create_table_with_add_actions(
            **location(store), schema=delta_schema.schema_of(columns), add_actions=actions,
            mode="error", commit_properties=properties,
        )  # fmt: skip
        return True
    if change.removed:
        # What is slow is done: others have little time left to be faster.
        table = load(store)
        sizes = files_of(table)
        ours = table.transaction_version(ledger.APPLICATION) or 0
        if ours != number - 1 or any(path not in sizes for path in change.removed):
            return False
        actions += [
            deltalake.transaction.RemoveAction(path, True, now, sizes[path], {})
            for path in change.removed
        ]
    table.create_write_transaction(actions, "append", table.schema(), commit_properties=properties)
    return True


def _columns(store: Store, table: Any, added: Sequence[End]) -> dict[str, str]:
    """The table's columns and those of the files, each with its type.

    Raises:
        RunError: Naming the file and the column that differ.
    """
    columns = delta_schema.fields_of(table.schema()) if table is not None else {}
    known: list[pa.Schema] = []
    for end in added:
        if any(end.schema.equals(schema) for schema in known):
            continue
        known.append(end.schema)
        ours = delta_schema.columns_of(end.schema)
        wrong = [*delta_schema.differing(ours, columns)]
        if wrong:
            raise RunError(
                f"{end.entry.path} can't go into the table {store.root}: {wrong[0]}",
                hint="Annotate into another output",
            )
        columns |= ours
    return columns


def _has_more(table: Any, columns: Mapping[str, str]) -> bool:
    """Adds columns that a table lacks, in a transaction of their own; whether there were any."""
    theirs = delta_schema.fields_of(table.schema())
    new = {name: kind for name, kind in columns.items() if name not in theirs}
    if new:
        table.alter.add_columns(delta_schema.schema_of(new).fields)
    return bool(new)
