"""The columns that the files of a dataset have together, read off their footers once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import JobError, ShardscribeError, SplitError
from pipeline.lake.at_once import each
from pipeline.lake.memory import Memory
from pipeline.lake.source.promote import TEXT, promoted, unified
from pipeline.lake.store.base import Entry, Store

# No file's path holds it: what a schema is, among the files that have it.
SCHEMA_MARK = "\0"
BELIEVED = b"huggingface"  # readers take it for all files of a dataset


@dataclass(frozen=True)
class Needs:
    """What is asked of the columns of a dataset.

    Attributes:
        carried: Those that have to be alike in all files; None for all.
        read: Those that a file must have; one without fails by itself.
        texts: Those that must hold text, likewise.
    """

    carried: Sequence[str] | None = None
    read: Collection[str] = ()
    texts: Collection[str] = ()

    def fails(self, schema: pa.Schema, told: Collection[str]) -> bool:
        """Whether a file of that schema is going to fail, whatever the others have."""
        names = schema.names
        if len({*names}) < len(names) or {*self.read} - {*names, *told}:
            return True
        there = (schema.field(name).type for name in self.texts if name in names)
        return not all(_may_be_text(kind) for kind in there)

    def of(self, schema: pa.Schema, told: Collection[str]) -> pa.Schema:
        """The columns of a file that have to be alike."""
        wanted = schema.names if self.carried is None else self.carried
        return pa.schema([f for f in schema if f.name in wanted and f.name not in told])


def _may_be_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_null(kind) or any(is_text(kind) for is_text in TEXT)


def union_of(
    store: Store,
    files: Sequence[Entry],
    needs: Needs,
    *,
    told: Collection[str] = (),
    memory: Memory | None = None,
) -> pa.Schema | None:
    """The columns of all files together; None if they are the same in each.

    Args:
        store: Of the files.
        files: Of the dataset; one that can't be read is left out.
        needs: What is asked of their columns.
        told: Columns that directories tell.
        memory: Spares the reading of footers that were read before.

    Raises:
        JobError: A column has types that no type holds, naming it and two files.
    """
    if len(files) < 2:
        return None
    first: dict[bytes, tuple[Entry, pa.Schema]] = {}
    for entry, schema in zip(files, _schemas(store, files, memory), strict=True):
        if schema is not None and not needs.fails(schema, told):
            bare = needs.of(schema, told)
            first.setdefault(_key(bare), (entry, bare))
    schemas = [schema for _, schema in first.values()]
    if len(schemas) < 2:
        return None
    found = unified(schemas)
    if isinstance(found, str):
        raise _differ(store, found, list(first.values()))
    return found


def _differ(store: Store, name: str, files: Sequence[tuple[Entry, pa.Schema]]) -> JobError:
    there = [(entry, schema.field(name).type) for entry, schema in files if name in schema.names]
    known = there[0][1]
    for entry, kind in there[1:]:  # noqa: B007
        wider = promoted(known, kind)
        if wider is None:
            break
        known = wider
    return JobError(
        f"{store.address(entry.path)}: column `{name}` is {kind}, and {known} in "
        f"{there[0][0].path}: no type holds both",
        hint="Cast one of them, take the file out of the dataset, or leave the column out by "
        "input.columns",
    )


def _key(schema: pa.Schema) -> bytes:
    bare = [pa.field(field.name, field.type, field.nullable) for field in schema]
    return hashlib.sha256(pa.schema(bare).serialize()).digest()[:7]


def _schemas(store: Store, files: Sequence[Entry], memory: Memory | None) -> list[pa.Schema | None]:
    """The schema of each file; None where it can't be read."""
    known: dict[int, pa.Schema] = {}
    found: dict[str, pa.Schema] = {}
    for entry in files if memory is not None else ():
        numbers = memory.get(entry.path, _version(entry)) if memory is not None else None
        if numbers and numbers[0] not in known:
            raw = memory.get(f"{SCHEMA_MARK}{numbers[0]}", "") if memory is not None else None
            if raw:
                known[numbers[0]] = pa.ipc.read_schema(pa.py_buffer(bytes(raw)))
        if numbers and numbers[0] in known:
            found[entry.path] = known[numbers[0]]
    asked = [entry for entry in files if entry.path not in found]
    for entry, schema in zip(asked, each(lambda one: _read(store, one), asked), strict=True):
        if schema is None:
            continue
        found[entry.path] = schema
        if memory is not None:
            number = int.from_bytes(_key(schema), "big")
            memory.put(entry.path, _version(entry), [number])
            memory.put(f"{SCHEMA_MARK}{number}", "", list(schema.serialize().to_pybytes()))
    return [found.get(entry.path) for entry in files]


def remembered(files: Sequence[Entry], memory: Memory) -> set[str]:
    """What of a memory is still of use."""
    numbers = (memory.get(entry.path, _version(entry)) for entry in files)
    marks = {f"{SCHEMA_MARK}{found[0]}" for found in numbers if found}
    return marks | {entry.path for entry in files}


def _version(entry: Entry) -> str:
    return f"{entry.version} {entry.size}"


def _read(store: Store, entry: Entry) -> pa.Schema | None:
    try:
        with closing(pq.ParquetFile(store.open(entry.path))) as file:
            schema: pa.Schema = file.schema_arrow.remove_metadata()
            return schema
    except (pa.ArrowException, OSError, UnicodeError, ShardscribeError):
        return None  # it fails by itself, with a clear message


class Alike:
    """A file's rows with the columns that all files of its dataset have.

    Args:
        union: Those columns; None where all files have the same.
        file: The file's own, with its metadata.
        needed: Columns that are not made up where the file has none.
        where: The file, for messages.

    Attributes:
        schema: The columns of its rows: the union's, then others of the file.
    """

    def __init__(
        self, union: pa.Schema | None, file: pa.Schema, *, needed: Collection[str], where: str
    ) -> None:
        self.schema = file
        self._where = where
        self._kinds: Mapping[str, pa.Field] = {}
        if union is None or len({*file.names}) < len(file.names):
            return
        if {*needed} & {*union.names} - {*file.names}:
            return  # it fails where its columns are looked at
        fields = list(union)
        ours = {field.name: field for field in file}
        differ = {f.name: f for f in fields if f.name not in ours or f.type != ours[f.name].type}
        if any(
            name in ours and promoted(field.type, ours[name].type) != field.type
            for name, field in differ.items()
        ):
            return  # it fails where its columns are looked at
        self._kinds = differ
        # Of the file's own, its metadata is; the union has that of the first.
        fields = [f if f.name in differ else ours[f.name].with_nullable(f.nullable) for f in fields]
        rest = [field for field in file if field.name not in union.names]
        self.schema = pa.schema([*fields, *rest], metadata=_said(file.metadata, differ))

    def of(self, table: pa.Table, names: Sequence[str]) -> pa.Table:
        """Some rows of the file with some of the columns, in their order.

        Raises:
            SplitError: A value is not in the range of the column's type.
        """
        if not self._kinds:
            return table
        fields = [self.schema.field(name) for name in names if name in self.schema.names]
        columns = [self._column(field, table) for field in fields]
        return pa.table(columns, schema=pa.schema(fields)) if fields else table

    def _column(self, field: pa.Field, table: pa.Table) -> pa.ChunkedArray | pa.Array:
        if field.name not in table.column_names:
            return pa.nulls(table.num_rows, field.type)
        column = table.column(field.name)
        if field.name not in self._kinds or column.type == field.type:
            return column
        if pa.types.is_dictionary(column.type):
            column = column.combine_chunks().dictionary_decode()
        try:
            return column.cast(field.type)
        except pa.ArrowException as error:
            raise SplitError(
                f"{self._where}: column `{field.name}` has a value that {field.type}, its type in "
                f"other files, can't hold: {error}",
                hint="Write the file anew, or leave the column out by input.columns",
            ) from error


def _said(
    metadata: Mapping[bytes, bytes] | None, differ: Mapping[str, object]
) -> dict[bytes, bytes]:
    """A file's metadata without what it says of columns that are others now."""
    found = {key: value for key, value in (metadata or {}).items() if key != BELIEVED or not differ}
    try:
        said = json.loads(found[b"pandas"])
        said["columns"] = [c for c in said["columns"] if c["field_name"] not in differ]
        found[b"pandas"] = json.dumps(said).encode()
    except (KeyError, ValueError, TypeError):
        found.pop(b"pandas", None)
    return found
