"""How long a Delta table of many files takes to plan, and how much memory.

    python benchmarks/delta.py --files 100000

The log is made up, of one commit or, with ``--checkpoint``, of a checkpoint; a single data file is
there, as a plan opens no other.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml


def write_table(path: Path, files: int, *, checkpoint: bool) -> None:
    """A table of so many files in 100 partitions, with statistics."""
    from deltalake import DeltaTable, write_deltalake

    first = pa.table({"id": [0], "text": ["a text"], "day": ["day-00"]})
    write_deltalake(path, first, partition_by=["day"])
    log = path / "_delta_log" / f"{1:020}.json"
    with log.open("w") as lines:
        for number in range(1, files):
            day = f"day-{number % 100:02}"
            stats = {
                "numRecords": 1000,
                "minValues": {"id": number * 1000, "text": "a"},
                "maxValues": {"id": number * 1000 + 999, "text": "z"},
                "nullCount": {"id": 0, "text": 0},
            }
            add = {
                "path": f"day={day}/part-{number:08}-0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0.parquet",
                "partitionValues": {"day": day},
                "size": 100_000 + number,
                "modificationTime": 1_700_000_000_000,
                "dataChange": True,
                "stats": json.dumps(stats),
            }
            lines.write(json.dumps({"add": add}) + "\n")
    if checkpoint:
        DeltaTable(path).create_checkpoint()


def plan(job: str) -> None:
    """Plans a job, and prints what it took."""
    started = time.perf_counter()
    from pipeline.job.check import check, pin
    from pipeline.job.file import load_job
    from pipeline.planning import look

    pinned = pin(check(load_job(job)))
    found = look(pinned)
    took = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"splits": found.splits, "seconds": round(took, 2), "mb": round(memory)}))


def main() -> None:
    """Makes the table, and plans a job over it in a process of its own."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--files", type=int, default=100_000)
    options.add_argument("--checkpoint", action="store_true")
    options.add_argument("--filter", help='of the job, such as "id < 90000000"')
    options.add_argument("--plan", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.plan:
        plan(given.plan)
        return
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder) / "lake"
        write_table(lake, given.files, checkpoint=given.checkpoint)
        job = Path(folder) / "job.yaml"
        content: dict[str, Any] = {
            "name": "many",
            "input": {"path": str(lake)},
            "output": {"path": str(Path(folder) / "out")},
            "tasks": {"mood": {"kind": "classify", "model": "starter/sentiment"}},
        }
        if given.filter:
            content["input"]["filter"] = given.filter
        job.write_text(yaml.safe_dump(content))
        command = [sys.executable, __file__, "--plan", str(job)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


if __name__ == "__main__":
    main()
