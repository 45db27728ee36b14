"""The one commit point: a finished file appears under its name, whole, once.

Written to scratch, closed, read back, checked, then put create-only. Killed before that, there
is a scratch file that nobody reads; killed after it, the split is done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RunError, SplitError
from pipeline.lake.sink.footers import FOOTER_KEY, read_footer
from pipeline.lake.sink.seal import BLANK, SEAL_KEY, seal
from pipeline.lake.store.base import Store
from pipeline.lake.store.process import is_gone, scratch_name

SCRATCH_NAME = re.compile(r"^\.?(.*)~(\d+)~(.*)~[0-9a-f]+\.tmp$")
# A living worker writes to its scratch file at least once a window.
SCRATCH_SECONDS = 24 * 3600.0


class OutputFile:
    """An output file in the making.

    Args:
        store: The output.
        path: The file's name there.
        schema: Of the whole file, declared before the first row.
        compression: Parquet compression, or ``none``.
    """

    def __init__(self, store: Store, path: str, schema: pa.Schema, *, compression: str) -> None:
        self.store = store
        self.path = path
        self.schema = schema
        self.rows = 0
        self.size = 0
        try:
            self.scratch = scratch_file(store)
            self._writer = pq.ParquetWriter(
                self.scratch, schema, compression=compression,
                write_page_index=True, write_page_checksum=True,
            )  # fmt: skip
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        try:
            self._writer.write_table(table)
        except OSError as error:
            raise self._unwritable(error) from error
        self.rows += table.num_rows

    def publish(
        self,
        footer: Mapping[str, Any],
        *,
        rows: int,
        replace: bool = False,
        guard: Callable[[], None] = lambda: None,
    ) -> bool:
        """Closes, checks and publishes the file.

        Args:
            footer: What to say of the file in its footer; holds at least ``split``.
            rows: How many rows it must have.
            replace: Take the place of an earlier file of this split, instead of leaving it.
            guard: Called right before the file appears; raises if it may not.

        Returns:
            Whether it was published; False if the same split was there already.

        Raises:
            SplitError: The file is not what it should be.
            RunError: Another split's file has this name.
        """
        said = json.dumps(dict(footer)).encode()
        self._writer.add_key_value_metadata({FOOTER_KEY: said, SEAL_KEY: BLANK})
        try:
            try:
                self._writer.close()
                self.size = seal(self.scratch)
            except OSError as error:
                raise self._unwritable(error) from error
            self._check(rows)
            guard()
            if replace:
                self.store.replace(self.path, self.scratch)
                return True
            if self.store.put_new(self.path, self.scratch):
                return True
            there = read_footer(self.store, self.path).get("split")
            if there != footer["split"]:
                raise RunError(
                    f"{self.store.address(self.path)} exists and is of split {there}, "
                    f"not {footer['split']}",
                    hint="Something else writes to this output: choose another directory",
                )
            return False
        finally:
            self.discard()

    def discard(self) -> None:
        """Removes the scratch file."""
        if self._writer.is_open:
            self._writer.close()
        with suppress(OSError):  # it may be the file that is committed already
            self.scratch.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> SplitError:
        return SplitError(
            f"the output {self.store.root} can't be written: {error.strerror or error}",
            hint="Check its permissions and free space",
        )

    def _check(self, rows: int) -> None:
        with pq.ParquetFile(self.scratch) as file:
            if file.metadata.num_rows != rows:
                raise SplitError(
                    f"{self.path}: {rows} rows came in, {file.metadata.num_rows} would go out"
                )
            if not file.schema_arrow.equals(self.schema):
                raise SplitError(f"{self.path}: the file's schema is not the declared one")


def clean_scratch(directory: Path, *, now: float) -> int:
    """Removes what killed workers left behind.

    Args:
        directory: Of scratch files, or of small files that are written beside their name.
        now: The time, in seconds since the epoch.

    Returns:
        How many files went: those of dead processes of this machine, and those of other machines
        that nobody has written to for a day.
    """
    removed = 0
    if directory.is_dir():
        # The second is what a lease was written to before names said whose they are.
        for path in (*directory.glob("*.tmp"), *directory.glob(".lease.json.*")):
            owner = SCRATCH_NAME.match(path.name)
            with suppress(FileNotFoundError):
                gone = owner is not None and is_gone(owner[1], int(owner[2]), owner[3])
                if gone or now - path.stat().st_mtime > SCRATCH_SECONDS:
                    path.unlink()
                    removed += 1
    return removed


def scratch_file(store: Store) -> Path:
    """A new name in a store's scratch directory, which is made."""
    directory = store.scratch()
    directory.mkdir(parents=True, exist_ok=True)
    return directory / scratch_name()
