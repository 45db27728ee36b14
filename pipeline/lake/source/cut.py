"""Files -> splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.lake.memory import Memory
from pipeline.lake.split import RowGroups, Split
from pipeline.lake.store.base import Entry, Store

# A larger file is cut into runs of row groups of about this many bytes. It decides output names,
# so it is part of the fingerprint.
SPLIT_BYTES = 256 * 1024 * 1024
# A footer is a small read: what counts is the answer time of an object store.
FOOTER_THREADS = 16


def splits_of(
    store: Store,
    files: Sequence[Entry],
    *,
    fingerprint: str,
    split_bytes: int = SPLIT_BYTES,
    memory: Memory | None = None,
) -> Iterator[Split]:
    """Cuts files into splits.

    Only the footers of files over `split_bytes` are read, many at once.

    Args:
        store: Of the dataset.
        files: Of the dataset.
        fingerprint: Of the job.
        split_bytes: How large a split may be.
        memory: Spares the reading of footers that were read before.
    """

    def sizes_of(entry: Entry) -> Sequence[int]:
        known = None if memory is None else memory.get(entry.path, entry.version)
        return _row_group_sizes(store, entry) if known is None else known

    large = [entry for entry in files if entry.size > split_bytes]
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        found = dict(zip(large, threads.map(sizes_of, large), strict=True))
    for entry in files:
        sizes = found.get(entry, ())
        if sizes and memory is not None:
            memory.put(entry.path, entry.version, sizes)
        runs = _runs(sizes, split_bytes)
        if len(runs) < 2:
            yield Split.of(entry, fingerprint=fingerprint)
            continue
        for first, last, size in runs:
            yield Split.of(entry, fingerprint=fingerprint, region=RowGroups(first, last), size=size)


def _row_group_sizes(store: Store, entry: Entry) -> list[int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(store.open(entry.path)) as file:
            return [
                sum(group.column(c).total_compressed_size for c in range(group.num_columns))
                for group in map(file.metadata.row_group, range(file.metadata.num_row_groups))
            ]
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return []  # a broken file is one split, which fails by itself with a clear message


def _runs(sizes: Sequence[int], split_bytes: int) -> list[tuple[int, int, int]]:
    """First and last row group and bytes of each split of a file."""
    runs: list[tuple[int, int, int]] = []
    for index, size in enumerate(sizes):
        if runs and runs[-1][2] + size <= split_bytes:
            runs[-1] = (runs[-1][0], index, runs[-1][2] + size)
        else:
            runs.append((index, index, size))
    return runs
