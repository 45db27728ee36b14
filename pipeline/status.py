"""What an output holds, counted from its footers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from pipeline.job.check import check, pin
from pipeline.job.job import Job
from pipeline.lake.plan import differences
from pipeline.lake.sink.footers import look_all
from pipeline.lake.split import SUFFIXES
from pipeline.lake.store.base import Store
from pipeline.lake.store.open import open_store
from pipeline.records.record import RowCounts

RUNS_SHOWN = 5


@dataclass
class Status:
    """How far a job's output is.

    Attributes:
        output: Its address.
        files: Annotated files there.
        rows: As their footers count them.
        bytes: Their size.
        damaged: Files that are not what was committed, as far as their size and end tell, and why.
        unread: Files that can't be read, and why.
        left: Input splits without a file; None if no job was given.
        total: Input splits; None if no job was given.
        others: Annotated files of a job that gives other results; 0 if no job was given.
        differs: In what that job differs, as ``tasks.pii.aggregation was first, is max``.
        runs: Summaries of the last runs, latest first.
    """

    output: str
    files: int = 0
    rows: RowCounts = field(default_factory=RowCounts)
    bytes: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    left: int | None = None
    total: int | None = None
    others: int = 0
    differs: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)


def output_status(address: str, *, job: Job | None = None) -> Status:
    """Counts what an output holds.

    Args:
        address: Of the output.
        job: To tell what is left.

    Raises:
        JobError: The job is wrong or the output can't be listed.
    """
    store = open_store(address)
    entries = [entry for entry in store.entries() if entry.path.endswith(SUFFIXES)]
    status = Status(store.root, runs=last_runs(store))
    footers = list(look_all(store, entries))
    for entry, footer in zip(entries, footers, strict=True):
        if footer.damage:
            status.damaged[entry.path] = footer.damage
        elif footer.unread:
            status.unread[entry.path] = footer.unread
        elif footer.said:
            status.files += 1
            status.bytes += entry.size
            for name in RowCounts.model_fields:
                number = (footer.said.get("rows") or {}).get(name, 0)
                setattr(status.rows, name, getattr(status.rows, name) + number)
    if job is not None:
        present = {entry.path for entry in entries} - status.damaged.keys()
        made = {str(footer.said.get("fingerprint")) for footer in footers}
        pinned = pin(check(job), like=made)
        splits = pinned.splits()
        others = [
            footer.said
            for footer in footers
            if footer.said and footer.said.get("fingerprint") != pinned.fingerprint
        ]
        status.others = len(others)
        if others:
            before = others[0].get("fingerprint_parts") or {}
            status.differs = differences(before, pinned.parts)
        status.total = len(splits)
        status.left = sum(split.output_path not in present for split in splits)
    return status


def last_runs(store: Store) -> list[dict[str, Any]]:
    """The summaries of the last runs, latest first; of a run that died, its name alone."""
    runs = sorted(store.own.names("runs"), reverse=True)[:RUNS_SHOWN]
    found: list[dict[str, Any]] = []
    for run in runs:
        raw = store.own.read(f"runs/{run}/summary.json")
        found.append(json.loads(raw) if raw else {"run": run, "state": "died or is running"})
    return found
