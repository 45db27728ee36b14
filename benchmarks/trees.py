"""How long a tree of 10,000 files in 500 partitions takes to list, prune and cut.

python benchmarks/trees.py
"""

import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.lake.source.choice import Choice
from pipeline.lake.source.open import open_source
from pipeline.lake.split import Cut

PARTITIONS, FILES = 500, 20
FILTERS = (None, "day = 499", "day >= 250 AND id > 5")


def make(root: Path) -> None:
    """Writes a tree of small files."""
    for day in range(PARTITIONS):
        directory = root / f"day={day:03}"
        directory.mkdir()
        for part in range(FILES):
            table = pa.table({"id": [day * FILES + part], "text": ["a text"]})
            pq.write_table(table, directory / f"part-{part}.parquet")


def main() -> None:
    """Prints a row of a table for each filter."""
    print("| filter | splits | seconds | processor seconds |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        make(root)
        for where in FILTERS:
            clock, processor = time.perf_counter(), time.process_time()
            source = open_source(str(root), choice=Choice(where))
            listing = source.listing()
            source = source.settled(listing)
            splits = list(source.splits(listing.files, fingerprint="f", cut=Cut()))
            clock, processor = time.perf_counter() - clock, time.process_time() - processor
            print(f"| {where or 'none'} | {len(splits):,} | {clock:.2f} | {processor:.2f} |")


if __name__ == "__main__":
    main()
