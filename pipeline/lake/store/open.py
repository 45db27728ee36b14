"""An address -> the store that it names."""

from __future__ import annotations

from pipeline.errors import JobError
from pipeline.lake.store.address import clean, local_path
from pipeline.lake.store.base import Store
from pipeline.lake.store.local import LocalStore

SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")


def open_store(root: str) -> Store:
    """The store of an address.

    Args:
        root: A local directory, relative to the working directory or absolute, or a URL.

    Raises:
        JobError: The scheme is unknown or the address makes no sense.
    """
    scheme, separator, _ = root.partition("://")
    if not separator or scheme == "file":
        return LocalStore(str(local_path(root.removeprefix("file://")).resolve()))
    if scheme not in SCHEMES:
        raise JobError(
            f"{root}: the scheme {scheme}:// is unknown",
            hint=f"Use a local path or one of {', '.join(s + '://' for s in SCHEMES)}",
        )
    from pipeline.lake.store.remote import RemoteStore

    return RemoteStore(clean(root))
