"""torch and onnxruntime on the same weights: classify, ner and embed, a task loaded in each.

    python benchmarks/engines.py --rows 1200 --rounds 5

Both read the same real texts in the same kind of batches, on as many threads; they alternate, after
a round that is thrown away, and medians count. Labels and spans have to be equal, numbers within
1e-4. `ner 4-bit` is the file that its authors published, against the same weights unpacked.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import onnxruntime
import torch
from texts import lengths, machine, paragraphs

# What exports a model is shared with the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from onnx_export import exported

from pipeline.models.device import Device
from pipeline.models.engines import ENGINES
from pipeline.models.resolve import look_up
from pipeline.starter import catalog
from pipeline.tasks import TASKS

CASES = {
    "classify": ("classify", "starter/sentiment"),
    "ner": ("ner", "starter/pii"),
    "embed": ("embed", "starter/minilm"),
    "ner 4-bit": ("ner", "starter/pii"),
}


def loaded(engine: str, kind: str, reference: str, *, device: Device) -> Any:
    """A task on an engine."""
    info = look_up(reference, weights=ENGINES[engine].weights)
    task = TASKS[kind](TASKS[kind].Options(kind=kind, model=reference))
    task.bind(info)
    ENGINES[engine].check(info, head=task.head(info), adapter=None)
    return task.load(ENGINES[engine].open({reference: info}, device=device))


def numbers(column: Any) -> tuple[list[Any], np.ndarray]:
    """What has to be equal, and what has to be near."""
    rows = column.to_pylist()
    if isinstance(rows[0], dict):
        return [row["label"] for row in rows], np.array([row["score"] for row in rows])
    if isinstance(rows[0], list) and not any(isinstance(x, dict) for row in rows for x in row):
        return [], np.array(rows)
    spans = [entity for row in rows for entity in row]
    return (
        [[(e["label"], e["start"], e["end"]) for e in row] for row in rows],
        np.array([e["score"] for e in spans]),
    )


def compare(name: str, texts: Sequence[str], *, rounds: int, device: Device, scratch: Path) -> str:
    """One line of the table."""
    kind, starter = CASES[name]
    other = starter
    if name == kind:
        other = str(exported(catalog.folder(starter), scratch / name, kind=kind))
    tasks = {
        "torch": loaded("torch", kind, starter, device=device),
        "onnxruntime": loaded("onnxruntime", kind, other, device=device),
    }
    rates: dict[str, list[float]] = {engine: [] for engine in tasks}
    found = {}
    for at in range(rounds + 1):
        for engine in sorted(tasks, reverse=bool(at % 2)):
            started = time.perf_counter()
            answer = tasks[engine].annotate(texts)
            seconds = time.perf_counter() - started
            found[engine] = numbers(answer.column)
            if at:
                rates[engine].append(len(texts) / seconds)
    (words, mine), (theirs, near) = found["torch"], found["onnxruntime"]
    differing = sum(a != b for a, b in zip(words, theirs, strict=True))
    apart = float(abs(mine - near).max(initial=0)) if mine.shape == near.shape else float("nan")
    torch_rate, onnx_rate = (statistics.median(rates[engine]) for engine in tasks)
    if name == kind:
        assert differing == 0, f"{name}: {differing} rows differ"
        assert apart < 1e-4, f"{name}: numbers are {apart} apart"
    return (
        f"| {name} | {torch_rate:,.0f} | {onnx_rate:,.0f} | {onnx_rate / torch_rate:.2f} | "
        f"{differing} | {apart:.0e} |"
    )


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = Device("cpu")
    texts = paragraphs(options.rows)
    print(f"{machine()}, onnxruntime {onnxruntime.__version__}; {device.lanes} threads")
    print(f"{len(texts):,} real texts of {lengths(texts).mean():.0f} tokens on average; rows/s,")
    print(f"medians of {options.rounds} alternating rounds\n")
    print("| task | torch | onnxruntime | ratio | rows that differ | numbers apart |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for name in CASES:
            print(compare(name, texts, rounds=options.rounds, device=device, scratch=Path(scratch)))


if __name__ == "__main__":
    main()
