"""A directory of a local or mounted file system; hard links give create-only publication there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import JobError, RunError, SplitError
from pipeline.lake.store.address import local_path
from pipeline.lake.store.base import Entry, Store
from pipeline.lake.store.own import own_address
from pipeline.lake.store.process import scratch_name
from pipeline.lake.store.walk import walk

NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)


class LocalStore(Store):
    """A directory of a local or mounted file system."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.base = Path(root)
        self._base = str(self.base)

    @cached_property
    def own(self) -> Store:
        """Beside the directory."""
        return LocalStore(str(local_path(own_address(self.root))))

    def _name(self, path: str) -> str:
        # Asked several times for each small file, where a `Path` takes longer than the system does.
        return os.path.join(self._base, path)  # noqa: PTH118

    def entries(self, missed: Callable[[str, str], None] | None = None) -> Iterator[Entry]:
        """Walks the directory; symbolic links are followed, each directory once."""
        for path, status in walk(self.base, missed):
            yield _local_entry(path, status)

    def entry(self, path: str) -> Entry | None:
        """One file."""
        try:
            return _local_entry(path, os.stat(self._name(path)))  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, path: str) -> Any:
        """The file's path: pyarrow reads local files best by name."""
        return self._name(path)

    def put_new(self, path: str, local: Path) -> bool:
        """Links the file to its name, which fails if the name is taken; then syncs both."""
        target = self.base / path
        try:
            _make_directory(target.parent)
            _sync(local)
            os.link(local, target)
        except OSError as error:
            if isinstance(error, FileExistsError) and target.exists():
                return False
            if error.errno in NO_HARD_LINKS:
                raise RunError(
                    f"{target} can't be published: {error.strerror}",
                    hint="The output needs a file system with hard links",
                ) from error
            raise SplitError(
                f"{target} can't be published: {error.strerror}",
                hint="Check the output's permissions and free space",
            ) from error
        _sync(target.parent)
        return True

    def replace(self, path: str, local: Path) -> None:
        """Renames over the old file; both are on one file system."""
        _sync(local)
        local.replace(self.base / path)
        _sync((self.base / path).parent)

    def create(self, path: str, content: bytes) -> bool:
        """Writes beside the name and links, which fails if the name is taken."""
        target = self.base / path
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = _beside(target)
        try:
            beside.write_bytes(content)
            os.link(beside, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in NO_HARD_LINKS and beside.exists():
                raise JobError(
                    f"{target} can't be created: {error.strerror}",
                    hint="The output needs a file system with hard links",
                ) from error
            raise
        finally:
            beside.unlink(missing_ok=True)
        return True

    def read(self, path: str) -> bytes | None:
        """The file's bytes."""
        try:
            return (self.base / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, directory: str) -> list[str]:
        """One level of the directory tree."""
        try:
            with os.scandir(self._name(directory)) as found:
                return [entry.name for entry in found if entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def put(self, path: str, content: bytes) -> None:
        """Writes beside the name and renames, so that no reader sees half of it."""
        target = self.base / path
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = _beside(target)
        try:
            beside.write_bytes(content)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)

    def swap(self, path: str, old: bytes, new: bytes) -> bool:
        """Under a lock of the directory, which the kernel lifts when its holder dies."""
        import fcntl

        target = self.base / path
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(target.parent, os.O_RDONLY)
        try:
            # A network file system may have no locks; then it is as good as without them.
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            if self.read(path) != old:
                return False
            self.put(path, new)
            return True
        finally:
            os.close(handle)

    def delete(self, path: str) -> None:
        """Unlinks the file."""
        with suppress(FileNotFoundError):
            (self.base / path).unlink()

    def is_writable(self) -> bool:
        """Whether files may be made there; what is not there yet is made."""
        there = self.base
        while not os.path.lexists(there):
            there = there.parent
        return not there.is_dir() or os.access(there, os.W_OK | os.X_OK)

    def scratch(self) -> Path:
        """On the output's own file system, as hard links need."""
        return Path(self.own.root) / "scratch"


def _local_entry(path: str, status: os.stat_result) -> Entry:
    return Entry(path, status.st_size, f"{status.st_mtime_ns:x}")


def _beside(target: Path) -> Path:
    """A hidden name in the same directory, for a file that is not finished."""
    return target.with_name(f".{scratch_name()}")


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
