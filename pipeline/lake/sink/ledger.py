"""Which files our transactions of a table have added and removed, whatever became of them since.

Compaction takes our files out of a table and puts their rows into others, and later the table's log
forgets that it ever had them. So each transaction leaves a list, written before it, among our own
files. The table decides which lists count: a transaction carries the run's id and the number of its
list as an application's id and version, which a table keeps for ever; and the count of all our
transactions, by which a list that is lost is missed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import JobError
from pipeline.lake.sink.output_table import OutputVersion
from pipeline.lake.store.base import Entry, Store

DIRECTORY = "table"
APPLICATION = "shardscribe"
SCHEMA = pa.schema(
    [("path", pa.binary()), ("added", pa.bool_()), ("size", pa.int64()), ("said", pa.string())]
)
# What is kept of a file's footer, for when the file is gone.
KEPT = ("split", "input", "fingerprint", "job", "rows")


@dataclass
class Ledger:
    """What our transactions did to a table.

    Attributes:
        added: Files that were added and that we have not removed, with what they say.
        removed: Files that we have removed, and not added again.
        transactions: How many they were.
    """

    added: dict[str, tuple[Entry, dict[str, Any]]] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    transactions: int = 0

    def apply(self, content: pa.Table) -> None:
        """Takes the next transaction's list in."""
        for row in content.to_pylist():
            path = os.fsdecode(row["path"])
            if row["added"]:
                entry = Entry(path, row["size"], "in the table")
                self.added[path] = (entry, json.loads(row["said"]))
                self.removed.discard(path)
            else:
                self.added.pop(path, None)
                self.removed.add(path)


def application(run: str) -> str:
    """The application's id by which a table knows a run."""
    return f"{APPLICATION}/{run}"


def holds_table(own: Store) -> bool:
    """Whether files have been put into a table, as far as our own files of their place tell."""
    return bool(own.names(DIRECTORY))


def listed(added: Iterable[tuple[Entry, Mapping[str, Any]]], removed: Iterable[str]) -> pa.Table:
    """A transaction's list.

    Args:
        added: Files, and what their footers say.
        removed: Files.
    """
    rows = [
        {
            "path": os.fsencode(entry.path),  # not all names are UTF-8
            "added": True,
            "size": entry.size,
            "said": json.dumps({key: said[key] for key in KEPT if key in said}),
        }
        for entry, said in added
    ]
    rows += [{"path": os.fsencode(path), "added": False} for path in removed]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write(own: Store, run: str, content: pa.Table, *, before: int, number: int) -> int:
    """Writes the list of a transaction that is about to be.

    Args:
        own: Where our own files are.
        run: The run's id.
        content: From `listed`.
        before: The number of the run's list before it that counts, 0 if there is none.
        number: Which of all our transactions this will be, from 1.

    Returns:
        The list's number in its run. Each is written once: no try of a transaction changes what
        an earlier one says, should that one have come to pass unseen.
    """
    said = {"before": str(before), "number": str(number)}
    content = content.replace_schema_metadata(said)
    sink = pa.BufferOutputStream()
    pq.write_table(content, sink, compression="zstd", write_page_checksum=True)
    at = before + 1
    while not own.create(_path(run, at), sink.getvalue().to_pybytes()):
        at += 1
    return at


def read(own: Store, version: OutputVersion) -> Ledger:
    """What the transactions of a table's version did.

    Args:
        own: Where our own files are.
        version: The table.

    Raises:
        JobError: A list is missing or damaged.
    """
    ledger = Ledger()
    lists = sorted(
        (content for run in own.names(DIRECTORY) for content in _lists(own, version, run)),
        key=lambda content: int(content.schema.metadata[b"number"]),
    )
    for content in lists:
        ledger.apply(content)
    ledger.transactions = len(lists)
    known = version.transactions(APPLICATION)
    if known != len(lists):
        raise JobError(
            f"the table has {known} transactions of ours, and {own.root} knows of {len(lists)}: "
            "which rows are in the table already can't be told",
            hint=f"Bring {own.root}/{DIRECTORY} back as it was, or choose another output",
        )
    return ledger


def _lists(own: Store, version: OutputVersion, run: str) -> list[pa.Table]:
    found = []
    at = version.transactions(application(run))
    while at:
        raw = own.read(_path(run, at))
        if raw is None:
            break  # the count tells
        try:
            content = pq.read_table(pa.BufferReader(raw), page_checksum_verification=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise JobError(
                f"{own.address(_path(run, at))} is damaged: which rows are in the table already "
                "can't be told",
                hint="Bring it back as it was, or choose another output",
            ) from error
        found.append(content)
        at = int(content.schema.metadata[b"before"])
    return found


def _path(run: str, at: int) -> str:
    return f"{DIRECTORY}/{run}/{at:06}.list"
