"""How good a model is that was just trained, on the rows that were kept for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.learn.evaluate import report_of
from pipeline.learn.intervals import interval
from pipeline.learn.train.data import LabelledRows
from pipeline.learn.train.job import TrainJob

if TYPE_CHECKING:
    from pipeline.learn.train.classifier import Learner
    from pipeline.learn.train.writer import Writer

# kind of training -> kind of task by which it is measured
MEASURED_AS = {"classify": "classify", "ner": "ner", "write": "translate"}


def measured(learner: Learner | Writer, rows: LabelledRows, job: TrainJob) -> dict[str, Any] | None:
    """The figures of a model's test rows, as `report_of` gives them; None where there are none.

    Args:
        learner: Trained.
        rows: Divided.
        job: As it was read.
    """
    if not rows.test:
        return None
    found = learner.answers(rows.test, batch=job.train.batch_size * 2)
    if job.task.kind == "write":
        texts = [row.labels[0] for row in rows.test]
        same = np.array([w["text"] == t.strip() for w, t in zip(found, texts, strict=True)])
        exact = interval(lambda some: float(same[some].mean()), len(same))
        figures = report_of("translate", [[text] for text in texts], found)
        return {"metrics": {"exact_match": exact, **figures["metrics"]}}
    if job.task.kind == "ner":
        return report_of(
            "ner", [[span._asdict() for span in row.spans] for row in rows.test], found
        )
    gold: Any = [list(row.labels) if rows.several else row.labels[0] for row in rows.test]
    return report_of("classify", gold, found)
