"""What a sink is asked for: an output, as what is present, a commit per split, a finish per run."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from pipeline.lake.source.base import Source
from pipeline.lake.split import Split
from pipeline.lake.store.base import Entry, Store


class Damaged(Exception):
    """A committed file is not what was committed; the message names it."""


class Merged(Exception):
    """A committed file's rows are in other files by now; the message names it."""


@dataclass(frozen=True, slots=True)
class Footer:
    """What a committed file tells of itself, without being read.

    Attributes:
        said: What was said of it when it was committed; empty if shardscribe did not write it, or
            nothing can be told.
        damage: Why it can't be whole.
        unread: Why nothing can be told, such as a disk or a store that does not answer.
        inside: The file that its rows are in, where that is another one by now.
    """

    said: dict[str, Any] = field(default_factory=dict)
    damage: str = ""
    unread: str = ""
    inside: Entry | None = None


class CommittedFile(Protocol):
    """A committed file that is open for reading, of which every byte is as it was committed."""

    @property
    def said(self) -> dict[str, Any]:
        """What was said of it when it was committed."""

    @property
    def names(self) -> list[str]:
        """Its columns."""

    @property
    def rows(self) -> int:
        """How many rows it has."""

    def batches(self) -> Iterator[pa.Table]:
        """Its rows in order, a bounded batch at a time.

        Raises:
            Damaged: They can't be read.
        """

    def close(self) -> None:
        """Lets go of it."""


class Sink(Protocol):
    """A kind of output. It pickles: a worker is given it, and commits splits to it.

    What is committed is named by its split, so that one listing tells what is done.
    """

    @property
    def address(self) -> str:
        """The whole of it, for messages."""

    @property
    def own(self) -> Store:
        """Where the lease, the marks of owners, records and the like are; nobody reads them."""

    @property
    def scratch(self) -> Path:
        """A local directory for files that are not finished."""

    def where(self, path: str) -> str:
        """The full address of a committed file, for messages."""

    def check(self, source: Source) -> None:
        """Refuses what can't be written, or what a reader of the input would take for input.

        Raises:
            JobError: With what to do about it.
        """

    def declared(self, schema: pa.Schema) -> Sink:
        """The same sink, for files of these columns, some of which may be carried by none of them.

        Raises:
            JobError: It can't hold them, or is there with others.
        """

    def takes(self, schema: pa.Schema, *, where: str) -> None:
        """Looks whether a file of these columns can be committed.

        Args:
            schema: Of the file.
            where: Of which input file it is, for messages.

        Raises:
            SplitError: It can't.
        """

    def present(self) -> list[Entry]:
        """What is there now, by whomever.

        Raises:
            JobError: It can't be listed; a part of it would be worse than nothing.
        """

    def entry(self, path: str) -> Entry | None:
        """A file as it is now; None if it is not there."""

    def look(self, entries: Sequence[Entry]) -> Iterator[Footer]:
        """What files tell of themselves, in their order."""

    def open(self, path: str) -> CommittedFile:
        """Opens a committed file, all of whose bytes are looked at.

        Raises:
            Damaged: They are not those that were committed.
            Merged: Another program has put its rows elsewhere.
            OSError: They can't be read.
            SplitError: Likewise.
        """

    def commit(self, split: Split, file: Path, *, guard: Callable[[], None]) -> bool:
        """Makes a finished scratch file a split's, whole or not at all: the one commit point.

        Killed before it, there is a scratch file that nobody reads; killed after it, the split is
        done. Of several that commit one split at once, one does.

        Args:
            split: Whose file it is. One with `replace` takes the place of what is there.
            file: Below `scratch`, closed and checked. It may be gone afterwards.
            guard: Called right before the file appears; raises if it may not.

        Returns:
            False if a file of the same split was there already, which is then left as it is.

        Raises:
            SplitError: It can't be written.
            RunError: Another split's file has its name.
        """

    def delete(self, path: str) -> None:
        """Removes a committed file; nothing happens if it is gone already."""

    def refuse(self, paths: Sequence[str], *, rewrite: str = "") -> None:
        """Refuses early what it could not do later.

        Args:
            paths: Files that are to be removed.
            rewrite: What would have files written again that are as they were committed, if
                anything does.

        Raises:
            JobError: Files are never written again.
            RunError: A file can't be removed.
        """

    def finish(self, run: str, *, wanted: Container[str], guard: Callable[[], None]) -> None:
        """Called when all splits of a run have ended, some of them maybe in failure.

        For what is more than its files, such as a table: when this returns, the table holds what
        `present` gives, and no other files of ours.

        A run that has nothing to annotate calls it, too, as the one before it may have died before
        this, in it, or after it without anybody's knowing. So it is called again for what it has
        done already, with the same run or another one, and must then change nothing: it looks
        first whether a transaction of the table carries the run's id, and compares what the table
        holds with what is present. What it changes, it changes in one transaction that carries the
        run's id, so that it is done wholly or not at all, wherever it is killed. It should be
        quick where nothing has changed.

        Args:
            run: The run's id.
            wanted: The output files of all splits of the dataset, there or not.
            guard: Called right before that transaction; raises if it may not be.

        Raises:
            RunError: It can't be done now. The next run tries again.
        """
