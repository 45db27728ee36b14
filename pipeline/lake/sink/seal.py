"""The seal of an output file: in its footer, how large it is and what all its bytes hash to.

Parquet's checksums are of pages alone; a bit that flips in a footer or in a page's header passes
them. The seal is written over a blank of the same length when the file is finished.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

SEAL_KEY = b"shardscribe.seal"
SEAL = re.compile(rb"(\d{20}) ([0-9a-f]{64})")
BLANK = b"0" * 20 + b" " + b"0" * 64
# Of the footer's length and the magic word, behind the footer.
TAIL_BYTES = 8
STEP = 1 << 20


def seal(path: Path) -> tuple[int, bytes]:
    """Seals a finished file whose metadata holds the blank.

    Returns:
        Its size, and all from where its footer starts.
    """
    with path.open("r+b") as file:
        size, start, tail = _tail(file)
        at = tail.rindex(BLANK)
        digest = _digest(file, start, tail)
        written = b"%020d %s" % (size, digest)
        file.seek(start + at)
        file.write(written)
    return size, tail[:at] + written + tail[at + len(BLANK) :]


def sealed_size(metadata: Mapping[bytes, bytes] | None) -> int | None:
    """How large a file was when it was sealed; -1 if its seal is spoilt, None if it has none."""
    value = (metadata or {}).get(SEAL_KEY)
    if value is None:
        return None
    found = SEAL.fullmatch(value)
    return int(found[1]) if found else -1


def is_broken(path: Path, metadata: Mapping[bytes, bytes] | None) -> bool:
    """Whether a file is not what was sealed; reads all of it. One without a seal is not broken.

    Args:
        path: The file.
        metadata: Of the file, as its footer has it.
    """
    value = (metadata or {}).get(SEAL_KEY)
    with path.open("rb") as file:
        size, start, tail = _tail(file)
        if value is None:
            return SEAL.search(tail) is not None  # the seal's name is what is spoilt
        blank = BLANK.join(tail.rsplit(value, 1))
        return value != b"%020d %s" % (size, _digest(file, start, blank))


def _tail(file: BinaryIO) -> tuple[int, int, bytes]:
    """A file's size, where its footer starts, and all from there."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL_BYTES))
    length = int.from_bytes(file.read(4), "little")
    start = max(0, size - TAIL_BYTES - length)
    file.seek(start)
    return size, start, file.read()


def _digest(file: BinaryIO, start: int, tail: bytes) -> bytes:
    digest = hashlib.sha256()
    file.seek(0)
    for at in range(0, start, STEP):
        digest.update(file.read(min(STEP, start - at)))
    digest.update(tail)
    return digest.hexdigest().encode()
