"""Addresses as people write them, made one, so that all runs find the same lease by them."""

from __future__ import annotations

import posixpath
from pathlib import Path

from pipeline.errors import JobError, one_line
from pipeline.escape import visible


def clean(address: str) -> str:
    """An object store's address without ``.``, ``..`` and a slash at its end."""
    scheme, _, rest = address.partition("://")
    bucket, slash, path = rest.partition("/")
    trimmed = path.rstrip("/")
    if not any(part in (".", "..") for part in trimmed.split("/")):
        return f"{scheme}://{bucket}{slash}{trimmed}".rstrip("/") if trimmed else address
    path = posixpath.normpath(f"/{trimmed}").strip("/")
    return f"{scheme}://{bucket}/{path}".rstrip("/")


def local_path(text: str) -> Path:
    """The local path that somebody has written, with ``~`` for a home.

    Raises:
        JobError: No file can be there: it is too long, holds a NUL, or names nobody's home.
    """
    try:
        path = Path(text).expanduser()
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except PermissionError as error:
        raise JobError(
            f"{visible(text, most=100)} can't be looked at: no permission",
            hint="Check the permissions of the directories above it",
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or one_line(error, most=100)
        shown = visible(text, most=100)
        raise JobError(f"{shown} can't be a path: {reason}", hint="Check how it is written") from (
            error
        )
    return path
