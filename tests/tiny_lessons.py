"""Labelled texts of a few made-up words, and a job that learns from them in a second."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.learn.train.job import TrainJob

WORDS = {"no": range(6), "yes": range(6, 12), "maybe": range(12, 18)}


def lessons(rows: int, *, seed: int = 0, words: int = 12, labels=("no", "yes")) -> list[dict]:
    """Texts whose words tell their label."""
    dice = random.Random(seed)
    made = []
    for at in range(rows):
        label = labels[at % len(labels)]
        some = [f"w{dice.choice(WORDS[label])}" for _ in range(dice.randint(2, words))]
        made.append({"text": " ".join(some), "label": label})
    return made


def write(path: Path, rows: list[dict] | pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    pq.write_table(table, path)
    return path


def job(base: Path, path: Path, output: Path, *, train=None, data=None, **parts) -> TrainJob:
    """A job of ten steps."""
    options = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01, "checks": 1, **(train or {})}
    return TrainJob.model_validate(
        {
            "name": "tiny",
            "base": str(base),
            "task": {"kind": "classify"},
            "output": {"path": str(output)},
            "train": options,
            **parts,
            "data": {"path": str(path), **(data or {})},
        }
    )


def named(rows: int, *, seed: int = 0, words: int = 14) -> list[dict]:
    """Texts in which words, alone or with one that goes on, are spans that the words tell."""
    dice = random.Random(seed)
    made = []
    for _ in range(rows):
        text, spans = "", []
        for _ in range(dice.randint(2, words)):
            label = dice.choice(("no", "yes", "maybe"))
            first, later = WORDS[label][:3], WORDS[label][3:]
            start = len(text) + bool(text)
            some = [dice.choice(first), *([dice.choice(later)] if dice.random() < 0.5 else [])]
            text = " ".join([*([text] if text else []), *(f"w{word}" for word in some)])
            if label != "maybe":
                spans.append({"label": label, "start": start, "end": len(text)})
        made.append({"text": text, "spans": spans})
    return made
