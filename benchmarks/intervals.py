"""Whether the bootstrap intervals of `evaluate` hold the truth as often as they say.

Draws data sets of a made-up world whose figures are known exactly, evaluates each, and looks
whether the 95 % interval holds the truth: accuracy and macro F1 of four labels of unequal share,
and strict F1 of spans, of which a row has none to three that are hard or easy together. Fails below
93 or above 97 of 100.

    python benchmarks/intervals.py
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np

from pipeline.learn.evaluate import report_of

HOLDS = (0.93, 0.97)
SHARES = np.array([0.4, 0.3, 0.2, 0.1])
# Of each label, how often it is found; else each of the others is as likely.
FOUND = np.array([0.9, 0.8, 0.7, 0.6])
# Of a place that may have a span: how often it has one; how often one is found where none is.
THERE, SPURIOUS = 0.6, 0.1
# How often a row's spans are found; what is not is given another label or missed, as often.
EASY, HARD = 0.95, 0.55


def true_labels() -> dict[str, float]:
    """Accuracy and macro F1 of the made-up world."""
    given = np.diag(FOUND) + (1 - np.eye(4)) * ((1 - FOUND) / 3)[:, None]
    both = SHARES[:, None] * given
    f1 = 2 * np.diag(both) / (both.sum(axis=0) + both.sum(axis=1))
    return {"accuracy": float(np.trace(both)), "macro_f1": float(f1.mean())}


def some_labels(rows: int, chance: np.random.Generator) -> tuple[list[str], list[dict[str, Any]]]:
    """Gold labels, and what is given for them."""
    gold = chance.choice(4, rows, p=SHARES)
    right = chance.random(rows) < FOUND[gold]
    given = np.where(right, gold, (gold + chance.integers(1, 4, rows)) % 4)
    return ["abcd"[at] for at in gold], [{"label": "abcd"[at], "score": 0.5} for at in given]


def true_spans() -> dict[str, float]:
    """Strict F1 of the made-up world: of sums over all rows, as the figure is."""
    found = (EASY + HARD) / 2
    actual = THERE * (found + (1 - found) / 2) + (1 - THERE) * SPURIOUS
    return {"strict_f1": 2 * THERE * found / (actual + THERE)}


def some_spans(rows: int, chance: np.random.Generator) -> tuple[list[Any], list[Any]]:
    """Gold spans, and what is given for them."""
    golds, founds = [], []
    for _ in range(rows):
        gold, found, ease = [], [], EASY if chance.random() < 0.5 else HARD
        for place in range(int(chance.integers(0, 4))):
            span = {"label": "x", "start": 10 * place, "end": 10 * place + 5}
            draw = chance.random()
            if chance.random() < THERE:
                gold.append(span)
                if draw < (1 + ease) / 2:
                    found.append({**span, "label": "x" if draw < ease else "y"})
            elif draw < SPURIOUS:
                found.append(span)
        golds.append(gold)
        founds.append(found)
    return golds, founds


WORLDS = (("classify", some_labels, true_labels), ("ner", some_spans, true_spans))


def held(kind: str, *, rows: int, times: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Of each figure the share of intervals that hold the truth, and their median width."""
    some, true = next((some, true) for name, some, true in WORLDS if name == kind)
    truth, chance = true(), np.random.default_rng(seed)
    within: dict[str, list[bool]] = {name: [] for name in truth}
    widths: dict[str, list[float]] = {name: [] for name in truth}
    for _ in range(times):
        metrics = report_of(kind, *some(rows, chance))["metrics"]
        for name, value in truth.items():
            low, high = metrics[name]["low"], metrics[name]["high"]
            within[name].append(low <= value <= high)
            widths[name].append(high - low)
    return {name: (float(np.mean(within[name])), float(np.median(widths[name]))) for name in truth}


def main() -> int:
    """Prints the table; says whether the intervals hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--times", type=int, default=500)
    parser.add_argument("--only", choices=[name for name, _, _ in WORLDS])
    chosen = parser.parse_args()
    print("| figure | truth | rows | data sets | held | median width | s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    good = True
    for kind, _, true in WORLDS:
        if chosen.only not in (None, kind):
            continue
        start = time.process_time()
        found = held(kind, rows=chosen.rows, times=chosen.times)
        took = time.process_time() - start
        for name, (share, width) in found.items():
            good &= HOLDS[0] <= share <= HOLDS[1]
            print(f"| {name.replace('_', ' ')} of {kind} | {true()[name]:.4f} | {chosen.rows} | "
                  f"{chosen.times} | {100 * share:.1f} % | {width:.3f} | {took:.0f} |")  # fmt: skip
    print(f"\n{'as wanted' if good else 'NOT as wanted'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
