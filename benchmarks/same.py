"""Whether another checkout gives the same annotations, job by job, value by value; and how fast.

Runs every job in ``jobs/`` (or those named) with the code here and with that of another checkout,
alternating, each into an output of its own, and compares the annotated columns: every value, scores
bit by bit. What differs is shown with file, row and both values; exit code 1.

    python benchmarks/same.py ../before
    python benchmarks/same.py ../before --jobs movie_reviews embed_reviews --rows 800 --rounds 5

Needs ``shardscribe models pull``. Seconds are wall and processor time of whole runs, Ray's start
included; `annotate` counts from the first worker that is ready, as the run's summary says. With
more rounds than one, ratios are those of medians, before / here.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

HERE = Path(__file__).resolve().parent.parent
# Both before and after the split id came after a region of another form.
NAME = re.compile(r"^(?P<stem>.*)-(?P<region>[^-/]*(?:-\d+)?)-[0-9a-f]{16}\.parquet$")
SHOWN = 5


@dataclass(frozen=True)
class Took:
    """Seconds of one run."""

    wall: float
    processor: float
    annotate: float


def run(checkout: Path, job: Path, *, data: Path, output: Path) -> Took:
    """Runs a job with a checkout's code.

    Raises:
        SystemExit: It did not end with 0.
    """
    environment = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "pipeline", "run", str(job), "--log-format", "json"]
    command += ["--set", f"input.path={data}", "--set", f"output.path={output}"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=data.parent, capture_output=True, text=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{checkout}: {job.name} ended with {done.returncode}: {done.stderr}")
    records = output.parent / ".shardscribe" / output.name / "runs"
    summary = json.loads(next(records.glob("*/summary.json")).read_text())
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(wall, processor, summary["annotate_seconds"])


def rows_of(output: Path, columns: list[str]) -> dict[str, pa.Table]:
    """The annotated columns of an output by input file, in row order."""
    files: dict[str, list[tuple[int, Path]]] = {}
    for path in output.rglob("*.parquet"):
        found = NAME.match(str(path.relative_to(output)))
        assert found, path
        first = re.search(r"\d+", found["region"])
        files.setdefault(found["stem"], []).append((int(first[0]) if first else 0, path))
    return {
        stem: pa.concat_tables([pq.read_table(path, columns=columns) for _, path in sorted(parts)])
        for stem, parts in files.items()
    }


def differences(before: Path, after: Path, columns: list[str]) -> tuple[int, list[str]]:
    """How many values were compared, and what differs between two outputs."""
    first, second = rows_of(before, columns), rows_of(after, columns)
    if first.keys() != second.keys():
        return 0, [f"files: {sorted(first.keys() ^ second.keys())}"]
    told, values = [], 0
    for stem, table in first.items():
        for name in columns:
            one, other = table.column(name), second[stem].column(name)
            values += len(one)
            if one.type != other.type or len(one) != len(other):
                told.append(f"{stem}, {name}: {one.type} x {len(one)}, {other.type} x {len(other)}")
            elif not one.combine_chunks().equals(other.combine_chunks()):
                pairs = enumerate(zip(one.to_pylist(), other.to_pylist(), strict=True))
                told += [f"{stem}, row {i}, {name}:\n  {a}\n  {b}" for i, (a, b) in pairs if a != b]
    return values, told


def sample(kind: str, rows: int, directory: Path) -> Path:
    """The data that a job's header names, cut to some rows."""
    where = directory / kind
    if not where.exists():
        name = "long-reviews" if kind == "long-reviews" else "reviews"
        given = ["--rows", str(rows), "--shards", "2"] if name == "reviews" else []
        command = [sys.executable, "-m", "pipeline", "samples", "write", name, str(where), *given]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        if not given:
            for path in where.glob("*.parquet"):
                pq.write_table(pq.read_table(path).slice(0, rows), path)
    return where


def main() -> int:
    """Compares, and prints a line for each job."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--jobs", nargs="*", help="names in jobs/, without .yaml; all by default")
    parser.add_argument("--rows", type=int, default=400, help="of the reviews")
    parser.add_argument("--written", type=int, default=12, help="rows where a model writes")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    names = options.jobs or sorted(p.stem for p in (HERE / "jobs").glob("*.yaml"))
    names = [name for name in names if not name.startswith("train_")]
    failed = False
    with tempfile.TemporaryDirectory() as made:
        for name in names:
            path = HERE / "jobs" / f"{name}.yaml"
            job = yaml.safe_load(path.read_text())
            writes = "smollm2" in path.read_text()
            kind = Path(job["input"]["path"]).name
            rows = options.written if writes else options.rows
            data = sample(kind, rows, Path(made) / ("written" if writes else "read"))
            took: dict[Path, list[Took]] = {options.before.resolve(): [], HERE: []}
            for at in range(options.rounds):
                order = list(took) if at % 2 == 0 else list(reversed(took))
                for checkout in order:
                    where = Path(made) / name / f"{checkout.name}-{list(took).index(checkout)}-{at}"
                    where.mkdir(parents=True)
                    took[checkout].append(run(checkout, path, data=data, output=where / "out"))
            outputs = [
                Path(made) / name / f"{checkout.name}-{at}-0" / "out"
                for at, checkout in enumerate(took)
            ]
            values, told = differences(outputs[0], outputs[1], list(job["tasks"]))
            print(f"{name}: {values} values, {len(told)} differ", end="")
            for what in ("wall", "processor", "annotate"):
                first, second = (
                    statistics.median(getattr(t, what) for t in found) for found in took.values()
                )
                print(f"; {what} {first:.2f} -> {second:.2f} s ({first / second:.2f}x)", end="")
            print(flush=True)
            for text in told[:SHOWN]:
                print(text)
            failed |= bool(told)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
