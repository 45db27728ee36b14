"""How good spans are: against gold spans, by where they are and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.escape import visible
from pipeline.learn.intervals import interval

WAYS = ("strict", "partial")
COUNTS = ("correct", "partial", "actual", "possible")
Spans = Sequence[Mapping[str, Any]]


def check_spans(gold: Sequence[Spans], texts: Sequence[str | None] | None, *, column: str) -> None:
    """Refuses gold spans that are none.

    Args:
        gold: The spans of each row.
        texts: What they are spans of; None where that is not known.
        column: The gold column, for messages.

    Raises:
        JobError: Naming the row, counted from 1 among those with gold.
    """
    for row, spans in enumerate(gold):
        text = texts[row] if texts is not None else None
        for span in spans:
            start, end, label = span.get("start"), span.get("end"), span.get("label")
            wrong = None
            if start is None or end is None or label is None:
                wrong = "lacks a label, a start or an end"
            elif not 0 <= start < end:
                wrong = f"goes from {start} to {end}"
            elif text is not None and end > len(text):
                wrong = f"ends at {end}, the text at {len(text)}"
            if wrong:
                raise JobError(
                    f"gold column {column}, row {row + 1} of those with gold: a span "
                    f"{visible(label, most=40)!r} {wrong}",
                    hint="Spans are {label, start, end} in characters of the text, end exclusive",
                )


def spans_report(gold: Sequence[Spans], found: Sequence[Spans], *, seed: int = 0) -> dict[str, Any]:
    """Precision, recall and F1, strict and partial, of all and by label.

    Strict: same place and label. Partial: a span that overlaps a gold one counts half; of all
    labels together, whatever it is called.

    Args:
        gold: The gold spans of each row: `label`, `start` and `end`, end exclusive.
        found: What the task gave for it.
        seed: Of the bootstrap.

    Returns:
        Plain data: figures as they are, unrounded.
    """
    names = sorted({str(span["label"]) for some in (*gold, *found) for span in some})
    # Of shape [rows, labels and all, ways, counts]: sums over rows are those of the library.
    counts = np.array(
        [_counts(truth, guess, names) for truth, guess in zip(gold, found, strict=True)]
    ).reshape(len(gold), len(names) + 1, len(WAYS), len(COUNTS))
    metrics = {}
    for way, name in enumerate(WAYS):
        for at, figure in enumerate(("precision", "recall", "f1")):

            def value(rows: npt.NDArray[np.intp], way: int = way, at: int = at) -> float:
                return _figures(counts[rows, -1, way].sum(axis=0))[at]

            metrics[f"{name}_{figure}"] = interval(value, len(gold), seed=seed)
    by_label = []
    for at, label in enumerate(names):
        total = counts[:, at].sum(axis=0)
        said: dict[str, Any] = {"label": label, "support": int(total[0][3])}
        for way, name in enumerate(WAYS):
            said[name] = dict(zip(("precision", "recall", "f1"), _figures(total[way]), strict=True))
        by_label.append(said)
    return {"metrics": metrics, "labels": by_label}


def _counts(gold: Spans, found: Spans, names: Sequence[str]) -> list[list[list[int]]]:
    from nervaluate import Evaluator

    if not names:
        return [[[0] * len(COUNTS)] * len(WAYS)]
    rows = [[[_closed(span) for span in spans]] for spans in (gold, found)]
    done = Evaluator(*rows, tags=list(names), loader="dict").evaluate()
    parts = [*(done["entities"].get(name) for name in names), done["overall"]]
    return [
        [[int(getattr(part[way], count)) if part else 0 for count in COUNTS] for way in WAYS]
        for part in parts
    ]


def _closed(span: Mapping[str, Any]) -> dict[str, Any]:
    """As nervaluate has it: the end is the last character."""
    return {"label": str(span["label"]), "start": span["start"], "end": span["end"] - 1}


def _figures(counts: npt.NDArray[np.int_]) -> tuple[float, float, float]:
    """Precision, recall and F1 of summed counts; 0 where there is nothing to divide by."""
    right = counts[0] + 0.5 * counts[1]
    precision = float(right / counts[2]) if counts[2] else 0.0
    recall = float(right / counts[3]) if counts[3] else 0.0
    both = precision + recall
    return precision, recall, 2 * precision * recall / both if both else 0.0
