"""The columns of an Iceberg table's data file as the table has them now, by their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.errors import SplitError, one_line
from pipeline.lake.iceberg import arrow_schema
from pipeline.lake.source.table_split import as_type


class IcebergColumns:
    """The columns of a data file, whatever they were called and were when it was written.

    Args:
        schema: Of the file.
        fields: The table's columns, as `pyiceberg` has them.
        mapping: Which columns those of files without numbers are, if the table says so.
        told: What all rows of the file have in columns that it may lack.
        where: The file, for messages.

    Raises:
        SplitError: The file's columns have no numbers, and the table does not say which they are.
    """

    def __init__(
        self,
        schema: pa.Schema,
        fields: Any,
        *,
        mapping: Any,
        told: Mapping[str, pa.Scalar],
        where: str,
    ) -> None:
        from pyiceberg.io.pyarrow import pyarrow_to_schema

        self._fields, self._schema, self._told, self._where = (
            fields, arrow_schema(fields), told, where,
        )  # fmt: skip
        try:
            found = pyarrow_to_schema(schema, mapping, downcast_ns_timestamp_to_us=True)
        except Exception as error:  # of several classes, also its own
            raise self._unreadable(one_line(error, most=200)) from None
        self._there = {field.field_id: field for field in found.fields}

    def read_for(self, names: Sequence[str]) -> list[str]:
        """The file's columns of the same numbers."""
        ids = {self._fields.find_field(name).field_id for name in names}
        return [field.name for number, field in self._there.items() if number in ids]

    def made(self, table: pa.Table, names: Sequence[str]) -> pa.Table:
        """The columns as the table has them now; null where the file has none."""
        schema = pa.schema([self._schema.field(name) for name in names])
        return pa.table([self._column(table, field) for field in schema], schema=schema)

    def _column(self, table: pa.Table, to: pa.Field) -> Any:
        wanted = self._fields.find_field(to.name)
        there = self._there.get(wanted.field_id)
        what = f"{self._where}: column `{to.name}`"
        if there is not None:
            column = table.column(there.name)
            if not _same(there.field_type, wanted.field_type):
                chunks = [self._nested(part, there.field_type, wanted.field_type, what)
                          for part in column.chunks]  # fmt: skip
                column = pa.chunked_array(chunks) if chunks else pa.chunked_array([], to.type)
            if pa.types.is_timestamp(to.type):  # of nanoseconds, those that the table has not go
                return column.cast(to.type, safe=False)
            return as_type(column, to.type, what)
        if to.name in self._told:
            return pa.repeat(self._told[to.name], table.num_rows)
        if wanted.required:
            raise self._unreadable(f"column `{to.name}` may not be null, and is not in the file")
        return pa.nulls(table.num_rows, to.type)

    def _nested(self, array: pa.Array, there: Any, wanted: Any, what: str) -> pa.Array:
        """What has columns within it, each found by its number."""
        if there.is_primitive or wanted.is_primitive:
            return array
        # A slice has the offsets of what it is a slice of.
        array = array.take(pa.array(range(len(array)))) if array.offset else array
        if hasattr(wanted, "fields"):
            return self._struct(array, there, wanted, what)
        gone = array.is_null()
        if hasattr(wanted, "element_type"):
            small = array.cast(pa.list_(array.type.value_type))
            values = self._nested(small.values, there.element_type, wanted.element_type, what)
            return pa.ListArray.from_arrays(small.offsets, values, mask=gone)
        keys = self._nested(array.keys, there.key_type, wanted.key_type, what)
        values = self._nested(array.items, there.value_type, wanted.value_type, what)
        return pa.MapArray.from_arrays(array.offsets, keys, values, mask=gone)

    def _struct(self, array: pa.Array, there: Any, wanted: Any, what: str) -> pa.Array:
        known = {field.field_id: at for at, field in enumerate(there.fields)}
        names, parts = [], []
        for field in wanted.fields:
            at = known.get(field.field_id)
            if at is not None:
                inner = there.fields[at].field_type
                parts.append(self._nested(array.field(at), inner, field.field_type, what))
            elif field.required:
                raise self._unreadable(f"{what} lacks `{field.name}`, which may not be null")
            else:
                parts.append(pa.nulls(len(array)))
            names.append(field.name)
        return pa.StructArray.from_arrays(parts, names=names, mask=array.is_null())

    def _unreadable(self, why: str) -> SplitError:
        return SplitError(
            f"{self._where} can't be read as the table's: {why}", hint="Write the file's rows anew"
        )


def _same(there: Any, wanted: Any) -> bool:
    """Whether what is within two types has the same numbers and names, in the same order."""
    if there.is_primitive or wanted.is_primitive:
        return bool(there.is_primitive and wanted.is_primitive)
    if hasattr(wanted, "fields"):
        ours, theirs = ([(f.field_id, f.name) for f in kind.fields] for kind in (wanted, there))
        pairs = zip(there.fields, wanted.fields, strict=False)
        return ours == theirs and all(_same(a.field_type, b.field_type) for a, b in pairs)
    if hasattr(wanted, "element_type"):
        return _same(there.element_type, wanted.element_type)
    return _same(there.key_type, wanted.key_type) and _same(there.value_type, wanted.value_type)
