"""A uniform sample of a dataset's texts, the same however it is cut into files."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def sample_texts(
    tables: Iterable[pa.Table], names: Sequence[str], *, rows: int, seed: int
) -> list[dict[str, Any]]:
    """The rows whose texts have the smallest hashes, in their order; each text counts once.

    Args:
        tables: Of the dataset.
        names: The columns that are taken; the first is the text. Blank texts are left out.
        rows: How many, if there are so many.
        seed: Of the hash.
    """
    kept: list[tuple[int, str, dict[str, Any]]] = []
    there: set[str] = set()
    for table in tables:
        columns = [table[name].to_pylist() for name in names]
        for values in zip(*columns, strict=True):
            text = values[0]
            if not isinstance(text, str) or not text.strip() or text in there:
                continue
            # Not the hash that training divides rows by: all would be in one part.
            digest = hashlib.sha256(f"sample {seed} {text}".encode()).digest()
            entry = (-int.from_bytes(digest, "big"), text, dict(zip(names, values, strict=True)))
            if len(kept) < rows:
                heapq.heappush(kept, entry)
            elif entry > kept[0]:
                there.discard(heapq.heapreplace(kept, entry)[1])
            else:
                continue
            there.add(text)
    return [row for *_, row in sorted(kept, key=lambda entry: -entry[0])]
