"""What it costs to read a file of one row group in ranges of rows, all of them, by some workers.

Writes a file of texts, cuts it as a job does whose model writes, and reads the splits in turns,
each worker with a source of its own: from the disk, and by what an object store would be asked for.

    python benchmarks/ranges.py
    python benchmarks/ranges.py --rows 1000000 --workers 8 --columns text
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.job.input import cut_of
from pipeline.lake.source.base import Source
from pipeline.lake.source.files import FileSource
from pipeline.lake.split import Split
from pipeline.lake.store.local import LocalStore
from pipeline.lake.store.ranges import Ranges

NOISE_BYTES = 105  # of each row, in hexadecimal digits: what no compression makes much smaller
AT_ONCE = 10_000


class CountingStore(LocalStore):
    """A directory, read as an object store is; counts what is fetched."""

    requests = fetched = 0

    def open(self, path: str) -> pa.PythonFile:
        """A file that fetches ranges."""
        file = (self.base / path).open("rb")

        def fetch(start: int, end: int) -> bytes:
            CountingStore.requests += 1
            CountingStore.fetched += end - start
            file.seek(start)
            return file.read(end - start)

        return pa.PythonFile(Ranges(fetch, (self.base / path).stat().st_size), mode="r")


def write(path: Path, rows: int) -> None:
    """A file of one row group."""
    chance, parts = np.random.default_rng(0), []
    for first in range(0, rows, AT_ONCE):
        ids = range(first, min(rows, first + AT_ONCE))
        noise = [chance.bytes(NOISE_BYTES).hex() for _ in ids]
        parts.append(pa.table({"id": ids, "text": [f"row {n}" for n in ids], "body": noise}))
    pq.write_table(pa.concat_tables(parts), path, row_group_size=rows)


def read(source: Source, splits: list[Split], *, workers: int, columns: list[str]) -> int:
    """All splits, by workers that take turns; gives the most bytes that Arrow held meanwhile."""
    sources = [pickle.loads(pickle.dumps(source)) for _ in range(workers)]
    most = 0
    for number, split in enumerate(splits):
        with closing(sources[number % workers].open(split)) as found:
            rows = sum(batch.num_rows for batch in found.batches(columns))
        assert rows == found.rows
        most = max(most, pa.total_allocated_bytes())
    return most


def main() -> None:
    """Measures, and prints a line for each kind of store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--columns", nargs="*", default=["id", "text", "body"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "one.parquet"
        write(path, options.rows)
        size = path.stat().st_size
        for store in (LocalStore(made), CountingStore(made)):
            source = FileSource(store, made)
            cut = cut_of("auto", writes=True, texts=("text",))
            splits = list(source.splits(source.listing().files, fingerprint="f", cut=cut))
            CountingStore.requests = CountingStore.fetched = 0
            began = time.process_time()
            held = read(source, splits, workers=options.workers, columns=options.columns)
            took = time.process_time() - began
            print(
                f"{type(store).__name__}: {size / 1e6:,.0f} MB in {len(splits):,} splits, "
                f"{options.workers} workers: {took:.1f} s of processor, "
                f"{held / options.workers / 1e6:.0f} MB held by each"
            )
            if CountingStore.requests:
                times, requests = CountingStore.fetched / size, CountingStore.requests
                print(f"  {times:.2f} times the file in {requests:,} requests")


if __name__ == "__main__":
    main()
