"""One way to write an object store's address, so that all runs find the same lease by it."""

from __future__ import annotations

import posixpath


def clean(address: str) -> str:
    """An object store's address without ``.``, ``..`` and a slash at its end."""
    scheme, _, rest = address.partition("://")
    bucket, slash, path = rest.partition("/")
    trimmed = path.rstrip("/")
    if not any(part in (".", "..") for part in trimmed.split("/")):
        return f"{scheme}://{bucket}{slash}{trimmed}".rstrip("/") if trimmed else address
    path = posixpath.normpath(f"/{trimmed}").strip("/")
    return f"{scheme}://{bucket}/{path}".rstrip("/")
