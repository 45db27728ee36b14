"""What an Iceberg table that is an output is at a moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.lake.iceberg import TableName, arrow_schema, plain


class ReadManifests(dict[str, dict[str, Any]]):
    """Our data files by manifest, as manifests do not change. Pickled, it is nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ReadManifests, ()


@dataclass
class IcebergVersion:
    """What an Iceberg table is at a moment.

    Attributes:
        name: By which a catalog has it.
        table: As `pyiceberg` gives it.
        root: The address of the place of our files.
        read: What was read at an earlier look.
    """

    name: TableName
    table: Any
    root: str
    read: ReadManifests = field(default_factory=ReadManifests)

    @property
    def number(self) -> str:
        """Where its metadata is: each change writes it anew."""
        return str(self.table.metadata_location)

    @cached_property
    def entries(self) -> dict[str, Any]:
        """Our data files in it, by path, as `pyiceberg` has them."""
        from pyiceberg.manifest import ManifestContent

        snapshot = self.table.current_snapshot()
        with self.name.telling("read"):
            manifests = snapshot.manifests(self.table.io) if snapshot is not None else ()
            there = {
                manifest.manifest_path: self._known(manifest)
                for manifest in manifests
                if manifest.content == ManifestContent.DATA
            }
        self.read.clear()
        self.read.update(there)
        return {path: file for files in there.values() for path, file in files.items()}

    def _known(self, manifest: Any) -> dict[str, Any]:
        """Our data files in a manifest."""
        known = self.read.get(manifest.manifest_path)
        if known is not None:
            return known
        root = f"{plain(self.root)}/"
        found = {}
        for entry in manifest.fetch_manifest_entry(self.table.io):
            address = plain(entry.data_file.file_path)
            if address.startswith(root):
                found[address.removeprefix(root)] = entry.data_file
        return found

    @property
    def files(self) -> dict[str, int]:
        """The data files, by path, with their sizes."""
        return {path: file.file_size_in_bytes for path, file in self.entries.items()}

    @cached_property
    def columns(self) -> dict[str, str]:
        """The columns, each as an Arrow type in words."""
        return {f.name: str(f.type) for f in arrow_schema(self.table.schema())}

    @property
    def problems(self) -> list[str]:
        """Why our files can't be its."""
        found = []
        if not self.table.spec().is_unpartitioned():
            names = ", ".join(part.name for part in self.table.spec().fields)
            found.append(f"it is partitioned by {names}, and the job's output is not")
        fields = self.table.schema().fields
        found += [f"its column `{f.name}` may not be null" for f in fields if f.required]
        return found

    def transactions(self, application: str) -> int:
        """The number that the last transaction of an application carried; 0 for none."""
        return int(self.table.properties.get(application, 0))
