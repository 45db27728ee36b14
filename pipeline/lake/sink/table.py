"""A table: files as of any output, and one transaction a run that makes them its rows."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from pipeline.errors import JobError, RunError, SplitError
from pipeline.lake.sink.base import CommittedFile, Footer, Merged
from pipeline.lake.sink.files import FileSink
from pipeline.lake.sink.output_table import NoSuchType, OutputTable, OutputVersion, differing
from pipeline.lake.sink.table_commit import Change, commit_strictly
from pipeline.lake.sink.table_state import TableState, look_at
from pipeline.lake.store.base import Entry

MEND = "Choose another output, or write the table anew"


class Seen:
    """What this process knows of a table. Pickled, it is nothing.

    Attributes:
        state: As it was when it was last looked at.
        doomed: Files that are to go with the next transaction.
    """

    def __init__(self) -> None:
        self.state: TableState | None = None
        self.doomed: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return Seen, ()


@dataclass(frozen=True)
class TableSink(FileSink):
    """Data files named by their splits, and a table that takes all of a run's in one transaction.

    A file that was committed and is in no transaction yet is nobody's but ours. What the table
    has had of us stays done, whatever other writers did to it since.

    Attributes:
        table: What the files are to be the rows of.
        columns: Those that files may have, each with its type, where a table or a first file has
            said so.
    """

    table: OutputTable
    columns: tuple[tuple[str, str], ...] = ()
    seen: Seen = field(default_factory=Seen, compare=False, repr=False)

    def declared(self, schema: pa.Schema) -> TableSink:
        """The same sink, knowing which columns files have; refuses a table that has others."""
        try:
            ours = self.table.columns_of(schema)
        except NoSuchType as error:
            raise JobError(
                f"output.format {self.table.format}: {error}",
                hint="Name the columns to carry in input.columns, or use output.format: parquet",
            ) from None
        version = self.table.look()
        if version is None:
            return replace(self, columns=tuple(ours.items()))
        self._refuse_other(version, ours)
        return replace(self, columns=tuple((dict(version.columns) | ours).items()))

    def _refuse_other(self, version: OutputVersion, ours: dict[str, str]) -> None:
        theirs = version.columns
        problems = [*differing(self.table, ours, theirs), *version.problems]
        if not problems and not look_at(self.store, version).ledger.transactions:
            problems += [f"the job gives no column `{name}`" for name in theirs if name not in ours]
            problems += [f"it has no column `{name}`" for name in ours if name not in theirs]
        if problems:
            raise JobError(f"the table {self.address} is not of this job: {problems[0]}", hint=MEND)

    def takes(self, schema: pa.Schema, *, where: str) -> None:
        """Refuses a file whose columns don't go with those of others."""
        try:
            ours = self.table.columns_of(schema)
        except NoSuchType as error:
            raise SplitError(f"{where}: {error}") from None
        wrong = [*differing(self.table, ours, dict(self.columns))]
        if wrong:
            raise SplitError(
                f"{where}: {wrong[0]}", hint="Write the file anew with the type of the others"
            )

    def present(self) -> list[Entry]:
        """What the table has had of us, and what is committed and not yet in it."""
        state = self._look()
        found = [*state.entries.values(), *state.merged.values()]
        return [entry for entry in found if entry.path not in self.seen.doomed]

    def look(self, entries: Sequence[Entry]) -> Iterator[Footer]:
        """Reads the ends of files; of those that are merged, what we know."""
        state = self._state()
        read = super().look([entry for entry in entries if entry.path not in state.merged])
        for entry in entries:
            known = state.ledger.added.get(entry.path)
            if entry.path in state.merged and known is not None:
                yield Footer(known[1])
            else:
                yield next(read)

    def open(self, path: str) -> CommittedFile:
        """Opens a file.

        Raises:
            Merged: Another writer has put its rows into other files.
        """
        if path in self._state().merged:
            raise Merged(f"the rows of {path} are in other files of the table by now")
        return super().open(path)

    def delete(self, path: str) -> None:
        """Has a file go with the next transaction; what is in none yet goes at once."""
        state = self._state()
        if path in state.active or path in state.ledger.added:
            self.seen.doomed.add(path)
        else:
            super().delete(path)

    def refuse(self, paths: Sequence[str], *, rewrite: str = "") -> None:
        """Refuses to remove what other writers have merged, and to write a data file again."""
        if rewrite:
            raise JobError(
                f"{rewrite}: the data files of the table {self.address} are never written again",
                hint="Mend the rows in the input; what has changed there is annotated again",
            )
        merged = sorted(path for path in paths if path in self._state().merged)
        if merged:
            raise _merged(self.address, merged)

    def finish(
        self, run: str, *, wanted: Container[str] = (), guard: Callable[[], None] = lambda: None
    ) -> None:
        """Brings the table in line with what is present, in one transaction of this run's."""

        def work_out() -> Change:
            state, doomed = self._look(), self.seen.doomed
            gone = sorted(path for path in doomed if path in state.merged)
            if gone:
                raise _merged(self.address, gone)
            return Change(
                state,
                state.missing(wanted, doomed),
                sorted(path for path in doomed if path in state.active),
                state.incomplete(wanted, doomed),
            )

        commit_strictly(self.store, self.table, run, work_out, guard)
        self.seen.doomed.clear()

    def _look(self) -> TableState:
        self.seen.state = look_at(self.store, self.table.look())
        return self.seen.state

    def _state(self) -> TableState:
        return self.seen.state or self._look()


def _merged(address: str, paths: Sequence[str]) -> RunError:
    return RunError(
        f"{len(paths)} files of the table {address} should be replaced, but another writer has "
        f"put their rows into other files ({paths[0]} is the first)",
        hint="Restore the table to a version before that, or annotate into another output",
    )
