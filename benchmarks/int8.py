"""int8 against float32: whole jobs, `classify` and `ner`, the second look included.

    python benchmarks/int8.py --rows 4800 --rounds 3
    python benchmarks/int8.py --processor --rows 10000

Both jobs read the same real texts with one worker on Ray on all cores, and alternate after a round
that is thrown away; the ratio is that of the medians. What is timed is annotating, workers ready:
the seconds of the sample that margins are measured on are told beside it. With `--processor`, for
machines with other work, both are in this process on one thread, processor time counts, and they
alternate file by file.

Labels, and the places of spans, are held against float32's row by row, and fewer than 99.9 % equal
ones of `classify`, or spans whose F1 is below 0.995, fail the benchmark. Beside them the Hugging
Face pipeline annotates some of the rows, at the best of its batch sizes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pyarrow.dataset as pads
import ray
import torch
import transformers
from peers import Quiet
from texts import digest, lengths, machine, paragraphs, write_lake, write_section

from pipeline.engine.messages import SplitResult, WorkPlan
from pipeline.engine.worker.annotator import Annotator
from pipeline.engine.worker.second_look import decided
from pipeline.job.check import check, pin
from pipeline.job.job import Job
from pipeline.run import run_job
from pipeline.starter import catalog

CASES = {"classify": "starter/sentiment", "ner": "starter/pii"}
PIPELINES = {"classify": "text-classification", "ner": "token-classification"}
EQUAL = 0.999
SPANS = 0.995
DTYPES = ("float32", "int8")
# Of the Hugging Face pipeline; tried on so many rows.
SIZES = (1, 8, 32)
TRIED = 96
FILES = 16


@dataclass
class Measured:
    """One dtype's runs.

    Attributes:
        seconds: Of annotating, by round or by file.
        starting: Of all before it, by round.
        labels: Of the last run, by row.
        twice: Rows that were looked at twice.
    """

    seconds: list[float] = field(default_factory=list)
    starting: list[float] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    twice: int = 0

    def keep(self, output: Path) -> None:
        """Reads what the job has written, and removes it."""
        table = pads.dataset(output, format="parquet").to_table(columns=["id", "task"])
        self.labels = decided(table.sort_by("id")["task"].combine_chunks())
        shutil.rmtree(output)
        shutil.rmtree(output.parent / ".shardscribe", ignore_errors=True)


def job_of(kind: str, dtype: str, *, lake: Path, output: Path) -> Job:
    """What is measured."""
    return Job.model_validate(
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


def on_ray(kind: str, *, lake: Path, work: Path, rounds: int) -> dict[str, Measured]:
    """Whole jobs, round by round."""
    found = {dtype: Measured() for dtype in DTYPES}
    for number in range(rounds + 1):
        for dtype, one in found.items():
            output = work / dtype
            summary = run_job(job_of(kind, dtype, lake=lake, output=output), display=Quiet())
            if summary.exit_code:
                raise SystemExit(f"the job failed: {summary}")
            one.keep(output)
            one.twice = summary.tasks["task"].looked_twice
            if number:  # the first is thrown away
                one.seconds.append(summary.annotate_seconds)
                one.starting.append(summary.seconds - summary.annotate_seconds)
                print(f"  {dtype} {one.seconds[-1]:.1f} s", flush=True)
    return found


def in_this_process(kind: str, *, lake: Path, work: Path) -> dict[str, Measured]:
    """Both jobs on one thread, file by file, by processor time."""
    found = {dtype: Measured() for dtype in DTYPES}
    workers = {}
    for dtype, one in found.items():
        pinned = pin(check(job_of(kind, dtype, lake=lake, output=work / dtype)))
        started = time.process_time()
        worker = Annotator(WorkPlan.of(pinned, device="cpu", threads=1))
        one.starting.append(time.process_time() - started)
        workers[dtype] = worker, pinned.splits()
    for number in range(FILES):
        for dtype in DTYPES if number % 2 else reversed(DTYPES):
            worker, splits = workers[dtype]
            started = time.process_time()
            (answer,) = worker.annotate_all([splits[number]])
            found[dtype].seconds.append(time.process_time() - started)
            if not isinstance(answer, SplitResult):
                raise SystemExit(f"a split failed: {answer}")
            found[dtype].twice += answer.tasks["task"].looked_twice
    for dtype, one in found.items():
        one.keep(work / dtype)
    return found


def peer(kind: str, texts: Sequence[str], *, processor: bool) -> tuple[int, float]:
    """The Hugging Face pipeline: the best of its batch sizes, and rows a second."""
    torch.set_num_threads(1 if processor else os.cpu_count() or 1)
    made = transformers.pipeline(PIPELINES[kind], str(catalog.folder(CASES[kind])), device="cpu")
    clock = time.process_time if processor else time.perf_counter

    def seconds(some: Sequence[str], size: int) -> float:
        started = clock()
        made(list(some), batch_size=size)
        return clock() - started

    seconds(texts[:8], 8)
    best = min(SIZES, key=lambda size: seconds(texts[:TRIED], size))
    return best, len(texts) / seconds(texts, best)


def alike(kind: str, exact: Measured, rough: Measured) -> tuple[float, float | None]:
    """The share of rows with the same labels, and of spans the F1."""
    pairs = list(zip(exact.labels, rough.labels, strict=True))
    equal = sum(a == b for a, b in pairs) / len(pairs)
    if kind != "ner":
        return equal, None
    both = total = 0
    for row in pairs:
        mine, theirs = ({(e["label"], e["start"], e["end"]) for e in found} for found in row)
        both += 2 * len(mine & theirs)
        total += len(mine) + len(theirs)
    return equal, both / total if total else 1.0


def measure(kind: str, texts: Sequence[str], *, lake: Path, work: Path, options: Any) -> str:
    """One line of the table."""
    rows = len(texts)
    if options.processor:
        found = in_this_process(kind, lake=lake, work=work)
        times = {dtype: sum(one.seconds) for dtype, one in found.items()}
    else:
        found = on_ray(kind, lake=lake, work=work, rounds=options.rounds)
        times = {dtype: statistics.median(one.seconds) for dtype, one in found.items()}
    exact, rough = (found[dtype] for dtype in DTYPES)
    size, theirs = peer(kind, texts[: options.peer_rows], processor=options.processor)
    equal, spans = alike(kind, exact, rough)
    sample = statistics.median(rough.starting) - statistics.median(exact.starting)
    medians = [statistics.median(one.seconds) for one in (exact, rough)]
    line = (
        f"| {kind} | {rows / times['float32']:.1f} | {rows / times['int8']:.1f} "
        f"| {medians[0] / medians[1]:.2f} | {theirs:.1f}, {size} "
        f"| {rows / times['int8'] / theirs:.1f} | {equal:.2%} "
        f"| {'' if spans is None else f'{spans:.4f}'} | {rough.twice / rows:.1%} | {sample:.1f} |"
    )
    print(line, flush=True)
    if (equal < EQUAL) if spans is None else (spans < SPANS):
        raise SystemExit(f"{kind}: int8 is too far from float32")
    return line


def main() -> None:
    """Measures, and writes the section of RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=4800)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-rows", type=int, default=600, help="for the Hugging Face pipeline")
    parser.add_argument("--only", choices=sorted(CASES), action="append")
    parser.add_argument("--processor", action="store_true", help="by processor time, on one thread")
    parser.add_argument("--no-write", action="store_true", help="leave RESULTS.md alone")
    options = parser.parse_args()
    texts = paragraphs(options.rows)
    how = (
        f"one thread without Ray, processor time, alternating over {FILES} files"
        if options.processor
        else f"one worker on {os.cpu_count()} threads, medians of {options.rounds} rounds in turn"
    )
    head = (
        f"{machine()}.\n\n{len(texts):,} real texts ({digest(texts)}), {lengths(texts).mean():.0f} "
        f"tokens on average; {how}. Labels are held against those of float32, and so are the "
        "places of spans; `twice` is the share of rows that float32 looked at again, which is in "
        "the time. The sample is measured once a job, before the first split. The Hugging Face "
        f"pipeline, float32: {min(options.peer_rows, len(texts)):,} of the rows, the best "
        f"of batch sizes {', '.join(map(str, SIZES))}.\n\n"
    )
    lines = [
        "| task | float32 rows/s | int8 rows/s | times as fast | pipeline rows/s, batch size "
        "| times the pipeline | equal | F1 of spans | twice | sample, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    if not options.processor:
        ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as scratch:
        lake = write_lake(Path(scratch) / "lake", texts, files=FILES)
        for kind in options.only or CASES:
            work = Path(scratch) / kind
            work.mkdir()
            lines.append(measure(kind, texts, lake=lake, work=work, options=options))
    if not options.processor:
        ray.shutdown()
    table = "\n".join(lines)
    print(table)
    command = f"    python benchmarks/int8.py {' '.join(sys.argv[1:])}".rstrip()
    if not options.no_write:
        write_section("Labels in int8", f"{command}\n\n{head}{table}")


if __name__ == "__main__":
    main()
