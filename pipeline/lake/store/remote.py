"""S3, Google Cloud Storage and Azure, through `obstore`.

Errors of the store become `JobError` where a run is planned and `SplitError` where it works, in
`RemoteStore._asking` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pipeline.errors import JobError, ShardscribeError, SplitError
from pipeline.lake.store import parts
from pipeline.lake.store.again import Conflict, again
from pipeline.lake.store.base import Entry, Store
from pipeline.lake.store.client import mend_of, open_client, reason
from pipeline.lake.store.own import own_address, scratch_here
from pipeline.lake.store.ranges import Ranges
from pipeline.lake.store.walk import HIDDEN
from pipeline.moves import moved

T = TypeVar("T")

# A worker waits for a store that is away for a minute.
PATIENCE = 90.0
# But for its first request: a wrong address or key should be told in seconds. Whoever gets that
# error may ask again, and is then waited with.
FIRST_PATIENCE = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
# Tries of our own: few around obstore's, which last; many where it has none. A listing that is
# refused looks to obstore like one that is cut short, so few it is.
FEW, MANY = 4, 100
REQUEST_SECONDS = 60.0
PUT_SECONDS = 900.0


class RemoteStore(Store):
    """A prefix of S3, Google Cloud Storage or Azure; credentials come from the environment."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        if urlsplit(root).password is not None:
            raise JobError(
                "an address holds a password",
                hint="Give the credentials in the environment, and take them out of the address",
            )
        # Made at once, so that a wrong address is told at once.
        self._first = self._client(FIRST_PATIENCE, 2 * FIRST_PATIENCE)
        self._rest = self._client(PATIENCE, REQUEST_SECONDS)
        self._once = self._client(0, PUT_SECONDS)
        self._asked = False

    @cached_property
    def own(self) -> Store:
        """Beside the prefix, in the same bucket."""
        return RemoteStore(own_address(self.root))

    def _client(self, patience: float, seconds: float) -> Any:
        most = min(LONGEST_PAUSE, patience / 4)
        return open_client(
            self.root, patience=patience, seconds=seconds, pauses=(FIRST_PAUSE, most)
        )

    @property
    def client(self) -> Any:
        """For everything that only reads."""
        return self._rest if self._asked else self._first

    @contextmanager
    def _asking(
        self, doing: str, path: str = "", *, kind: type[ShardscribeError] = SplitError
    ) -> Iterator[None]:
        """Maps what obstore raises; only "there is no such object" stays what it is."""
        import obstore

        try:
            yield
        except FileNotFoundError:
            raise
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise kind(
                f"{self.address(path) if path else self.root} can't be {doing}: {reason(error)}",
                hint=mend_of(self.root, error),
            ) from None  # the cause repeats the whole answer
        finally:
            self._asked = True

    def entries(self, missed: Callable[[str, str], None] | None = None) -> Iterator[Entry]:
        """Lists the prefix page by page, whole or not at all; a page is asked for again."""
        import obstore
        from obstore.exceptions import GenericError

        pages: Any = None
        last: str | None = None

        def page() -> Any:
            nonlocal pages
            pages = pages if pages is not None else iter(obstore.list(self.client, offset=last))
            try:
                return next(pages, None)
            except GenericError:
                pages = None
                raise

        while True:
            with self._asking("listed", kind=JobError):
                items = self._again(page)
            if items is None:
                return
            for item in items:
                last = item["path"]
                if not any(part.startswith(HIDDEN) for part in item["path"].split("/")):
                    yield _remote_entry(item)

    def entry(self, path: str) -> Entry | None:
        """One object."""
        import obstore

        with suppress(FileNotFoundError), self._asking("looked up", path, kind=JobError):
            return _remote_entry(obstore.head(self.client, path))
        return None

    def open(self, path: str) -> Any:
        """A file that fetches ranges.

        Raises:
            FileNotFoundError: There is no such object.
            SplitError: The store does not answer; also while reading.
        """
        import obstore
        import pyarrow as pa

        with self._asking("opened", path):
            size = obstore.head(self.client, path)["size"]
        return pa.PythonFile(
            Ranges(lambda start, end: self.range(path, start, end), size), mode="r"
        )

    def range(self, path: str, start: int, end: int) -> bytes:
        """Some bytes of an object."""
        import obstore

        with self._asking("read", path):
            found = self._again(
                lambda: bytes(obstore.get_range(self.client, path, start=start, end=end))
            )
        moved()
        return found

    def put_new(self, path: str, local: Path) -> bool:
        """A conditional put (``If-None-Match: *``) of the whole object.

        If an answer was lost, the object that is there may be this one: False all the same, and
        its footer tells.
        """
        return self._put(path, local, new=True) == "new"

    def replace(self, path: str, local: Path) -> None:
        """A plain put, which is atomic."""
        self._put(path, local)

    def create(self, path: str, content: bytes) -> bool:
        """A conditional put."""
        there = self._put(path, content, new=True, kind=JobError)
        return there == "new" or (there == "unsure" and self.read(path) == content)

    def read(self, path: str) -> bytes | None:
        """A plain get."""
        import obstore

        with suppress(FileNotFoundError), self._asking("read", path, kind=JobError):
            return self._again(lambda: bytes(obstore.get(self.client, path).bytes()))
        return None

    def names(self, directory: str) -> list[str]:
        """The common prefixes below a prefix."""
        import obstore

        with self._asking("listed", directory, kind=JobError):
            found = self._again(lambda: obstore.list_with_delimiter(self.client, directory))
        return [prefix.rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"]]

    def put(self, path: str, content: bytes) -> None:
        """A plain put."""
        self._put(path, content)

    def swap(self, path: str, old: bytes, new: bytes) -> bool:
        """A conditional put (``If-Match``) on the etag of what was read."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        def once() -> bool:
            try:
                found = obstore.get(self.client, path)
                content, meta = bytes(found.bytes()), dict(found.meta)
                if content != old:
                    return content == new  # an earlier try whose answer was lost
                known: Any = {k: meta[k] for k in ("e_tag", "version") if meta[k] is not None}
                obstore.put(self._once, path, new, mode=known, use_multipart=False)
            except (FileNotFoundError, PreconditionError):
                return False
            except AlreadyExistsError as error:
                raise Conflict(reason(error)) from None
            return True

        with self._asking("written", path, kind=JobError):
            return self._again(once, tries=MANY)

    def delete(self, path: str) -> None:
        """A plain delete."""
        import obstore

        with suppress(FileNotFoundError), self._asking("removed", path):
            self._again(lambda: obstore.delete(self._once, path), tries=MANY)

    def scratch(self) -> Path:
        """In the machine's temporary directory, one per output."""
        return scratch_here(self.root)

    def _put(
        self,
        path: str,
        content: bytes | Path,
        *,
        new: bool = False,
        kind: type[ShardscribeError] = SplitError,
    ) -> str:
        """Puts an object, in one piece if it is not large.

        Returns:
            ``new``; or, of a conditional put, ``there`` for another's object, and ``unsure`` if
            it may be what an earlier try of this call put there.
        """
        import obstore

        tried = 0

        def once() -> str:
            nonlocal tried
            tried += 1
            try:
                if isinstance(content, Path) and content.stat().st_size > parts.LARGE_BYTES:
                    return self._put_large(path, content, new=new, again=tried > 1)
                mode: Any = "create" if new else "overwrite"
                obstore.put(self._once, path, content, mode=mode, use_multipart=False)
            except obstore.exceptions.AlreadyExistsError as error:
                # Also said (409) to several that write at once, of which maybe none has written.
                if new and self._has(path):
                    return "unsure" if tried > 1 else "there"
                raise Conflict(reason(error)) from None
            except FileNotFoundError as error:
                raise OSError(f"there is no such bucket: {reason(error)}") from error
            return "new"

        with self._asking("written", path, kind=kind):
            return self._again(once, tries=MANY)

    def _put_large(self, path: str, local: Path, *, new: bool, again: bool) -> str:
        """Puts an object in parts.

        There is no condition for these in all stores, so the name is looked at first. Whoever
        writes to it meanwhile is at work on the same split, or it would have another name.
        """
        there = "unsure" if again else "there"
        if new and self._has(path):
            return there
        try:
            parts.put_parts(self._rest, path, local)
        except FileNotFoundError:
            # The store knows of no such upload: it ended, and the answer that said so was lost.
            if not self._has(path):
                raise
            return "unsure"
        return "new"

    def _has(self, path: str) -> bool:
        import obstore

        try:
            obstore.head(self.client, path)
        except FileNotFoundError:
            return False
        return True

    def _again(self, call: Callable[[], T], *, tries: int = FEW) -> T:
        """Calls again what obstore does not: answers cut short, and puts and removals at all."""
        seconds = PATIENCE if self._asked else FIRST_PATIENCE
        return again(call, tries=tries, seconds=seconds, pauses=(FIRST_PAUSE, LONGEST_PAUSE))


def _remote_entry(item: Any) -> Entry:
    version = (item["e_tag"] or "").strip('"') or item["last_modified"].isoformat()
    return Entry(item["path"], item["size"], version)
