"""A large file put into an object store in parts, of which nothing shows before the last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.moves import line

# What is put in one piece is held in memory, and stores take 5 GB so; most output is smaller.
LARGE_BYTES = 256 * 1024 * 1024
# S3 takes 10,000 parts: files of up to 312 GB.
PART_BYTES = 32 * 1024 * 1024
PARTS_AT_ONCE = 4


def put_parts(client: Any, path: str, local: Path) -> None:
    """Puts a file in parts; each is tried again by the client, as often as it is told to.

    Args:
        client: Of obstore.
        path: The object's name.
        local: The file.
    """
    import obstore

    moves = line()  # found here: the client may read in another thread

    def pieces() -> Iterator[bytes]:
        with local.open("rb") as file:
            while piece := file.read(PART_BYTES):
                moves.moved()
                yield piece

    obstore.put(
        client,
        path,
        pieces(),
        use_multipart=True,
        chunk_size=PART_BYTES,
        max_concurrency=PARTS_AT_ONCE,
    )
