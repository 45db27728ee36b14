"""How good labels are: against gold labels, row by row."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.escape import visible
from pipeline.learn.intervals import interval

BINS = 10
# From which score on a label of several holds.
HOLDS = 0.5


def check_labels(gold: Sequence[str], known: Sequence[str], *, column: str) -> None:
    """Refuses gold labels that the task can't give.

    Args:
        gold: The gold labels.
        known: Those of the task; nothing is refused if none are known.
        column: The gold column, for messages.

    Raises:
        JobError: Naming the first of them.
    """
    strange = Counter(label for label in gold if label not in set(known))
    if known and strange:
        label, rows = strange.most_common(1)[0]
        raise JobError(
            f"gold column {column}: {visible(label, most=80)!r} ({rows:,} times) is none of the "
            f"labels that the task gives: {', '.join(known)}",
            hint="Rename the gold labels, or leave those rows out",
        )


def labels_report(
    gold: Sequence[str], found: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> dict[str, Any]:
    """Accuracy, F1, precision and recall by label, confusion and calibration.

    Args:
        gold: A label for each row.
        found: What the task gave for it: `label`, and its `score` between 0 and 1.
        seed: Of the bootstrap.

    Returns:
        Plain data: figures as they are, unrounded.
    """
    from sklearn.metrics import confusion_matrix

    given = [str(value["label"]) for value in found]
    names = sorted({*gold, *given})
    at = {name: place for place, name in enumerate(names)}
    truth, guess = (np.array([at[label] for label in some]) for some in (gold, given))
    right = truth == guess
    score = np.array([value["score"] for value in found], dtype=float)
    sure = np.isfinite(score)

    def macro(rows: npt.NDArray[np.intp]) -> float:
        return macro_f1(truth[rows], guess[rows], len(names))

    return {
        "metrics": {
            "accuracy": interval(lambda rows: float(right[rows].mean()), len(gold), seed=seed),
            "macro_f1": interval(macro, len(gold), seed=seed),
            # Of one label a row, both are the same.
            "micro_f1": interval(lambda rows: float(right[rows].mean()), len(gold), seed=seed),
        },
        "labels": _by_label(gold, given, names, labels=names),
        "confusion": {
            "labels": names,
            "rows": confusion_matrix(gold, given, labels=names).tolist(),
        },
        "calibration": calibration(right[sure], score[sure]),
    }


def label_sets_report(
    gold: Sequence[Sequence[str]], found: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> dict[str, Any]:
    """Rows of several labels, or none: all of them right, and F1 over labels.

    Args:
        gold: The labels of each row.
        found: What the task gave for it: `scores` of labels; those of at least `HOLDS` hold.
        seed: Of the bootstrap.

    Returns:
        Plain data: figures as they are, unrounded.
    """
    from sklearn.preprocessing import MultiLabelBinarizer

    given = [
        [str(one["label"]) for one in value["scores"] or () if one["score"] >= HOLDS]
        for value in found
    ]
    names = sorted({label for some in (*gold, *given) for label in some})
    table = MultiLabelBinarizer(classes=names)
    # Of shape [rows, labels].
    truth, guess = (table.fit_transform(some).astype(int) for some in (gold, given))
    right = (truth == guess).all(axis=1)

    def f1(rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """Of shape [labels]; not a number where a label neither is there nor was given."""
        both = (truth[rows] * guess[rows]).sum(axis=0)
        seen = truth[rows].sum(axis=0) + guess[rows].sum(axis=0)
        values = np.full(len(names), np.nan)
        np.divide(2.0 * both, seen, out=values, where=seen > 0)
        return values

    def macro(rows: npt.NDArray[np.intp]) -> float:
        values = f1(rows)
        there = ~np.isnan(values)
        return float(values[there].mean()) if there.any() else 0.0

    def micro(rows: npt.NDArray[np.intp]) -> float:
        seen = truth[rows].sum() + guess[rows].sum()
        return float(2 * (truth[rows] * guess[rows]).sum() / seen) if seen else 0.0

    return {
        "metrics": {
            "accuracy": interval(lambda rows: float(right[rows].mean()), len(gold), seed=seed),
            "macro_f1": interval(macro, len(gold), seed=seed),
            "micro_f1": interval(micro, len(gold), seed=seed),
        },
        "labels": _by_label(truth, guess, names, labels=None) if names else [],
    }


def _by_label(
    truth: Any, guess: Any, names: Sequence[str], *, labels: Sequence[str] | None
) -> list[dict[str, Any]]:
    from sklearn.metrics import precision_recall_fscore_support

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = precision_recall_fscore_support(truth, guess, labels=labels, zero_division=0.0)
    return [
        {"label": name, "precision": float(p), "recall": float(r), "f1": float(f),
         "support": int(n)}
        for name, p, r, f, n in zip(names, *table, strict=True)
    ]  # fmt: skip


def macro_f1(truth: npt.NDArray[np.intp], guess: npt.NDArray[np.intp], labels: int) -> float:
    """The mean over labels that are there or are given, as scikit-learn has it.

    Args:
        truth: Indices of labels, of shape [rows].
        guess: Likewise.
        labels: How many there are.
    """
    both = np.bincount(truth[truth == guess], minlength=labels)
    seen = np.bincount(truth, minlength=labels) + np.bincount(guess, minlength=labels)
    there = seen > 0
    return float((2 * both[there] / seen[there]).mean())


def calibration(
    right: npt.NDArray[np.bool_], score: npt.NDArray[np.float64]
) -> dict[str, Any] | None:
    """How far scores are from the share of rows that are right, in bins of equal width.

    Args:
        right: Whether a row's label is the gold one, of shape [rows].
        score: Of its label, of shape [rows], between 0 and 1.

    Returns:
        The expected calibration error, and the bins that hold rows; None without a score, or
        where scores are no probabilities.
    """
    if not len(score) or score.min() < 0 or score.max() > 1:
        return None
    which = np.minimum((score * BINS).astype(int), BINS - 1)
    bins = []
    for at in range(BINS):
        rows = which == at
        if rows.any():
            bins.append({"from": at / BINS, "to": (at + 1) / BINS, "rows": int(rows.sum()),
                         "score": float(score[rows].mean()),
                         "accuracy": float(right[rows].mean())})  # fmt: skip
    error = sum(b["rows"] * abs(b["score"] - b["accuracy"]) for b in bins) / len(score)
    return {"error": float(error), "bins": bins}
