"""int8 against float32: whole jobs on Ray, `classify` and `ner`, the second look included.

    python benchmarks/int8.py --rows 4800 --rounds 3
    python benchmarks/int8.py --only classify --rows 10000 --rounds 1

Both jobs read the same real texts with one worker on all cores, and alternate after a round that
is thrown away; the ratio is that of the medians. What is timed is annotating, workers ready: the
seconds of the sample that margins are measured on are told beside it. Labels, and the places of
spans, are held against float32's row by row, and fewer than 99.9 % equal ones fail the benchmark.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pyarrow.dataset as pads
import ray
from peers import Quiet
from texts import digest, lengths, machine, paragraphs, write_lake, write_section

from pipeline.engine.worker.second_look import decided
from pipeline.job.job import Job
from pipeline.run import run_job

CASES = {"classify": "starter/sentiment", "ner": "starter/pii"}
EQUAL = 0.999


@dataclass
class Measured:
    """One dtype's runs.

    Attributes:
        seconds: Of annotating, by round.
        starting: Of all before it, by round.
        labels: Of the last run, by row.
        twice: Rows that were looked at twice.
    """

    seconds: list[float] = field(default_factory=list)
    starting: list[float] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    twice: int = 0


def run(kind: str, dtype: str, *, lake: Path, work: Path, found: Measured) -> None:
    """Runs the job once, into an empty output."""
    output = work / dtype
    job = Job.model_validate(
        {
            "name": "int8",
            "input": {"path": str(lake)},
            "output": {"path": str(output)},
            "tasks": {"task": {"kind": kind, "model": CASES[kind]}},
            "compute": {
                "device": "cpu",
                "dtype": dtype,
                "workers": 1,
                "cpus_per_worker": os.cpu_count(),
            },
        }
    )
    summary = run_job(job, display=Quiet())
    if summary.exit_code:
        raise SystemExit(f"the job failed: {summary}")
    table = pads.dataset(output, format="parquet").to_table(columns=["id", "task"]).sort_by("id")
    found.labels = decided(table["task"].combine_chunks())
    found.twice = summary.tasks["task"].looked_twice
    found.seconds.append(summary.annotate_seconds)
    found.starting.append(summary.seconds - summary.annotate_seconds)
    shutil.rmtree(output)
    shutil.rmtree(work / ".shardscribe", ignore_errors=True)


def measure(kind: str, *, lake: Path, work: Path, rows: int, rounds: int) -> str:
    """One line of the table."""
    found = {"float32": Measured(), "int8": Measured()}
    for number in range(rounds + 1):
        for dtype, one in found.items():
            run(kind, dtype, lake=lake, work=work, found=one)
            if not number:  # thrown away
                one.seconds.clear()
                one.starting.clear()
        print("  " + ", ".join(f"{d} {m.seconds[-1]:.1f} s" for d, m in found.items() if m.seconds))
    exact, rough = found["float32"], found["int8"]
    equal = sum(a == b for a, b in zip(exact.labels, rough.labels, strict=True)) / rows
    times = {dtype: statistics.median(one.seconds) for dtype, one in found.items()}
    sample = statistics.median(rough.starting) - statistics.median(exact.starting)
    line = (
        f"| {kind} | {rows / times['float32']:.0f} | {rows / times['int8']:.0f} "
        f"| {times['float32'] / times['int8']:.2f} | {equal:.3%} | {rough.twice / rows:.1%} "
        f"| {sample:.1f} |"
    )
    if equal < EQUAL:
        raise SystemExit(f"{line}\n{kind}: fewer than {EQUAL:.1%} of rows have float32's labels")
    return line


def main() -> None:
    """Measures, and writes the section of RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=4800)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(CASES), action="append")
    options = parser.parse_args()
    texts = paragraphs(options.rows)
    head = (
        f"{machine()}.\n\n{len(texts):,} real texts ({digest(texts)}), {lengths(texts).mean():.0f} "
        f"tokens on average; one worker on {os.cpu_count()} threads, medians of {options.rounds} "
        "alternating rounds. Labels are held against those of float32, and so are the places of "
        "spans; `twice` is the share of rows that float32 looked at again, which is in the time. "
        "The sample is measured once a job, before the first split.\n\n"
    )
    lines = [
        "| task | float32 rows/s | int8 rows/s | times as fast | equal | twice | sample, s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as scratch:
        lake = write_lake(Path(scratch) / "lake", texts, files=8)
        for kind in options.only or CASES:
            print(kind)
            work = Path(scratch) / kind
            work.mkdir()
            lines.append(
                measure(kind, lake=lake, work=work, rows=len(texts), rounds=options.rounds)
            )
    ray.shutdown()
    table = "\n".join(lines)
    print(table)
    command = f"    python benchmarks/int8.py {' '.join(sys.argv[1:])}".rstrip()
    write_section("Labels in int8", f"{command}\n\n{head}{table}")


if __name__ == "__main__":
    main()
