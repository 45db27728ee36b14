"""Bootstrap intervals hold the truth as often as they say."""

import numpy as np
import pytest

from pipeline.learn.evaluate_labels import macro_f1
from pipeline.learn.evaluate_spans import _figures
from pipeline.learn.intervals import interval

pytestmark = pytest.mark.unit

# Less than a second of a core; benchmarks/intervals.py has more of each.
SETS, ROWS, RESAMPLES = 100, 150, 150
SHARES, FOUND = np.array([0.6, 0.4]), np.array([0.9, 0.7])


def labels(chance):
    gold = chance.choice(2, ROWS, p=SHARES)
    return gold, np.where(chance.random(ROWS) < FOUND[gold], gold, 1 - gold)


def accuracy(chance):
    gold, given = labels(chance)
    return lambda rows: float((gold == given)[rows].mean())


def f1_of_labels(chance):
    gold, given = labels(chance)
    return lambda rows: macro_f1(gold[rows], given[rows], 2)


def f1_of_spans(chance):
    """Of rows whose spans are all easy or all hard: they do not err by themselves."""
    spans = chance.integers(0, 4, ROWS)
    right = chance.binomial(spans, np.where(chance.random(ROWS) < 0.5, 0.9, 0.5))
    more = chance.binomial(1, 0.2, ROWS)
    # correct, partly correct, given and gold
    counts = np.stack([right, np.zeros_like(right), right + more, spans], axis=1)
    return lambda rows: _figures(counts[rows].sum(axis=0))[2]


TRUTH = {
    accuracy: 0.54 + 0.28,
    f1_of_labels: (2 * 0.54 / (0.6 + 0.66) + 2 * 0.28 / (0.4 + 0.34)) / 2,
    f1_of_spans: 2 * 1.05 / (1.05 + 0.2 + 1.5),
}


@pytest.mark.parametrize("figure", TRUTH, ids=lambda figure: figure.__name__)
def test_an_interval_holds_the_truth_as_often_as_it_says(figure):
    chance, held = np.random.default_rng(0), 0
    for _ in range(SETS):
        found = interval(figure(chance), ROWS, resamples=RESAMPLES)
        held += found["low"] <= TRUTH[figure] <= found["high"]
    # So few resamples make 95 in 100 93; two standard deviations of so few sets around both.
    assert 0.88 <= held / SETS <= 0.99, held / SETS
