"""A run without Ray: a task that needs no model, and workers that are this process."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers import QuietDisplay

from pipeline import run as running
from pipeline.engine.messages import SplitResult, WorkPlan
from pipeline.engine.worker.annotator import Annotator
from pipeline.job import check
from pipeline.job.job import Job
from pipeline.models.resolve import ModelInfo
from pipeline.planning import Choices
from pipeline.tasks import TASKS, Annotated, Task
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


def loud_job(monkeypatch: pytest.MonkeyPatch, lake: Path) -> Callable[..., Job]:
    """Makes jobs over a lake, of one task that needs no model, which run in this process."""
    monkeypatch.setattr(check, "look_up", lambda name, **_: ModelInfo(name, {}, commit="c"))
    monkeypatch.setitem(TASKS, "ner", Loud)
    monkeypatch.setattr(running, "_annotate", annotate)

    def made(
        task: dict[str, Any] | None = None, output: dict[str, Any] | None = None, **given: Any
    ) -> Job:
        return Job.model_validate(
            {
                "name": "loud",
                "input": {"path": str(lake), **given},
                "output": {"path": str(lake.parent / "out"), **(output or {})},
                "tasks": {"loud": {"kind": "ner", "model": "none", **(task or {})}},
                "compute": {"device": "cpu"},
            }
        )

    return made


def run_here(job: Job, **choices: Any) -> Any:
    """What a run of a job gives in the end."""
    return running.run_job(job, display=QuietDisplay(), choices=Choices(**choices))
