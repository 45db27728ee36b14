"""What is annotated: one file a task, and this one explicit table."""

from typing import Any

from pipeline.tasks.classify import Classify
from pipeline.tasks.ner import Ner
from pipeline.tasks.summarize import Summarize
from pipeline.tasks.task import Annotate, Annotated, Task, TaskOptions

TASKS: dict[str, type[Task[Any]]] = {
    "classify": Classify,
    "ner": Ner,
    "summarize": Summarize,
}

__all__ = ["TASKS", "Annotate", "Annotated", "Task", "TaskOptions"]
