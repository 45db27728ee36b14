"""A student beside its teacher: what they agree on, who is right, and what each costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.lake.store.open import open_store
from pipeline.lake.store.own import own_address
from pipeline.learn.evaluate import check_gold, report_of
from pipeline.learn.intervals import interval
from pipeline.learn.lesson import Lesson, training
from pipeline.learn.train.data import read_rows
from pipeline.records.reader import read_run, run_names


def compared(
    lesson: Lesson,
    taught: Mapping[str, Mapping[str, Any]],
    learned: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Figures of the rows that the student has not seen, as plain data.

    Args:
        lesson: What was distilled.
        taught: By text, the rows of the teacher's output.
        learned: By text, those of the student's.
    """
    wanted = training(lesson)
    name, kind = lesson.task, lesson.kind
    texts = [row.text for row in read_rows(wanted.data, seed=wanted.train.seed, kind=kind).test]
    texts = [text for text in texts if learned[text][name] is not None]
    theirs = [taught[text][name] for text in texts]
    ours = [learned[text][name] for text in texts]
    right = theirs if kind == "ner" else [answer["label"] for answer in theirs]
    speeds = {part: _speed(lesson.place / part) for part in ("teacher", "annotated")}
    report: dict[str, Any] = {
        "task": name,
        "kind": kind,
        "rows": {"sample": len(taught), "test": len(texts)},
        "teacher": {"model": lesson.teacher.model, "rows_per_second": speeds["teacher"]},
        "student": {"model": str(lesson.place / "student"), "rows_per_second": speeds["annotated"]},
        "times_as_fast": _ratio(speeds["annotated"], speeds["teacher"]),
        "agreement": report_of(kind, right, ours)["metrics"],
    }
    if lesson.gold is not None:
        report["gold"] = _against_gold(lesson, [taught[t] for t in texts], theirs, ours)
    return report


def _against_gold(
    lesson: Lesson, rows: Sequence[Mapping[str, Any]], theirs: Sequence[Any], ours: Sequence[Any]
) -> dict[str, Any] | None:
    import pyarrow as pa

    known = [at for at, row in enumerate(rows) if row["gold"] is not None]
    if not known:
        return None
    gold = check_gold(lesson.kind, pa.array([rows[at]["gold"] for at in known]),
                      column=str(lesson.gold))  # fmt: skip
    both = [[some[at] for at in known] for some in (theirs, ours)]
    said: dict[str, Any] = {"rows": len(known)}
    for who, answers in zip(("teacher", "student"), both, strict=True):
        said[who] = report_of(lesson.kind, gold, answers)["metrics"]
    if lesson.kind == "classify" and isinstance(gold[0], str):
        right = [
            np.array([a["label"] == g for a, g in zip(answers, gold, strict=True)], float)
            for answers in both
        ]
        change = right[1] - right[0]
        said["student_less_teacher"] = interval(lambda some: float(change[some].mean()), len(gold))
    return said


def _speed(output: Path) -> float | None:
    """Rows a second that a worker's models were at work, over all runs of an output."""
    own = open_store(own_address(str(output)))
    summaries = [read_run(own, run).summary for run in run_names(own)]
    rows = sum(s.rows.rows for s in summaries if s is not None)
    seconds = sum(s.annotate_seconds for s in summaries if s is not None)
    return rows / seconds if seconds else None


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None
