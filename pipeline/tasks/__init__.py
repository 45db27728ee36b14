"""What is annotated: one file a task, and this one explicit table."""

from typing import Any

from pipeline.tasks.answers.answer import Answer
from pipeline.tasks.contract import Annotate, Annotated, Task, TaskOptions
from pipeline.tasks.labels.classify import Classify
from pipeline.tasks.labels.zero_shot import ZeroShot
from pipeline.tasks.spans.ner import Ner
from pipeline.tasks.spans.redact import Redact
from pipeline.tasks.vectors.embed import Embed
from pipeline.tasks.writing.generate import Generate
from pipeline.tasks.writing.summarize import Summarize
from pipeline.tasks.writing.translate import Translate

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
