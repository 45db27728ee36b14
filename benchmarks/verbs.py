"""How fast the verbs answer that compute nothing: seconds and processor seconds, medians.

What keeps them fast, that they load no library that computes, is held by the tests. Needs
``shardscribe models pull`` for the models that the job names.

    python benchmarks/verbs.py
    python benchmarks/verbs.py --times 25
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from pipeline.starter.samples import write_reviews

TASKS = {
    "sentiment": {"kind": "classify", "model": "starter/sentiment"},
    "pii": {"kind": "ner", "model": "starter/pii"},
    "gist": {"kind": "summarize", "model": "starter/minilm", "method": "extractive"},
}


class Took(NamedTuple):
    """Of one call."""

    seconds: float
    processor: float


def call(*arguments: str) -> Took:
    """Runs a command to its end, which must be a good one."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments], check=True, stdout=subprocess.DEVNULL
    )
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(seconds, processor)


def job_file(directory: Path) -> str:
    """A job of three tasks on 120 reviews in 4 files."""
    write_reviews(directory / "reviews", rows=120, shards=4)
    job = {
        "name": "verbs",
        "input": {"path": str(directory / "reviews")},
        "output": {"path": str(directory / "annotated")},
        "tasks": TASKS,
    }
    path = directory / "job.yaml"
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    return str(path)


def table(verbs: Sequence[Sequence[str]], times: int) -> str:
    """The verbs in turn, again and again, as Markdown."""
    took: list[list[Took]] = [[] for _ in verbs]
    for _ in range(times):
        for verb, found in zip(verbs, took, strict=True):
            found.append(call(*verb))
    lines = ["| verb | seconds | processor seconds |", "|---|---:|---:|"]
    for verb, found in zip(verbs, took, strict=True):
        seconds, processor = (statistics.median(each) for each in zip(*found, strict=True))
        lines.append(f"| `{verb[0]}` | {seconds:.2f} | {processor:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=9, help="Calls of each verb.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        job = job_file(Path(directory))
        verbs = (["--help"], ["validate", job], ["status", job], ["models", "list"])
        print(table(verbs, options.times))


if __name__ == "__main__":
    main()
