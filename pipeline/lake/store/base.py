"""What a store is asked for: a listing with a version per object, reads, create-only puts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


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


class Readable(Protocol):
    """What files are read from: a store, or a table that knows where its files are."""

    def address(self, path: str) -> str:
        """The full address of a file, for messages."""

    def open(self, path: str) -> Any:
        """Opens a file for reading; gives what `pyarrow.parquet.ParquetFile` takes."""


class Store(ABC):
    """A directory of a file system, or a prefix of an object store.

    Args:
        root: The address, as the user would write it.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        """It goes to another process as its address."""
        return type(self), (self.root,)

    def address(self, path: str) -> str:
        """The full address of an object, for messages."""
        text = f"{self.root.rstrip('/')}/{path}"
        return text.encode("utf-8", "backslashreplace").decode()

    @property
    @abstractmethod
    def own(self) -> Store:
        """Where we keep our own files of this output; not in it, if there is a place beside it."""

    @abstractmethod
    def entries(self, missed: Callable[[str, str], None] | None = None) -> Iterator[Entry]:
        """Every object below the root, but those with a hidden part in their path.

        Args:
            missed: Told path and reason of what is there and can't be read, be it a file or a
                directory with all that it may hold. Without it, links that lead nowhere are
                passed over.

        Raises:
            JobError: The root can't be listed; or something below it, and nobody is told.
        """

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
    def replace(self, path: str, local: Path) -> None:
        """Publishes a finished local file in the place of another, whole or not at all."""

    @abstractmethod
    def create(self, path: str, content: bytes) -> bool:
        """Writes a small object if there is none; False if there is."""

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """A small object's content; None if it is not there."""

    @abstractmethod
    def names(self, directory: str) -> list[str]:
        """The directories in a directory; none if it is not there."""

    @abstractmethod
    def put(self, path: str, content: bytes) -> None:
        """Writes a small object, replacing what was there."""

    @abstractmethod
    def swap(self, path: str, old: bytes, new: bytes) -> bool:
        """Replaces a small object's content if it is still `old`; False if it is not.

        Of several that swap at once, one gets True.
        """

    @abstractmethod
    def delete(self, path: str) -> None:
        """Removes an object; nothing happens if it is gone already."""

    @abstractmethod
    def scratch(self) -> Path:
        """A local directory from which `put_new` can publish."""
