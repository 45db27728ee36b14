"""Whether two addresses are one place, or one lies in the other, however they are written."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.lake.store.base import Store
from pipeline.lake.store.local import LocalStore

# Schemes by which the same store goes.
KINDS = {"s3": "s3", "s3a": "s3", "gs": "gs", "az": "az", "abfs": "az", "abfss": "az"}


def is_within(inner: Store, outer: Store) -> bool:
    """Whether a place is another one or lies below it.

    Directories are told by what they are and not by their names: links, mounts and letters that
    the file system does not tell apart give one many names.
    """
    if isinstance(inner, LocalStore) and isinstance(outer, LocalStore):
        try:
            at = outer.base.stat()
        except OSError:
            return _below(inner.base.resolve(), outer.base.resolve())
        above = inner.base.resolve()
        return any(_is(path, at) for path in (above, *above.parents))
    if isinstance(inner, LocalStore) or isinstance(outer, LocalStore):
        return False
    one, other = _remote(inner.root), _remote(outer.root)
    # Of an account that an address does not name it is not known which it is.
    accounts = {account for account in (one[2], other[2]) if account}
    return one[:2] == other[:2] and len(accounts) < 2 and one[3][: len(other[3])] == other[3]


def _remote(address: str) -> tuple[str, str, str, tuple[str, ...]]:
    """Kind, bucket or container, account if it is named, and the parts of the path."""
    url = urlsplit(address)
    bucket, at, host = url.netloc.rpartition("@")
    if not at:
        bucket, host = url.netloc, ""
    path = posixpath.normpath(unquote(f"/{url.path}")).strip("/")
    parts = tuple(path.split("/")) if path else ()
    return KINDS[url.scheme.lower()], bucket.lower(), host.partition(".")[0].lower(), parts


def _below(inner: Path, outer: Path) -> bool:
    return inner == outer or outer in inner.parents


def _is(path: Path, at: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), at)
    except OSError:
        return False
