"""What an output holds, counted from its footers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.driver.lease import Holder, holder
from pipeline.errors import ShardscribeError
from pipeline.job.check import check, pin
from pipeline.job.job import Job
from pipeline.job.places import sink_of
from pipeline.lake.plan import differences
from pipeline.lake.sink.base import Footer
from pipeline.lake.sink.open import as_found, open_sink
from pipeline.lake.store.base import Entry, Store
from pipeline.records.reader import RecordedRun, read_run, run_names
from pipeline.records.schema import RowCounts

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
        runs: The last runs, latest first.
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
    runs: list[RecordedRun] = field(default_factory=list)


def output_status(address: str, *, job: Job | None = None) -> Status:
    """Counts what an output holds.

    Args:
        address: Of the output.
        job: To tell what is left.

    Raises:
        JobError: The job is wrong or the output can't be listed.
    """
    named = job is not None and job.output.table is not None
    sink = sink_of(job) if job is not None and named else as_found(open_sink(address))
    entries = sink.present()
    status = Status(sink.address, runs=_last_runs(sink.own))
    footers = list(sink.look(entries))
    files: dict[str, int] = {}
    for entry, footer in zip(entries, footers, strict=True):
        if _count(status, entry, footer):
            there = footer.inside or entry
            files[there.path] = there.size
    status.files, status.bytes = len(files), sum(files.values())
    if job is not None:
        present = {entry.path for entry in entries}
        _compare(status, job, present, [footer.said for footer in footers if footer.said])
    return status


def _last_runs(own: Store) -> list[RecordedRun]:
    """The lease first: who gives it up has written the summary before."""
    held: Holder | None = None
    known = False
    with suppress(OSError, ShardscribeError):  # then it is not known who lives
        held = holder(own)
        known = True
    lives = {held.run: held.lives} if held is not None else {}
    names = run_names(own)[:RUNS_SHOWN]
    return [read_run(own, run, lives=lives.get(run, False if known else None)) for run in names]


def _count(status: Status, entry: Entry, footer: Footer) -> bool:
    """Adds the rows of a file; whether it is whole."""
    if footer.damage:
        status.damaged[entry.path] = footer.damage
    elif footer.unread:
        status.unread[entry.path] = footer.unread
    elif footer.said:
        status.rows.add(RowCounts.of(footer.said.get("rows")))
        return True
    return False


def _compare(
    status: Status, job: Job, present: Set[str], footers: Sequence[Mapping[str, Any]]
) -> None:
    """Tells what is left of a job, and which files are another's."""
    made = {str(footer.get("fingerprint")) for footer in footers}
    pinned = pin(check(job), like=made)
    splits = pinned.splits(there=present)
    others = [footer for footer in footers if footer.get("fingerprint") != pinned.fingerprint]
    status.others = len(others)
    if others:
        status.differs = differences(others[0].get("fingerprint_parts") or {}, pinned.parts)
    status.total = len(splits)
    whole = present - status.damaged.keys()
    status.left = sum(split.output_path not in whole for split in splits)
