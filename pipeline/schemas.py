"""What is generated: ``python -m pipeline.schemas`` writes it.

Contracts go to ``schemas/``: the JSON Schemas of job files, the Arrow schema of each task's column,
and the JSON Schemas of a run's summary, progress and events. Beside them stand the fingerprints of
the ready jobs, which are only ever added here: a change of one has to be seen. The README's part on
tasks and the glossary in CONTRIBUTING.md are made anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.glossary import with_glossary
from pipeline.job.columns import ERRORS_TYPE
from pipeline.job.file import load_job, ready_jobs
from pipeline.job.job import ERRORS_COLUMN, Job, fingerprint
from pipeline.learn.train.job import TrainJob
from pipeline.readme import WIDTH, shown_task, with_tasks
from pipeline.records.reader import ANY_EVENT
from pipeline.records.schema import ProgressLine, Summary
from pipeline.tasks import TASKS

HOUSE = Path(__file__).parent
PINS = "fingerprints.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def contracts() -> dict[str, str]:
    """File name -> content."""
    job = {"$schema": DIALECT, **Job.model_json_schema()}
    train = {"$schema": DIALECT, **TrainJob.model_json_schema()}
    summary = {"$schema": DIALECT, **Summary.model_json_schema(mode="serialization")}
    progress = {"$schema": DIALECT, **ProgressLine.model_json_schema(mode="serialization")}
    events = {"$schema": DIALECT, **ANY_EVENT.json_schema(mode="serialization")}
    return {
        "job.schema.json": _json(job),
        "train.schema.json": _json(train),
        "summary.schema.json": _json(summary),
        "progress.schema.json": _json(progress),
        "events.schema.json": _json(events),
        "columns.json": _json(_columns()),
    }


def _columns() -> dict[str, Any]:
    found = {kind: str(shown_task(kind).output_type()) for kind in TASKS}
    return {
        "description": "The Arrow type of the column that each kind of task adds, and of the "
        "errors column. Types do not depend on the data; the size of a vector is the model's, "
        f"here {WIDTH}.",
        "tasks": found,
        ERRORS_COLUMN: str(ERRORS_TYPE),
    }


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def job_fingerprint(path: Path) -> str:
    """The fingerprint of a job file but for its models' weights and the version of the results."""
    job = load_job(path).on("cpu")
    parts = job.fingerprint_parts({name: f"revision of {name}" for name in job.models})
    del parts["results_version"]
    return fingerprint(parts)


def _pins(target: Path, jobs: Path) -> str:
    """A fingerprint for each ready job; one that is there already stays as it is."""
    held = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    paths = ready_jobs(jobs)
    return _json({path.stem: held.get(path.stem) or job_fingerprint(path) for path in paths})


def main(root: str = ".") -> None:
    """Writes all that is generated into a checkout."""
    schemas, jobs, readme = (Path(root, name) for name in ("schemas", "jobs", "README.md"))
    schemas.mkdir(exist_ok=True)
    for name, content in contracts().items():
        (schemas / name).write_text(content, encoding="utf-8")
    (schemas / PINS).write_text(_pins(schemas / PINS, jobs), encoding="utf-8")
    said = with_tasks(readme.read_text(encoding="utf-8"), jobs=jobs)
    readme.write_text(said, encoding="utf-8")
    contributing = Path(root, "CONTRIBUTING.md")
    said = with_glossary(contributing.read_text(encoding="utf-8"), house=HOUSE)
    contributing.write_text(said, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
