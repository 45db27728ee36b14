"""The generated contracts in ``schemas/``: ``python -m pipeline.schemas`` writes them.

They are the job file's JSON Schema, the Arrow schema of each task's column, and the JSON Schema
of a run's ``summary.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.engine.worker.annotated_rows import ERRORS_TYPE
from pipeline.job.job import ERRORS_COLUMN, Job
from pipeline.models.resolve import ModelInfo
from pipeline.records.schema import Summary
from pipeline.tasks import TASKS

# The width that stands for any encoder's.
WIDTH = 384
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def contracts() -> dict[str, str]:
    """File name -> content."""
    job = {"$schema": DIALECT, **Job.model_json_schema()}
    summary = {"$schema": DIALECT, **Summary.model_json_schema(mode="serialization")}
    return {
        "job.schema.json": _json(job),
        "summary.schema.json": _json(summary),
        "columns.json": _json(_columns()),
    }


def _columns() -> dict[str, Any]:
    found = {kind: str(_task(kind).output_type()) for kind in TASKS}
    return {
        "description": "The Arrow type of the column that each kind of task adds, and of the "
        "errors column. Types do not depend on the data; the size of a vector is the model's, "
        f"here {WIDTH}.",
        "tasks": found,
        ERRORS_COLUMN: str(ERRORS_TYPE),
    }


def _task(kind: str) -> Any:
    """A task of a kind as in its first example."""
    task = TASKS[kind]
    options = {"kind": kind, "model": "any/model", **task.examples[0].options}
    made = task(task.Options.model_validate(options))
    made.bind(ModelInfo("any/model", {"hidden_size": WIDTH}))
    return made


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def main(directory: str = "schemas") -> None:
    """Writes all contracts into a directory."""
    target = Path(directory)
    target.mkdir(exist_ok=True)
    for name, content in contracts().items():
        (target / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
