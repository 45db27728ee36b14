"""A file's bytes, unpacked and in UTF-8, line by line, each with its place."""

from __future__ import annotations

import codecs
import io
from collections import deque
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from pipeline.errors import JobError
from pipeline.lake.ingest.reading import Place
from pipeline.lake.store.base import Store

# A longer line, or record of several lines, is bad: memory stays bounded.
LONGEST = 64 << 20
BUFFER = 1 << 20
CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
UTF8, UTF8_MARK = "utf-8", codecs.BOM_UTF8
MARKS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# A line, the bytes that it has in the file, and what a line of `LONGEST` was cut to.
Line = tuple[bytes, int]


def codec_of(path: str) -> str | None:
    """The compression that a file's name tells."""
    return next((CODECS[end] for end in CODECS if path.lower().endswith(end)), None)


class Lines:
    """The lines of a file.

    Args:
        store: Where the file is.
        path: Its path there.
        place: Where to begin: at the beginning, or where an earlier reader stood.
        encoding: Of the text; a byte-order mark overrides it.

    Raises:
        OSError: It can't be read, here or later.
    """

    def __init__(self, store: Store, path: str, place: Place, *, encoding: str = UTF8) -> None:
        found = store.open(path)
        self._raw: Any = pa.OSFile(found) if isinstance(found, str) else found
        codec = codec_of(path)
        stream: Any = self._raw if codec is None else pa.CompressedInputStream(self._raw, codec)
        self._stream = io.BufferedReader(stream, BUFFER)
        self._back: deque[Line] = deque()
        start = self._stream.peek(4)[:4]
        encoding = next((name for mark, name in MARKS if start.startswith(mark)), encoding)
        skip = place.at
        if not is_utf8(encoding):
            self._stream = io.BufferedReader(_Transcoded(self._stream, encoding), BUFFER)
        elif codec is None:
            self._stream.seek(skip)
            skip = 0
        while skip and (passed := self._stream.read(min(skip, BUFFER))):
            skip -= len(passed)
        self.at, self.number = place.at, place.line
        if not place.at and self._stream.peek(3)[:3] == UTF8_MARK:
            self.at = len(self._stream.read(3))

    @property
    def place(self) -> Place:
        """Where the next line begins."""
        return Place(self.at, self.number)

    def next(self) -> Line | None:
        """The next line with its end; None after the last."""
        if self._back:
            line = self._back.popleft()
        else:
            raw = self._stream.readline(LONGEST + 1)
            if not raw:
                return None
            line = (raw, len(raw) + (0 if len(raw) <= LONGEST else self._pass_over(raw)))
        self.at += line[1]
        self.number += 1
        return line

    def give_back(self, lines: Iterable[Line]) -> None:
        """Lines that were taken last are given again."""
        for line in reversed(list(lines)):
            self._back.appendleft(line)
            self.at -= line[1]
            self.number -= 1

    def _pass_over(self, raw: bytes) -> int:
        passed = 0
        while raw and not raw.endswith(b"\n"):
            raw = self._stream.readline(BUFFER)
            passed += len(raw)
        return passed

    def consumed(self) -> int:
        """How many bytes of the file have been read, as they are stored."""
        return int(self._raw.tell())

    def close(self) -> None:
        """Lets go of the file."""
        self._stream.close()
        self._raw.close()


def is_utf8(encoding: str) -> bool:
    """Whether an encoding is the one that needs no other.

    Raises:
        JobError: There is no such encoding.
    """
    try:
        found = codecs.lookup(encoding)
        "".encode(encoding)
    except (LookupError, ValueError) as error:
        raise JobError(
            f"there is no encoding {encoding!r}", hint="Name one such as utf-8, cp1252 or utf-16"
        ) from error
    return found.name == UTF8


def what_is_wrong(line: Line) -> str:
    """Why a line can't be text that a row is made of; empty if it can."""
    raw, size = line
    if len(raw) > LONGEST:
        return f"it has {size:,} bytes, more than {LONGEST:,}"
    if b"\0" in raw:
        return "it holds a NUL byte"
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"it is not UTF-8: {error.reason} at byte {error.start}"
    return ""


class _Transcoded(io.RawIOBase):
    """A stream of another encoding as UTF-8; bytes that mean nothing there stay as they are."""

    def __init__(self, stream: io.BufferedReader, encoding: str) -> None:
        self._from = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
        self._left = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left and not self._ended:
            raw = self._from.read(BUFFER // 4)
            self._ended = not raw
            text = self._decoder.decode(raw, final=self._ended)
            self._left = text.encode("utf-8", "surrogateescape")
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count
