"""Iceberg tables of a catalog in SQLite, and jobs over them."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestWriterV2,
)
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _FastAppendFiles
from pyiceberg.typedef import Record
from table_jobs import write_job

from pipeline.lake.split import OUTPUT_NAME

TABLE = "db.reviews"
MADE = "db.annotated"


def settings(folder: Path) -> dict[str, str]:
    """What `input.catalog` says of the catalog of a folder."""
    return {
        "name": "test",
        "type": "sql",
        "uri": f"sqlite:///{folder}/catalog.db",
        "warehouse": f"file://{folder}/warehouse",
    }


def catalog(folder: Path) -> Catalog:
    """A folder's catalog, with a namespace `db`."""
    properties = settings(folder)
    found = load_catalog(properties.pop("name"), **properties)
    found.create_namespace_if_not_exists("db")
    return found


def rows(*numbers: int, **columns: Any) -> pa.Table:
    """Rows with a text each."""
    return pa.table({"id": list(numbers), "text": [f"w{n}" for n in numbers], **columns})


def make(
    folder: Path,
    *contents: pa.Table,
    name: str = TABLE,
    parts: Mapping[str, Any] = {},
) -> Table:
    """A table, with a snapshot for each content.

    Args:
        folder: Of the catalog.
        contents: Rows.
        name: Of the table.
        parts: Transforms of the columns by which it is partitioned.
    """
    table = catalog(folder).create_table(name, schema=contents[0].schema)
    with table.update_spec() as spec:
        for column, transform in parts.items():
            spec.add_field(column, transform)
    for content in contents:
        table.append(content)
    return table


def paths(table: Table) -> list[str]:
    """The addresses of the data files, in the order of their ids."""
    found = table.inspect.files().to_pylist()
    return [f["file_path"] for f in sorted(found, key=lambda f: str(f["lower_bounds"]))]


class _DeleteRows(_FastAppendFiles):
    """Adds delete files, which the library reads and does not write."""

    def _manifests(self) -> Any:
        with _DeletesWriter(
            self._transaction.table_metadata.spec(), self.schema(), self.new_manifest_output(),
            self._snapshot_id, "null",
        ) as writer:  # fmt: skip
            for file in self._added_data_files:
                writer.add(
                    ManifestEntry.from_args(
                        status=ManifestEntryStatus.ADDED, snapshot_id=self._snapshot_id,
                        sequence_number=None, file_sequence_number=None, data_file=file,
                    )
                )  # fmt: skip
        return [writer.to_manifest_file(), *self._existing_manifests()]


class _DeletesWriter(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES


def delete_rows(
    table: Table, *gone: tuple[str, int], content: Any = DataFileContent.POSITION_DELETES
) -> None:
    """Deletes rows of data files as Spark does: by a file that names them.

    Args:
        table: The table.
        gone: The address of a data file and a row of it, each.
        content: What kind of delete file it is.
    """
    transaction = table.transaction()
    with _DeleteRows(Operation.DELETE, transaction, table.io) as producer:
        name = f"{table.location()}/data/deletes-{producer.snapshot_id}.parquet"
        there = sorted(gone)
        content_of = pa.table(
            {"file_path": [path for path, _ in there], "pos": [row for _, row in there]}
        )
        pq.write_table(content_of, name.removeprefix("file://"))
        producer.append_data_file(
            DataFile.from_args(
                content=content, file_path=name, file_format=FileFormat.PARQUET,
                partition=Record(), record_count=len(gone), file_size_in_bytes=1000,
                column_sizes={}, value_counts={}, null_value_counts={}, nan_value_counts={},
                lower_bounds={}, upper_bounds={}, key_metadata=None, split_offsets=[],
                equality_ids=[1] if content == DataFileContent.EQUALITY_DELETES else None,
                sort_order_id=None, spec_id=0,
            )
        )  # fmt: skip
    transaction.commit_transaction()


def job_into(folder: Path, **sections: Any) -> str:
    """A job over ``folder/lake`` into a table of the folder's catalog."""
    part = {"path": None, "format": "iceberg", "table": MADE, "catalog": settings(folder)}
    return write_job(folder, output={**part, **sections.pop("output", {})}, **sections)


def made(folder: Path, name: str = MADE) -> Table:
    """That table."""
    return catalog(folder).load_table(name)


def ids(folder: Path) -> list[int]:
    """The ids of its rows, by its own library; none if there is no table."""
    if not catalog(folder).table_exists(MADE):
        return []
    return sorted(made(folder).scan(selected_fields=("id",)).to_arrow()["id"].to_pylist())


def versions(folder: Path) -> int:
    """How many snapshots it has."""
    return len(made(folder).snapshots()) if catalog(folder).table_exists(MADE) else 0


def added_once(folder: Path) -> set[str]:
    """Our files that its history has added; each once, and those removed once."""
    table = made(folder)
    counts: dict[int, Counter[str]] = {1: Counter(), 2: Counter()}
    for snapshot in table.snapshots():
        for manifest in snapshot.manifests(table.io):
            if manifest.added_snapshot_id != snapshot.snapshot_id:
                continue
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False):
                name = entry.data_file.file_path.rpartition("/")[2]
                if entry.snapshot_id == snapshot.snapshot_id and OUTPUT_NAME.match(name):
                    counts.get(entry.status.value, Counter())[entry.data_file.file_path] += 1
    added, removed = counts[1], counts[2]
    assert {*added.values(), *removed.values()} <= {1}, (added, removed)
    assert removed.keys() <= added.keys()
    return {*added}


def compact(folder: Path) -> None:
    """Puts all rows into other files, as other writers do."""
    table = made(folder)
    table.overwrite(table.scan().to_arrow())
