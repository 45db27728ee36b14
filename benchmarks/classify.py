"""Classify real reviews: shardscribe against transformers' text-classification pipeline.

Both read the same Parquet files with the same model on the same cores, and both are warm. What
is timed is the whole path: read, tokenize, infer; shardscribe also writes and commits its output.
The two alternate; the result is the ratio of the medians. Labels must be equal and scores within
1e-4, or the benchmark fails.

    python benchmarks/classify.py --rows 600 --rounds 3
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import pyarrow as pa
import pyarrow.dataset as pads
import torch
import transformers
from datasets import load_dataset

from pipeline.check import check, pin
from pipeline.engine.annotator import Annotator
from pipeline.job import Job
from pipeline.starter import catalog
from pipeline.starter.samples import write_reviews

TOLERANCE = 1e-4
MODEL = "starter/sentiment"


def write_fitting(directory: Path, *, rows: int) -> int:
    """Real reviews that fit the model whole, so that both sides see the same tokens."""
    write_reviews(directory / "all", rows=rows, shards=1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(catalog.folder(MODEL))
    table = pads.dataset(directory / "all").to_table()
    lengths = [len(ids) for ids in tokenizer(table["text"].to_pylist())["input_ids"]]
    fits = table.filter(pa.array([length <= 512 for length in lengths]))
    (directory / "input").mkdir()
    pads.write_dataset(fits, directory / "input", format="parquet")
    return sum(length for length in lengths if length <= 512)


def run_pipeline(classifier, directory: Path) -> list[tuple[str, float]]:
    """The documented way: a dataset streamed through the pipeline in batches."""
    from transformers.pipelines.pt_utils import KeyDataset

    rows = load_dataset(
        "parquet", data_files=str(directory / "input/*.parquet"), split="train", keep_in_memory=True
    )
    answers = classifier(KeyDataset(rows, "text"), batch_size=32, truncation=True)
    return [(answer["label"], answer["score"]) for answer in answers]


def run_shardscribe(annotator: Annotator, job: Job) -> None:
    """The worker's own path, from Parquet to committed Parquet, planning included."""
    for split in pin(check(job)).splits():
        annotator.annotate(split)


def read_output(directory: Path) -> list[tuple[str, float]]:
    """Labels and scores in row order."""
    column = pads.dataset(directory, format="parquet").to_table()["sentiment"].to_pylist()
    return [(row["label"], row["score"]) for row in column]


def main() -> int:
    """Measures, checks, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--need", type=float, default=3.0, help="fail below this ratio")
    options = parser.parse_args()
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        tokens = write_fitting(directory, rows=options.rows)
        folder = catalog.folder(MODEL)
        classifier = transformers.pipeline("text-classification", str(folder), device="cpu")
        theirs, ours = [], []
        for number in range(options.rounds + 1):  # the first round warms both up
            job = Job.model_validate(
                {
                    "name": "bench",
                    "input": {"path": str(directory / "input")},
                    "output": {"path": str(directory / f"output-{number}")},
                    "tasks": {"sentiment": {"kind": "classify", "model": MODEL}},
                    "compute": {"device": "cpu"},
                }
            )
            annotator = Annotator(pin(check(job)).work(device="cpu", threads=threads))
            started = time.perf_counter()
            expected = run_pipeline(classifier, directory)
            theirs.append(time.perf_counter() - started)
            started = time.perf_counter()
            run_shardscribe(annotator, job)
            ours.append(time.perf_counter() - started)
            found = read_output(directory / f"output-{number}")
            check_equal(expected, found)
            print(f"round {number}: pipeline {theirs[-1]:.2f} s, shardscribe {ours[-1]:.2f} s")
        rows = len(expected)
    a, b = statistics.median(theirs[1:]), statistics.median(ours[1:])
    print(f"\n{rows} reviews, {tokens:,} tokens, {threads} cores ({platform.machine()})")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {MODEL}")
    print("| way | rows/s | tokens/s | median s |\n|---|---|---|---|")
    print(f"| pipeline, batch_size=32 | {rows / a:.1f} | {tokens / a:,.0f} | {a:.2f} |")
    print(f"| shardscribe, one worker | {rows / b:.1f} | {tokens / b:,.0f} | {b:.2f} |")
    print(f"\nratio of medians: {a / b:.2f}x; labels equal, scores within {TOLERANCE:g}")
    return 0 if a / b >= options.need else 1


def check_equal(expected: list[tuple[str, float]], found: list[tuple[str, float]]) -> None:
    """Fails unless both gave the same labels and nearly the same scores."""
    if len(expected) != len(found):
        raise SystemExit(f"{len(expected)} rows expected, {len(found)} found")
    for row, (one, other) in enumerate(zip(expected, found, strict=True)):
        if one[0] != other[0] or abs(one[1] - other[1]) > TOLERANCE:
            raise SystemExit(f"row {row}: {one} expected, {other} found")


if __name__ == "__main__":
    sys.exit(main())
