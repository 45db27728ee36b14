"""Every file below a local directory, and what is there and can't be read."""

from __future__ import annotations

import errno
import heapq
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import JobError

# Readers of a lake (Spark, pyarrow, Ray) pass over such names, and so do we.
HIDDEN = ("_", ".")
# A link to nowhere, or to itself.
LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def walk(
    base: Path, missed: Callable[[str, str], None] | None = None
) -> Iterator[tuple[str, os.stat_result]]:
    """Gives paths relative to the directory; symbolic links are followed, each directory once.

    A directory that has several names is always listed under the same: the order of the walk is
    that of the names, links last.

    Args:
        base: The directory; where there is none, nothing is listed.
        missed: Told path and reason of what can't be read. Without it, links that lead nowhere
            are passed over.

    Raises:
        JobError: The directory can't be read; or something below it, and nobody is told.
    """

    def miss(path: str, error: OSError) -> None:
        reason = error.strerror or str(error)
        if path and missed is not None:
            missed(path, reason)
        elif error.errno not in LEADS_NOWHERE:
            raise JobError(
                f"{base / path} can't be read: {reason}",
                hint="Check its permissions and the disk",
            ) from error

    seen: set[tuple[int, int]] = set()
    pending: list[tuple[bool, str]] = [(False, "")]
    while pending:
        _, prefix = heapq.heappop(pending)
        try:
            here = (base / prefix).stat()
            if (here.st_dev, here.st_ino) in seen:
                continue
            seen.add((here.st_dev, here.st_ino))
            with os.scandir(base / prefix) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            miss(prefix.rstrip("/"), error)
            continue
        for entry in found:
            if entry.name.startswith(HIDDEN):
                continue
            path = f"{prefix}{entry.name}"
            try:
                status = entry.stat()
            except OSError as error:
                # A file that is deleted meanwhile is gone, and not hidden.
                if error.errno != errno.ENOENT or entry.is_symlink():
                    miss(path, error)
                continue
            if stat.S_ISDIR(status.st_mode):
                heapq.heappush(pending, (entry.is_symlink(), f"{path}/"))
            elif stat.S_ISREG(status.st_mode):
                yield path, status
