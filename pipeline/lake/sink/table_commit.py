"""One transaction of a table, made against the very version that it was worked out for."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import closing
from dataclasses import dataclass

import pyarrow.parquet as pq

from pipeline.errors import RunError
from pipeline.lake.at_once import each
from pipeline.lake.sink import ledger
from pipeline.lake.sink.footers import said
from pipeline.lake.sink.output_table import End, NotTaken, OutputTable, united
from pipeline.lake.sink.table_state import TableState
from pipeline.lake.store.base import Entry, Store

# Another writer may win the race for a version again and again.
TRIES = 100
# Where nobody else has won, it is refused for a reason that won't go away.
REFUSALS = 3
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


def commit_strictly(
    store: Store,
    table: OutputTable,
    run: str,
    work_out: Callable[[], Change],
    guard: Callable[[], None],
) -> None:
    """Adds and removes files in one transaction, or none if nothing is to change.

    Where files are to go, it is made against the latest version or not at all, as another writer
    may take the same files out meanwhile; then all is worked out anew. What only adds goes beside
    what others did, unless that was a transaction of ours, too.

    Args:
        store: The table's place.
        table: Which.
        run: The run's id.
        work_out: Looks at the table as it is.
        guard: Called right before the transaction.

    Raises:
        RunError: Others change the table all the time, or it refuses.
    """
    ends: dict[str, End] = {}
    versions: Counter[Hashable] = Counter()
    why = "others change it all the time"
    while versions.total() < TRIES and max(versions.values(), default=0) < REFUSALS:
        change = work_out()
        version, files = change.state.version, change.state.files
        versions[None if version is None else version.number] += 1
        ends |= _read(store, table, [files[path] for path in change.added if path not in ends])
        added = [ends[path] for path in change.added]
        added = [end for end in added if end.said.get("input") not in change.incomplete]
        if not added and not change.removed:
            return
        try:
            if _commit(store, table, run, change, added, guard):
                break
        except (NotTaken, OSError) as error:
            why = str(error)
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


def _read(store: Store, table: OutputTable, entries: Sequence[Entry]) -> dict[str, End]:
    found = each(lambda entry: _end(store, table, entry), entries)
    return {end.entry.path: end for end in found}


def _end(store: Store, table: OutputTable, entry: Entry) -> End:
    with closing(pq.ParquetFile(store.open(entry.path))) as file:
        metadata, schema = file.metadata, file.schema_arrow
    stats = table.statistics(metadata, schema)
    return End(entry, schema, said(metadata.metadata), stats)


def _commit(
    store: Store,
    table: OutputTable,
    run: str,
    change: Change,
    added: Sequence[End],
    guard: Callable[[], None],
) -> bool:
    """Tries once; False if all is to be worked out anew."""
    version = change.state.version
    _, wrong = united(table, version, added)
    if wrong:
        raise RunError(
            f"not all files can go into the table {store.root}: {wrong[0]}",
            hint="Annotate into another output",
        )
    if table.widened(version, added):
        return False
    number = change.state.ledger.transactions + 1
    app = ledger.application(run)
    before = version.transactions(app) if version is not None else 0
    listed = ledger.listed([(end.entry, end.said) for end in added], change.removed)
    at = ledger.write(store.own, run, listed, before=before, number=number)
    marks = {app: at, ledger.APPLICATION: number}
    return table.commit(version, added, change.removed, run=run, marks=marks, guard=guard)
