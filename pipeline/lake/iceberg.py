"""Iceberg tables, as `pyiceberg` knows them: found by a catalog; what is wrong, in a line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.errors import JobError, ShardscribeError, one_line
from pipeline.lake.store.client import reason

SECRET = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
# What later versions of the format have beyond this (deletion vectors, defaults, row ids, types
# such as variant) is written by nobody here, and read by the library in part.
LATEST_FORMAT = 2
NAME = "default"
# By which a Parquet file's column says which of a table's columns it is.
FIELD_ID = b"PARQUET:field_id"


def library() -> Any:
    """The `pyiceberg` package.

    Raises:
        JobError: It is not installed.
    """
    try:
        import pyiceberg
        import pyiceberg.catalog
        import pyiceberg.exceptions
    except ImportError as error:
        raise JobError(
            "an Iceberg table needs the package pyiceberg",
            hint="Install it: pip install 'shardscribe[iceberg]'",
        ) from error
    return pyiceberg


@dataclass(frozen=True)
class TableName:
    """An Iceberg table by the name that a catalog has for it. It pickles without secrets.

    Attributes:
        name: As the job file writes it, such as ``prod.reviews``.
        catalog: What `pyiceberg` takes, with ``name`` as the catalog's own; `${env:NAME}` stands
            for what a variable of the environment holds.
    """

    name: str
    catalog: Mapping[str, str] = field(repr=False)

    def opened(self) -> Any:
        """The catalog.

        Raises:
            JobError: It can't be opened.
        """
        given = {key: _filled(key, value) for key, value in self.catalog.items()}
        catalogs = library().catalog
        with self.telling("opened"):
            return catalogs.load_catalog(given.pop("name", NAME), **given)

    def load(self) -> Any:
        """The table as it is now; None if the catalog has none of the name.

        Raises:
            JobError: The catalog does not answer, or the table is not one that can be read.
        """
        errors = library().exceptions
        catalog = self.opened()
        with self.telling("opened"):
            try:
                table = catalog.load_table(self.name)
            except (errors.NoSuchTableError, errors.NoSuchNamespaceError):
                return None
        if table.format_version > LATEST_FORMAT:
            raise JobError(
                f"the Iceberg table {self.name} is of format version {table.format_version}; "
                f"versions up to {LATEST_FORMAT} are read and written",
                hint=f"Write it anew with format-version {LATEST_FORMAT}",
            )
        return table

    @contextmanager
    def telling(self, doing: str) -> Iterator[None]:
        """Makes one line of what the library raises, without the secrets that the catalog has.

        Args:
            doing: What is done to the table, for the message.

        Raises:
            JobError: Naming the table.
        """
        try:
            yield
        except ShardscribeError:
            raise
        except (ImportError, library().exceptions.NotInstalledError) as error:
            raise JobError(
                f"the catalog of the Iceberg table {self.name} needs a package that is not "
                f"installed: {self.told(error)}",
                hint="Install it",
            ) from None
        except Exception as error:  # the library lets through what databases and servers raise
            raise JobError(
                f"the Iceberg table {self.name} can't be {doing}: {self.told(error)}",
                hint="Check its name, catalog and the credentials that it takes",
            ) from None  # the cause may repeat the request

    def told(self, error: Exception) -> str:
        """What somebody raised, in a line that holds nothing of the environment."""
        said = reason(error) or type(error).__name__
        for value in self.catalog.values():
            for name in SECRET.findall(value):
                secret = os.environ.get(name)
                said = said.replace(secret, f"${{env:{name}}}") if secret else said
        return one_line(said, most=200)


def _filled(key: str, value: str) -> str:
    def of(found: re.Match[str]) -> str:
        said = os.environ.get(found[1])
        if said is None:
            raise JobError(
                f"catalog.{key} names the environment's {found[1]}, which is not set",
                hint=f"Set it: export {found[1]}=...",
            )
        return said

    return SECRET.sub(of, value)


def small_types(kind: pa.DataType) -> pa.DataType:
    """An Arrow type with the usual texts, bytes and lists, and no metadata within it."""
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(small_types(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(small_types(kind.key_type), small_types(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, small_types(field.type)) for field in kind])
    return kind


def arrow_schema(schema: Any) -> pa.Schema:
    """A table's columns in Arrow, without the numbers that Iceberg gives them."""
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    found = schema_to_pyarrow(schema, include_field_ids=False)
    return pa.schema([pa.field(field.name, small_types(field.type)) for field in found])


def plain(uri: str) -> str:
    """An address, of a local file without its scheme."""
    return uri.removeprefix("file://") if uri.startswith("file://") else uri.removeprefix("file:")


def without_number(field: pa.Field) -> pa.Field:
    """A column that does not say which column of a table it is, nor do those within it."""
    kind = field.type
    if pa.types.is_struct(kind):
        kind = pa.struct([without_number(inner) for inner in kind])
    elif pa.types.is_map(kind):
        kind = pa.map_(without_number(kind.key_field), without_number(kind.item_field))
    elif pa.types.is_fixed_size_list(kind):
        kind = pa.list_(without_number(kind.value_field), kind.list_size)
    elif pa.types.is_large_list(kind):
        kind = pa.large_list(without_number(kind.value_field))
    elif pa.types.is_list(kind):
        kind = pa.list_(without_number(kind.value_field))
    kept = {key: value for key, value in (field.metadata or {}).items() if key != FIELD_ID}
    return pa.field(field.name, kind, field.nullable, kept or None)
