"""URI -> object store: list with a version per object, open, create-only put.

Local paths go through the operating system (hard links give create-only publication there);
everything else goes through `obstore`.
"""

from __future__ import annotations

import heapq
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import JobError, RunError

# Readers of a lake (Spark, pyarrow, Ray) pass over such names, and so do we.
HIDDEN = ("_", ".")
OWN = "_shardscribe"
# One request to an object store fetches at least this much.
REMOTE_BUFFER = 4 * 1024 * 1024
SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as a listing shows it.

    Attributes:
        path: Relative to the store's root, with forward slashes.
        size: Bytes.
        version: Changes when the content does: the etag, or the time of modification.
    """

    path: str
    size: int
    version: str


class Store(ABC):
    """A directory of a file system, or a prefix of an object store.

    Args:
        root: The address, as the user would write it.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def address(self, path: str) -> str:
        """The full address of an object, for messages."""
        text = f"{self.root.rstrip('/')}/{path}"
        return text.encode("utf-8", "backslashreplace").decode()

    @abstractmethod
    def list(self) -> Iterator[Entry]:
        """Every object below the root, but those with a hidden part in their path."""

    @abstractmethod
    def entry(self, path: str) -> Entry | None:
        """One object, or None if it is not there."""

    @abstractmethod
    def open(self, path: str) -> Any:
        """Opens an object for reading; gives what `pyarrow.parquet.ParquetFile` takes."""

    @abstractmethod
    def put_new(self, path: str, local: Path) -> bool:
        """Publishes a finished local file, whole or not at all.

        Returns:
            False if the object exists already, which is then left as it is.
        """

    @abstractmethod
    def put(self, path: str, content: bytes) -> None:
        """Writes a small object, replacing what was there."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Removes an object; nothing happens if it is gone already."""

    @abstractmethod
    def scratch(self) -> Path:
        """A local directory from which `put_new` can publish."""


class LocalStore(Store):
    """A directory of a local or mounted file system."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.base = Path(root)

    def list(self) -> Iterator[Entry]:
        """Walks the directory; symbolic links are followed, each directory once.

        A directory that has several names is always listed under the same: the order of the walk
        is that of the names, links last.
        """
        seen: set[tuple[int, int]] = set()
        pending: list[tuple[bool, Path, str]] = [(False, self.base, "")]
        while pending:
            _, directory, prefix = heapq.heappop(pending)
            try:
                status = directory.stat()
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(directory) as entries:
                    for entry in sorted(entries, key=lambda entry: entry.name):
                        if entry.name.startswith(HIDDEN):
                            continue
                        path = f"{prefix}{entry.name}"
                        if entry.is_dir():
                            link = entry.is_symlink()
                            heapq.heappush(pending, (link, Path(entry.path), f"{path}/"))
                        elif entry.is_file():
                            # One that vanishes meanwhile must not hide the ones behind it.
                            with suppress(FileNotFoundError):
                                yield _local_entry(path, entry.stat())
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError as error:
                raise JobError(
                    f"{directory} can't be read: {error.strerror}", mend="Check its permissions"
                ) from error

    def entry(self, path: str) -> Entry | None:
        """One file."""
        try:
            return _local_entry(path, (self.base / path).stat())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, path: str) -> Any:
        """The file's path: pyarrow reads local files best by name."""
        return str(self.base / path)

    def put_new(self, path: str, local: Path) -> bool:
        """Links the file to its name, which fails if the name is taken; then syncs both."""
        target = self.base / path
        _make_directory(target.parent)
        _sync(local)
        try:
            os.link(local, target)
        except FileExistsError:
            return False
        except OSError as error:
            raise RunError(
                f"{target} can't be published: {error.strerror}",
                mend="The output needs free space and a file system with hard links",
            ) from error
        _sync(target.parent)
        return True

    def put(self, path: str, content: bytes) -> None:
        """Writes beside the name and renames, so that no reader sees half of it."""
        target = self.base / path
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        beside.write_bytes(content)
        beside.replace(target)

    def delete(self, path: str) -> None:
        """Unlinks the file."""
        with suppress(FileNotFoundError):
            (self.base / path).unlink()

    def scratch(self) -> Path:
        """On the output's own file system, as hard links need."""
        return self.base / OWN / "scratch"


class RemoteStore(Store):
    """A prefix of S3, Google Cloud Storage or Azure; credentials come from the environment."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        import obstore.store

        try:
            self.client = obstore.store.from_url(root)
        except Exception as error:  # obstore maps bad addresses to several classes
            raise JobError(
                f"{root} is no address of an object store: {_reason(error)}",
                mend="Write s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
            ) from error

    def list(self) -> Iterator[Entry]:
        """Lists the prefix, in pages."""
        import obstore

        try:
            for page in obstore.list(self.client):
                for item in page:
                    if not any(part.startswith(HIDDEN) for part in item["path"].split("/")):
                        yield _remote_entry(item)
        except obstore.exceptions.BaseError as error:
            raise JobError(
                f"{self.root} can't be listed: {_reason(error)}",
                mend="Check the address and the credentials in the environment",
            ) from error

    def entry(self, path: str) -> Entry | None:
        """One object."""
        import obstore

        try:
            return _remote_entry(obstore.head(self.client, path))
        except FileNotFoundError:
            return None

    def open(self, path: str) -> Any:
        """A buffered reader that fetches ranges."""
        import obstore
        import pyarrow as pa

        reader = obstore.open_reader(self.client, path, buffer_size=REMOTE_BUFFER)
        return pa.PythonFile(reader, mode="r")

    def put_new(self, path: str, local: Path) -> bool:
        """A conditional put (``If-None-Match: *``) of the whole object."""
        import obstore

        try:
            obstore.put(self.client, path, local, mode="create", use_multipart=False)
        except obstore.exceptions.AlreadyExistsError:
            return False
        return True

    def put(self, path: str, content: bytes) -> None:
        """A plain put."""
        import obstore

        obstore.put(self.client, path, content)

    def delete(self, path: str) -> None:
        """A plain delete."""
        import obstore

        with suppress(FileNotFoundError):
            obstore.delete(self.client, path)

    def scratch(self) -> Path:
        """In the machine's temporary directory, one per output."""
        import hashlib
        import tempfile

        name = hashlib.sha256(self.root.encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"shardscribe-{os.getuid()}" / name


def open_store(root: str) -> Store:
    """The store of an address.

    Args:
        root: A local directory, relative to the working directory or absolute, or a URL.

    Raises:
        JobError: The scheme is unknown or the address makes no sense.
    """
    scheme, separator, _ = root.partition("://")
    if not separator:
        return LocalStore(str(Path(root).expanduser().resolve()))
    if scheme == "file":
        return LocalStore(root.removeprefix("file://"))
    if scheme not in SCHEMES:
        raise JobError(
            f"{root}: the scheme {scheme}:// is unknown",
            mend=f"Use a local path or one of {', '.join(s + '://' for s in SCHEMES)}",
        )
    return RemoteStore(root)


def _local_entry(path: str, status: os.stat_result) -> Entry:
    return Entry(path, status.st_size, f"{status.st_mtime_ns:x}")


def _remote_entry(item: Any) -> Entry:
    version = (item["e_tag"] or "").strip('"') or item["last_modified"].isoformat()
    return Entry(item["path"], item["size"], version)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _make_directory(directory: Path) -> None:
    """Makes a directory and syncs each new level: a synced file in a lost directory is lost."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    _sync(directory.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
