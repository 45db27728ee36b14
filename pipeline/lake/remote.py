"""S3, Google Cloud Storage and Azure, through `obstore`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.errors import JobError
from pipeline.lake.store import HIDDEN, Entry, Store

# One request to an object store fetches at least this much.
REMOTE_BUFFER = 4 * 1024 * 1024


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

    def entries(self) -> Iterator[Entry]:
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

    def replace(self, path: str, local: Path) -> None:
        """A plain put, which is atomic."""
        import obstore

        obstore.put(self.client, path, local, use_multipart=False)

    def create(self, path: str, content: bytes) -> bool:
        """A conditional put."""
        import obstore

        try:
            obstore.put(self.client, path, content, mode="create")
        except obstore.exceptions.AlreadyExistsError:
            return False
        return True

    def read(self, path: str) -> bytes | None:
        """A plain get."""
        import obstore

        try:
            return bytes(obstore.get(self.client, path).bytes())
        except FileNotFoundError:
            return None

    def names(self, directory: str) -> list[str]:
        """The common prefixes below a prefix."""
        import obstore

        found = obstore.list_with_delimiter(self.client, directory)["common_prefixes"]
        return [prefix.rstrip("/").rpartition("/")[2] for prefix in found]

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


def _remote_entry(item: Any) -> Entry:
    version = (item["e_tag"] or "").strip('"') or item["last_modified"].isoformat()
    return Entry(item["path"], item["size"], version)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
