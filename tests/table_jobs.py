"""Jobs over tables without models or Ray: each row's annotation is null, all else is as it is."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers import QuietDisplay, commit_file, hollow_model

from pipeline import run as running
from pipeline.engine.messages import SplitResult
from pipeline.job.check import Pinned
from pipeline.job.columns import carried_columns, columns_of, output_columns
from pipeline.job.file import load_job
from pipeline.lake.sink.scratch import OutputFile
from pipeline.lake.split import OUTPUT_NAME, Split
from pipeline.planning import AS_IT_IS, Choices
from pipeline.records.schema import Summary


def fails(split: Split) -> bool:
    """Whether a split is made to fail: none, if a test doesn't have it."""
    return False


def write_job(folder: Path, **sections: Any) -> str:
    """A job over ``folder/lake`` into the table ``folder/out``."""
    model = folder / "model"
    if not model.exists():
        hollow_model(model, "BertForSequenceClassification")
    content = {
        "name": "table",
        "input": {"path": str(folder / "lake")},
        "output": {"path": str(folder / "out"), "format": "delta"},
        "tasks": {"mood": {"kind": "classify", "model": str(model)}},
    }
    for name, section in sections.items():
        content[name] = {**content.get(name, {}), **section}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def copy_all(pinned: Pinned, plan: Any, tally: Any, summary: Any, **_: Any) -> None:
    """Stands where workers do their work: commits each split's rows with null annotations."""
    source, sink, job = pinned.checked.source, pinned.checked.sink, pinned.checked.job
    for split in plan.todo:
        if fails(split):
            tally.failed(split, "it is made to fail", final=True)
            continue
        found = source.open(split)
        carried = carried_columns(job, found.schema, where=split.path)
        schema = output_columns(job, carried)
        sink.takes(schema, where=split.path)
        names = [name for name in schema.names if name in found.schema.names]
        tables = [*found.batches(columns_of(job, carried))] or [carried.empty_table()]
        given = pa.concat_tables(tables).select(names)
        for field in schema:
            if field.name not in names:
                given = given.append_column(field, pa.nulls(given.num_rows, field.type))
        out = OutputFile(sink, split.output_path, given.schema, compression="none")
        out.write(given)
        rows = {"rows": given.num_rows, "annotated": given.num_rows, "bad": 0, "skipped": 0}
        footer = {"split": split.id, "input": split.path, "job": job.name, "rows": rows}
        footer |= {"fingerprint": pinned.fingerprint, "fingerprint_parts": pinned.parts}
        published = commit_file(out, footer, rows=given.num_rows, replace=split.replace)
        found.close()
        tally.done(split, SplitResult(split.id, split.output_path, published=published))
        step("while it annotates")


# A process that dies: at this step, or never.
DIES_AT = os.environ.get("DIES_AT", "")


def step(name: str) -> None:
    if name == DIES_AT:
        os.kill(os.getpid(), signal.SIGKILL)


def run(
    job: str, choices: Choices = AS_IT_IS, *, annotate: Callable[..., None] = copy_all
) -> Summary:
    """Runs a job in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "_annotate", annotate)
        display = QuietDisplay()
        summary = running.run_job(load_job(job), display=display, choices=choices)
    run.notices = display.notices  # type: ignore[attr-defined]
    return summary


def write(lake: Path, name: str, *ids: int, **columns: Any) -> None:
    """A file of rows."""
    path = lake / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": list(ids), "text": [f"w{i}" for i in ids], **columns}), path)


def ids(out: Path) -> list[int]:
    """The ids of a Delta table's rows, by its own library."""
    from deltalake import DeltaTable

    return sorted(DeltaTable(out).to_pyarrow_table(columns=["id"]).column("id").to_pylist())


def log(out: Path) -> list[dict[str, Any]]:
    """The actions of a Delta table's log, each with its version."""
    found = []
    for path in sorted((out / "_delta_log").glob("*.json")):
        for line in path.read_text().splitlines():
            found.append({"version": int(path.stem), **json.loads(line)})
    return found


def added_once(out: Path) -> set[str]:
    """Our files that a table's history has added; each once, and those removed once."""
    ours = [action for action in log(out) if OUTPUT_NAME.match(_name(action))]
    added = Counter(action["add"]["path"] for action in ours if "add" in action)
    removed = Counter(action["remove"]["path"] for action in ours if "remove" in action)
    assert {*added.values(), *removed.values()} <= {1}, (added, removed)
    assert removed.keys() <= added.keys()
    return {*added}


def _name(action: dict[str, Any]) -> str:
    path = (action.get("add") or action.get("remove") or {}).get("path", "")
    return str(path).rpartition("/")[2]
