"""What is annotated: one file a task, and this one explicit table."""

from typing import Any

from pipeline.tasks.answer import Answer
from pipeline.tasks.classify import Classify
from pipeline.tasks.embed import Embed
from pipeline.tasks.generate import Generate
from pipeline.tasks.ner import Ner
from pipeline.tasks.redact import Redact
from pipeline.tasks.summarize import Summarize
from pipeline.tasks.task import Annotate, Annotated, Task, TaskOptions
from pipeline.tasks.translate import Translate
from pipeline.tasks.zero_shot import ZeroShot

TASKS: dict[str, type[Task[Any]]] = {
    "answer": Answer,
    "classify": Classify,
    "embed": Embed,
    "generate": Generate,
    "ner": Ner,
    "redact": Redact,
    "summarize": Summarize,
    "translate": Translate,
    "zero_shot": ZeroShot,
}

__all__ = ["TASKS", "Annotate", "Annotated", "Task", "TaskOptions"]
