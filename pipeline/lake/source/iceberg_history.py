"""What became of an Iceberg table's former data files, by its snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any


def rewritten(
    table: Any, version: int, paths: Iterable[str], *, path_of: Callable[[str], str]
) -> set[str]:
    """Which of a table's former files had their rows written anew into others.

    A commit that takes files out and puts none in deletes rows. Of a file whose going the snapshots
    have forgotten nothing else is known than that it is not in the table.

    Args:
        table: As `pyiceberg` gives it.
        version: The snapshot by which they are gone.
        paths: The files.
        path_of: Gives a file's path by its address.
    """
    left = set(paths)
    deleted: set[str] = set()
    for commit in _commits(table, version):
        if not left:
            break
        here = left & {path_of(uri) for snapshot in commit for uri in _gone(table, snapshot)}
        left -= here
        if here and not any(_adds(table, snapshot) for snapshot in commit):
            deleted |= here
    return set(paths) - deleted


def _commits(table: Any, version: int) -> Iterator[list[Any]]:
    """The snapshots up to one, latest first, those that were committed at once together.

    A library may replace rows in two snapshots, one that deletes and one that appends. The times at
    which the table's metadata was written tell that these were one commit.
    """
    metadata = table.metadata
    ends = {entry.timestamp_ms for entry in metadata.metadata_log} | {metadata.last_updated_ms}
    first = min(ends)
    some: list[Any] = []
    at: int | None = version
    while at is not None and (snapshot := table.snapshot_by_id(at)) is not None:
        # Older ones than the log tells of stand alone.
        ended = snapshot.timestamp_ms in ends or snapshot.timestamp_ms < first
        if some and ended and snapshot.timestamp_ms != some[-1].timestamp_ms:
            yield some
            some = []
        some.append(snapshot)
        at = snapshot.parent_snapshot_id
    if some:
        yield some


def _gone(table: Any, snapshot: Any) -> Iterator[str]:
    """The addresses of the data files that a snapshot took out."""
    from pyiceberg.manifest import ManifestEntryStatus

    for entry in _own(table, snapshot):
        if entry.status == ManifestEntryStatus.DELETED:
            yield str(entry.data_file.file_path)


def _adds(table: Any, snapshot: Any) -> bool:
    """Whether a snapshot put data files in."""
    from pyiceberg.manifest import ManifestEntryStatus

    return any(entry.status == ManifestEntryStatus.ADDED for entry in _own(table, snapshot))


def _own(table: Any, snapshot: Any) -> Iterator[Any]:
    """What a snapshot's manifests say of data files that it has changed itself."""
    from pyiceberg.manifest import ManifestContent

    for manifest in snapshot.manifests(table.io):
        if manifest.content == ManifestContent.DATA and (
            manifest.added_snapshot_id == snapshot.snapshot_id
        ):
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False):
                if entry.snapshot_id == snapshot.snapshot_id:
                    yield entry
