"""A run without Ray: a task that needs no model, and workers that are this process."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.engine.messages import SplitResult, WorkPlan
from pipeline.engine.worker.annotator import Annotator
from pipeline.tasks import Annotated, Task
from pipeline.tasks.spans.ner import NerOptions


class Loud(Task[NerOptions]):
    """Stands in for NER, and needs no model."""

    Options = NerOptions

    def output_type(self) -> pa.DataType:
        return pa.string()

    def load(self, models: Any) -> "Loud":
        return self

    def annotate(self, texts: Sequence[str]) -> Annotated:
        return Annotated(pa.array([text.upper() for text in texts], pa.string()), {}, tokens=1)


def annotate(pinned: Any, plan: Any, tally: Any, summary: Any, **_: Any) -> None:
    """What workers do, in this process."""
    annotator = Annotator(WorkPlan.of(pinned, device="cpu", threads=1))
    for split, answer in zip(plan.todo, annotator.annotate_all(plan.todo), strict=True):
        if isinstance(answer, SplitResult):
            tally.done(split, answer)
        else:
            tally.failed(split, str(answer), final=True)
