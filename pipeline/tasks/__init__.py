"""What is annotated: one file a task, and this one explicit table."""

from importlib import import_module
from typing import Any

from pipeline.tasks.contract import Annotate, Annotated, Example, Task, TaskOptions

# Kind -> where its class is, below this package. A new task is one line here.
CLASSES = {
    "answer": "answers.answer.Answer",
    "classify": "labels.classify.Classify",
    "embed": "vectors.embed.Embed",
    "generate": "writing.generate.Generate",
    "keywords": "vectors.keywords.Keywords",
    "ner": "spans.ner.Ner",
    "redact": "spans.redact.Redact",
    "summarize": "writing.summarize.Summarize",
    "translate": "writing.translate.Translate",
    "zero_shot": "labels.zero_shot.ZeroShot",
}


def _found(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(f"{__name__}.{module}"), name)


TASKS: dict[str, type[Task[Any]]] = {kind: _found(path) for kind, path in CLASSES.items()}

__all__ = ["TASKS", "Annotate", "Annotated", "Example", "Task", "TaskOptions"]
