"""How long a tree of 10,000 files in 500 partitions takes to list, prune, look at and cut.

python benchmarks/trees.py
"""

import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.lake.memory import Memory
from pipeline.lake.source.alike import Needs, remembered
from pipeline.lake.source.choice import Choice
from pipeline.lake.source.open import open_source
from pipeline.lake.split import Cut
from pipeline.lake.store.local import LocalStore

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


def plan(root: Path, where: str | None, own: Path) -> int:
    """Plans as a run does; how many splits there are."""
    source = open_source(str(root), choice=Choice(where))
    listing = source.listing()
    source = source.settled(listing)
    memory = Memory(LocalStore(str(own)), "schemas")
    source = source.alike(listing.files, Needs(), listing.told, memory)
    memory.save(remembered(listing.files, memory))
    return len(list(source.splits(listing.files, fingerprint="f", cut=Cut())))


def main() -> None:
    """Prints a row of a table for each filter, without and with what is kept from run to run."""
    print("| filter | footers | splits | seconds | processor seconds |\n|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory, "tree")
        root.mkdir()
        make(root)
        for where in FILTERS:
            own = Path(directory, f"own of {where}")
            for footers in ("read", "remembered"):
                clock, processor = time.perf_counter(), time.process_time()
                splits = plan(root, where, own)
                clock, processor = time.perf_counter() - clock, time.process_time() - processor
                name = where or "none"
                print(f"| {name} | {footers} | {splits:,} | {clock:.2f} | {processor:.2f} |")


if __name__ == "__main__":
    main()
