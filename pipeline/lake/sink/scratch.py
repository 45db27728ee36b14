"""Files that are not finished: written to scratch, closed, read back and checked."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import SplitError
from pipeline.lake.sink.base import Sink
from pipeline.lake.sink.footers import FOOTER_KEY
from pipeline.lake.sink.seal import BLANK, SEAL_KEY, seal
from pipeline.lake.store.process import is_gone, scratch_name

SCRATCH_NAME = re.compile(r"^\.?(.*)~(\d+)~(.*)~[0-9a-f]+\.tmp$")
# A row group is not larger, however many rows it should have: they are held until it is written.
HELD_BYTES = 256 * 1024 * 1024
# A living worker writes to its scratch file at least once a batch, or once a row group.
SCRATCH_SECONDS = 24 * 3600.0
# A page is written in several pieces, each a call of the system without it.
BUFFER_BYTES = 1 << 16
MAGIC = b"PAR1"


class OutputFile:
    """A split's file in the making.

    Args:
        sink: What it is for.
        path: The name that it will have there.
        schema: Of the whole file, declared before the first row.
        compression: Parquet compression, or ``none``.
        row_group: How many rows to a row group; as many as are written at once, by default.

    Attributes:
        scratch: Where it is until it is committed.
        rows: Written so far.
        size: Of the closed file, in bytes.
    """

    def __init__(
        self,
        sink: Sink,
        path: str,
        schema: pa.Schema,
        *,
        compression: str,
        row_group: int | None = None,
    ) -> None:
        self.sink = sink
        self.path = path
        self.schema = schema
        self.rows = 0
        self.size = 0
        self._row_group = row_group
        self._held: list[pa.Table] = []
        try:
            self.scratch = scratch_file(sink.scratch)
            self._file = pa.BufferedOutputStream(pa.OSFile(str(self.scratch), "wb"), BUFFER_BYTES)
            self._writer = pq.ParquetWriter(
                self._file, schema, compression=compression, use_dictionary=_repeating(schema),
                write_page_index=True, write_page_checksum=True,
            )  # fmt: skip
        except OSError as error:
            raise self._unwritable(error) from error

    @property
    def written(self) -> int:
        """Bytes so far."""
        return self.size if self._file.closed else int(self._file.tell())

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        self.rows += table.num_rows
        if self._row_group is None:
            self._write(table)
            return
        self._held.append(table)
        held = sum(part.num_rows for part in self._held)
        if held >= self._row_group:
            whole = pa.concat_tables(self._held)
            end = held - held % self._row_group
            for at in range(0, end, self._row_group):
                self._write(whole.slice(at, self._row_group))
            self._held = [whole.slice(end)] if end < held else []
        elif sum(part.nbytes for part in self._held) > HELD_BYTES:
            self._write_held()

    def _write_held(self) -> None:
        if self._held:
            self._write(pa.concat_tables(self._held))
            self._held = []

    def _write(self, table: pa.Table) -> None:
        try:
            self._writer.write_table(table)
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self, footer: Mapping[str, Any], *, rows: int) -> None:
        """Finishes the file, so that it can be committed.

        Args:
            footer: What to say of the file in its footer; holds at least ``split``.
            rows: How many rows it must have.

        Raises:
            SplitError: The file is not what it should be.
        """
        self._write_held()
        said = json.dumps(dict(footer)).encode()
        self._writer.add_key_value_metadata({FOOTER_KEY: said, SEAL_KEY: BLANK})
        try:
            self._writer.close()
            self._file.close()
            self.size, footer_bytes = seal(self.scratch)
        except OSError as error:
            raise self._unwritable(error) from error
        self._check(footer_bytes, rows)

    def discard(self) -> None:
        """Removes the scratch file."""
        if self._writer.is_open:
            self._writer.close()
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):  # it may be the file that is committed already
            self.scratch.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> SplitError:
        return SplitError(
            f"the output {self.sink.address} can't be written: {error.strerror or error}",
            hint="Check its permissions and free space",
        )

    def _check(self, footer: bytes, rows: int) -> None:
        with pq.ParquetFile(pa.BufferReader(MAGIC + footer)) as file:
            if file.metadata.num_rows != rows:
                raise SplitError(
                    f"{self.path}: {rows} rows came in, {file.metadata.num_rows} would go out"
                )
            if not file.schema_arrow.equals(self.schema):
                raise SplitError(f"{self.path}: the file's schema is not the declared one")


def _repeating(schema: pa.Schema) -> bool | list[str]:
    """The columns that may repeat, as Parquet names them: the numbers of vectors do not.

    Looking for repeats takes longer than all else of writing a vector.
    """
    vectors = [field.name for field in schema if _is_vector(field.type)]
    if not vectors:
        return True
    leaves = [path for field in schema for path in _leaves(field.name, field.type)]
    return [path for path in leaves if path.partition(".list.")[0] not in vectors]


def _is_vector(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type))


def _leaves(name: str, kind: pa.DataType) -> list[str]:
    if isinstance(kind, pa.BaseExtensionType):
        return _leaves(name, kind.storage_type)
    if pa.types.is_struct(kind):
        return [path for field in kind for path in _leaves(f"{name}.{field.name}", field.type)]
    if pa.types.is_map(kind):
        key, item = (f"{name}.key_value.{part}" for part in ("key", "value"))
        return [*_leaves(key, kind.key_type), *_leaves(item, kind.item_type)]
    if pa.types.is_nested(kind):
        return _leaves(f"{name}.list.element", kind.value_type)
    return [name]


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


def clean_up(sink: Sink) -> None:
    """Removes what killed processes left; a disk that refuses is no reason to stop."""
    with suppress(OSError):
        clean_scratch(sink.scratch, now=time.time())
        clean_scratch(sink.scratch.parent, now=time.time())


def scratch_file(directory: Path) -> Path:
    """A new name in a scratch directory, which is made."""
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
    return directory / scratch_name()
