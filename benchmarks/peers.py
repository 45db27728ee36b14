"""The same rows, model and cores: this project against what people would use instead.

Every way is warm before it is timed: models are loaded and one round is thrown away. What is
timed of shardscribe is the whole job on Ray, from the first read to the last committed file. The
Hugging Face pipeline gets a streamed dataset and the best of four batch sizes; Ray Data gets the
same pipeline in one actor with all cores, as its documentation shows, without its start-up;
sentence-transformers gets a list in memory and the best of three batch sizes, and writes nothing.
The ways alternate; the ratio is that of the medians. Results must be equal, or the benchmark fails.

    python benchmarks/peers.py --rows 4800 --rounds 3
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import pyarrow.dataset as pads
import ray
import ray.data
import torch
import transformers
from datasets import load_dataset
from texts import digest, lengths, machine, paragraphs, write_lake, write_section

from pipeline.job.job import Job
from pipeline.records.schema import Progress
from pipeline.run import run_job
from pipeline.starter import catalog
from pipeline.tasks.writing.extractive import choose, split_sentences

SCORES = 1e-4
VECTORS = 1e-5
SENTENCES = 2
THREADS = os.cpu_count() or 1


class Quiet:
    """Shows nothing."""

    def notice(self, text: str) -> None:
        print(f"  ({text})")

    def progress(self, progress: Progress) -> None:
        pass


@dataclass
class Way:
    """One way to do it, and how long it took in each round."""

    name: str
    run: Callable[[], tuple[float, Any]]
    seconds: list[float] = field(default_factory=list)
    result: Any = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def ours(
    lake: Path, work: Path, task: dict[str, Any], *, dtype: str = "float32"
) -> Callable[[], tuple[float, Any]]:
    """The whole job on Ray, worker warm."""
    number = 0

    def run() -> tuple[float, Any]:
        nonlocal number
        number += 1
        output = work / f"out-{task['kind']}-{dtype}-{number}"
        job = Job.model_validate(
            {
                "name": "peers",
                "input": {"path": str(lake)},
                "output": {"path": str(output)},
                "tasks": {"task": task},
                "compute": {
                    "device": "cpu",
                    "workers": 1,
                    "cpus_per_worker": THREADS,
                    "dtype": dtype,
                },
            }
        )
        summary = run_job(job, display=Quiet())
        if summary.exit_code:
            raise SystemExit(f"the job failed: {summary}")
        table = pads.dataset(output, format="parquet").to_table(columns=["id", "task"])
        table = table.sort_by("id")
        details.append((task["kind"], summary.padding_share, summary.device_share))
        return summary.annotate_seconds, table["task"].to_pylist()

    return run


details: list[tuple[str, float, float]] = []


def pipeline_way(
    kind: str, model: str, lake: Path, batch_size: int, **options: Any
) -> Callable[[], tuple[float, Any]]:
    """The documented way: a dataset streamed through the pipeline in batches."""
    from transformers.pipelines.pt_utils import KeyDataset

    made = transformers.pipeline(kind, str(catalog.folder(model)), device="cpu", **options)

    def run() -> tuple[float, Any]:
        started = time.perf_counter()
        rows = load_dataset(
            "parquet", data_files=str(lake / "*.parquet"), split="train", keep_in_memory=True
        )
        answers = list(made(KeyDataset(rows, "text"), batch_size=batch_size))
        return time.perf_counter() - started, answers

    return run


class InActor:
    """The pipeline as Ray Data's documentation puts it into an actor."""

    def __init__(self, kind: str, folder: str, batch_size: int, marks: str) -> None:
        torch.set_num_threads(THREADS)
        self.batch_size = batch_size
        self.pipeline = transformers.pipeline(kind, folder, device="cpu")
        self.pipeline(["warm it up"])
        Path(marks).write_text(repr(time.time()))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answers = self.pipeline(list(batch["text"]), batch_size=self.batch_size)
        batch["label"] = np.array([answer["label"] for answer in answers])
        batch["score"] = np.array([answer["score"] for answer in answers])
        return batch


def ray_data(
    kind: str, model: str, lake: Path, work: Path, batch_size: int
) -> Callable[[], tuple[float, Any]]:
    """Ray Data from Parquet to Parquet; the actor's start is not counted."""
    number = 0

    def run() -> tuple[float, Any]:
        nonlocal number
        number += 1
        output, marks = work / f"ray-data-{number}", work / f"ready-{number}"
        rows = ray.data.read_parquet(str(lake)).map_batches(
            InActor,
            fn_constructor_args=(kind, str(catalog.folder(model)), batch_size, str(marks)),
            compute=ray.data.ActorPoolStrategy(size=1),
            batch_size=max(256, batch_size),
            num_cpus=THREADS,
        )
        rows.write_parquet(str(output))
        seconds = time.time() - float(marks.read_text())
        table = pads.dataset(output, format="parquet").to_table().sort_by("id")
        return seconds, table.select(["label", "score"]).to_pylist()

    return run


def sentence_transformer(
    texts: Sequence[str], batch_size: int
) -> Callable[[], tuple[float, np.ndarray]]:
    """`encode` over a list in memory."""
    from sentence_transformers import SentenceTransformer

    made = SentenceTransformer(str(catalog.folder("starter/minilm")), device="cpu")

    def run() -> tuple[float, np.ndarray]:
        started = time.perf_counter()
        vectors = made.encode(
            list(texts),
            batch_size=batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return time.perf_counter() - started, vectors

    return run


def sentence_summaries(
    texts: Sequence[str], batch_size: int
) -> Callable[[], tuple[float, list[str]]]:
    """sentence-transformers for the sentences, then the same ranking."""
    from sentence_transformers import SentenceTransformer

    made = SentenceTransformer(str(catalog.folder("starter/minilm")), device="cpu")

    def run() -> tuple[float, list[str]]:
        started = time.perf_counter()
        split = [split_sentences(text, language="en") for text in texts]
        long = [sentences for sentences in split if len(sentences) > SENTENCES]
        flat = [sentence for sentences in long for sentence in sentences]
        vectors = made.encode(
            flat, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
        ).astype(np.float64)
        gists, at = [], 0
        for sentences in split:
            chosen = list(range(len(sentences)))
            if len(sentences) > SENTENCES:
                chosen = choose(vectors[at : at + len(sentences)], count=SENTENCES)
                at += len(sentences)
            gists.append(" ".join(sentences[i] for i in chosen))
        return time.perf_counter() - started, gists

    return run


def best(name: str, sizes: Sequence[int], make: Callable[[int], Callable[[], Any]]) -> int:
    """The batch size that a way is fastest with, on some of the rows."""
    rates = {}
    for size in sizes:
        run = make(size)
        run()
        rates[size] = run()[0]
    told = ", ".join(f"{size}: {seconds:.1f} s" for size, seconds in rates.items())
    print(f"  {name}, batch sizes: {told}")
    return min(rates, key=lambda size: rates[size])


def alternate(ways: Sequence[Way], rounds: int) -> None:
    """Runs the ways in turn; the first round is thrown away."""
    for number in range(rounds + 1):
        for way in ways:
            seconds, way.result = way.run()
            if number:
                way.seconds.append(seconds)
        print("  " + ", ".join(f"{w.name} {w.seconds[-1]:.2f} s" for w in ways if w.seconds))


def table(ways: Sequence[Way], rows: int, tokens: int) -> str:
    """A line per way; the last way is the one that the others are compared with."""
    lines = ["| way | rows/s | tokens/s | median s | times as fast |", "|---|---:|---:|---:|---:|"]
    mine = ways[-1].median
    for way in ways:
        ratio = "" if way is ways[-1] else f"{way.median / mine:.1f}"
        lines.append(
            f"| {way.name} | {rows / way.median:.1f} | {tokens / way.median:,.0f} "
            f"| {way.median:.2f} | {ratio} |"
        )
    return "\n".join(lines)


def equal_labels(name: str, expected: Sequence[Any], found: Sequence[Any]) -> None:
    """Fails unless labels are equal and scores within 1e-4."""
    if len(expected) != len(found):
        raise SystemExit(f"{name}: {len(expected)} rows expected, {len(found)} found")
    for row, (one, other) in enumerate(zip(expected, found, strict=True)):
        if one["label"] != other["label"] or abs(one["score"] - other["score"]) > SCORES:
            raise SystemExit(f"{name}: row {row}: {one} expected, {other} found")


def equal_entities(expected: Sequence[Any], found: Sequence[Any]) -> None:
    """Fails unless spans and labels are equal and scores within 1e-4."""
    for row, (one, other) in enumerate(zip(expected, found, strict=True)):
        a = [(e["entity_group"], e["start"], e["end"]) for e in one]
        b = [(e["label"], e["start"], e["end"]) for e in other]
        near = all(abs(x["score"] - y["score"]) < SCORES for x, y in zip(one, other, strict=False))
        if a != b or not near:
            raise SystemExit(f"ner: row {row}: {a} expected, {b} found")


def classify(lake: Path, few: Path, work: Path, texts: Sequence[str], rounds: int) -> list[Way]:
    """Text classification."""
    kind, model = "text-classification", "starter/sentiment"
    size = best("pipeline", (1, 8, 32, 128), lambda s: pipeline_way(kind, model, few, s))
    ways = [
        Way(f"Hugging Face pipeline, batch_size={size}", pipeline_way(kind, model, lake, size)),
        Way(
            f"Ray Data around it, batch_size={size}",
            ray_data(kind, model, lake, work, size),
        ),
        Way(
            "shardscribe on Ray, 1 worker",
            ours(lake, work, {"kind": "classify", "model": model}),
        ),
    ]
    alternate(ways, rounds)
    for way in ways[1:]:
        equal_labels(way.name, ways[0].result, way.result)
    return ways


def classify_bfloat16(
    lake: Path, few: Path, work: Path, texts: Sequence[str], rounds: int
) -> list[Way]:
    """Text classification in bfloat16, where the processor has it."""
    kind, model, half = "text-classification", "starter/sentiment", {"dtype": torch.bfloat16}
    size = best("pipeline", (1, 8, 32, 128), lambda s: pipeline_way(kind, model, few, s, **half))
    ways = [
        Way(
            f"Hugging Face pipeline, bfloat16, batch_size={size}",
            pipeline_way(kind, model, lake, size, **half),
        ),
        Way(
            "shardscribe on Ray, 1 worker, bfloat16",
            ours(lake, work, {"kind": "classify", "model": model}, dtype="bfloat16"),
        ),
    ]
    alternate(ways, rounds)
    pairs = list(zip(ways[0].result, ways[1].result, strict=True))
    same = sum(a["label"] == b["label"] for a, b in pairs) / len(pairs)
    if same < 0.995:
        raise SystemExit(f"classify-bfloat16: only {same:.1%} of the labels are equal")
    return ways


def embed(lake: Path, few: Path, work: Path, texts: Sequence[str], rounds: int) -> list[Way]:
    """Embeddings of the same encoder."""
    some = texts[: max(1, len(texts) // 4)]
    size = best("sentence-transformers", (8, 32, 128), lambda s: sentence_transformer(some, s))
    ways = [
        Way(f"sentence-transformers, batch_size={size}", sentence_transformer(texts, size)),
        Way(
            "shardscribe on Ray, 1 worker",
            ours(lake, work, {"kind": "embed", "model": "starter/minilm"}),
        ),
    ]
    alternate(ways, rounds)
    difference = np.abs(ways[0].result - np.array(ways[1].result)).max()
    if difference > VECTORS:
        raise SystemExit(f"embed: vectors differ by {difference}")
    return ways


def ner(lake: Path, few: Path, work: Path, texts: Sequence[str], rounds: int) -> list[Way]:
    """Named entities."""
    kind, model = "token-classification", "starter/pii"
    options = {"aggregation_strategy": "first"}
    size = best("pipeline", (1, 8, 32, 128), lambda s: pipeline_way(kind, model, few, s, **options))
    ways = [
        Way(
            f"Hugging Face pipeline, batch_size={size}",
            pipeline_way(kind, model, lake, size, **options),
        ),
        Way("shardscribe on Ray, 1 worker", ours(lake, work, {"kind": "ner", "model": model})),
    ]
    alternate(ways, rounds)
    equal_entities(ways[0].result, ways[1].result)
    return ways


def summarize(lake: Path, few: Path, work: Path, texts: Sequence[str], rounds: int) -> list[Way]:
    """Extractive summaries."""
    some = texts[: max(1, len(texts) // 4)]
    size = best("sentence-transformers", (1, 8, 32, 128), lambda s: sentence_summaries(some, s))
    ways = [
        Way(
            f"sentence-transformers and the same ranking, batch_size={size}",
            sentence_summaries(texts, size),
        ),
        Way(
            "shardscribe on Ray, 1 worker",
            ours(
                lake,
                work,
                {
                    "kind": "summarize",
                    "model": "starter/minilm",
                    "method": "extractive",
                    "sentences": SENTENCES,
                },
            ),
        ),
    ]
    alternate(ways, rounds)
    mine = [row["text"] for row in ways[1].result]
    same = sum(a == b for a, b in zip(ways[0].result, mine, strict=True)) / len(mine)
    if same < 0.995:  # a tie of two sentences may fall either way
        raise SystemExit(f"summarize: only {same:.1%} of the summaries are equal")
    return ways


def native_bfloat16() -> bool:
    """Whether the processor computes in bfloat16."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


TASKS = {
    "classify": classify,
    "classify-bfloat16": classify_bfloat16,
    "embed": embed,
    "ner": ner,
    "summarize": summarize,
}


def main() -> int:
    """Measures, checks, prints, and writes the results down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4800)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(TASKS), action="append")
    parser.add_argument("--no-write", action="store_true", help="leave RESULTS.md alone")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    transformers.logging.set_verbosity_error()
    # Twice as many as there are, so that Ray Data's reading finds a place beside its actor.
    ray.init(
        address="local",
        num_cpus=2 * THREADS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    texts = paragraphs(options.rows)
    counts = lengths(texts)
    parts = [
        f"    python benchmarks/peers.py --rows {options.rows} --rounds {options.rounds}\n\n"
        f"{machine()}.\n\n"
        f"{len(texts)} different real texts ({digest(texts)}): {counts.mean():.0f} tokens on "
        f"average, 95th percentile {np.percentile(counts, 95):.0f}, longest {counts.max()}. Ways "
        f"alternate, {options.rounds} rounds after one that is thrown away, medians; results are "
        "checked equal in the run. Of shardscribe the whole job counts, from the first read to the "
        "last committed file, on Ray with a warm worker. Start-up is counted for none."
    ]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        lake = write_lake(work / "lake", texts, files=4)
        few = write_lake(work / "few", texts[: max(1, len(texts) // 4)], files=1)
        skipped = set() if native_bfloat16() else {"classify-bfloat16"}
        for name in options.only or [name for name in TASKS if name not in skipped]:
            print(name)
            ways = TASKS[name](lake, few, work, texts, options.rounds)
            padding, device = details[-1][1:]
            parts.append(
                f"**{name}**: padding {padding:.1%} of the tokens, the device waits "
                f"{1 - device:.1%} of the time.\n\n"
                f"{table(ways, len(texts), int(counts.sum()))}"
            )
            print(parts[-1])
    if not options.no_write and not options.only:
        write_section("Against what people would use instead", "\n\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
