"""Where shardscribe keeps its own files of an output: lease, records, unfinished files.

Beside the output and not in it: Polars reads every file below a directory, whatever its name. A
bucket and a mounted directory have nothing beside them; there it is inside, under a name that all
readers but Polars pass over.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

OWN = ".shardscribe"
MOUNTS = Path("/proc/self/mountinfo")


def own_address(root: str) -> str:
    """The address of our own files of an output.

    It follows from the output's alone, so that all runs look for the lease in one place.

    Args:
        root: The output's address, as its store has it.
    """
    scheme, separator, rest = root.partition("://")
    if separator and scheme != "file":
        parent, slash, name = rest.rstrip("/").rpartition("/")
        inside = f"{root.rstrip('/')}/{OWN}"
        return f"{scheme}://{parent}/{OWN}/{name}" if slash else inside
    path = Path(root.removeprefix("file://"))
    with suppress(ValueError):  # a name that no file can have is shown all the same
        path = path.resolve()
    return str(path / OWN if _is_mount(path) else path.parent / OWN / path.name)


def scratch_here(root: str) -> Path:
    """Where this machine keeps unfinished files of an output that is elsewhere."""
    name = hashlib.sha256(root.encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"shardscribe-{os.getuid()}" / name


def _is_mount(path: Path) -> bool:
    """Also a directory that is mounted from elsewhere on the same disk, as containers do."""
    if path.is_mount():
        return True
    with suppress(OSError, ValueError):
        # As the kernel writes it there.
        name = os.fsencode(path)
        for character in b"\\ \t\n":
            name = name.replace(bytes([character]), b"\\%03o" % character)
        return any(line.split()[4] == name for line in MOUNTS.read_bytes().splitlines())
    return False
