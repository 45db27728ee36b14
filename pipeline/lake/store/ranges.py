"""An object of a store as a file: fetches the blocks that are read and keeps the last few."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable

# What one request fetches at least, and how many such blocks an open file keeps: columns are
# read in turns, a megabyte each.
BLOCK = 1024 * 1024
BLOCKS_KEPT = 16


class Ranges(io.RawIOBase):
    """An object as a file.

    Args:
        fetch: Gives the bytes from a start to an end.
        size: Of the object.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._get = fetch
        self._size = size
        self._at = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position and tells it; nothing is fetched."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, all that are left if `size` is negative or None."""
        start = min(self._at, self._size)
        end = self._size if size is None or size < 0 else min(start + size, self._size)
        if start == end:
            return b""
        first, last = start // BLOCK, (end - 1) // BLOCK
        blocks = self._fetch(first, last)
        self._at = end
        return b"".join(blocks)[start - first * BLOCK : end - first * BLOCK]

    def _fetch(self, first: int, last: int) -> list[bytes]:
        wanted = range(first, last + 1)
        missing = [number for number in wanted if number not in self._blocks]
        if missing:
            # One request from the first missing block to the last.
            begin, end = missing[0] * BLOCK, min((missing[-1] + 1) * BLOCK, self._size)
            raw = self._get(begin, end)
            for number in range(missing[0], missing[-1] + 1):
                at = number * BLOCK - begin
                self._blocks[number] = raw[at : at + BLOCK]
        found = []
        for number in wanted:
            self._blocks.move_to_end(number)
            found.append(self._blocks[number])
        while len(self._blocks) > BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return found
