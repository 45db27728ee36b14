"""Jobs over tables without models or Ray: each row's annotation is null, all else is as it is."""

import json
import os
import signal
import struct
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
from pipeline.records.schema import RowCounts, Summary

Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


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
        carried = carried_columns(job, found.schema, where=split.path, beside=found.beside)
        schema = output_columns(job, carried)
        sink.takes(schema, where=split.path)
        names = carried.names
        tables = [*found.batches(columns_of(job, carried))] or [carried.empty_table()]
        given = pa.concat_tables(tables).select(names)
        for field in schema:
            if field.name not in names:
                given = given.append_column(field, pa.nulls(given.num_rows, field.type))
        given = given.cast(pa.schema([*schema], metadata=given.schema.metadata))
        out = OutputFile(sink, split.output_path, given.schema, compression="none")
        out.write(given)
        rows = {"rows": given.num_rows, "annotated": given.num_rows, "bad": 0, "skipped": 0}
        footer = {"split": split.id, "input": split.path, "job": job.name, "rows": rows}
        footer |= {"fingerprint": pinned.fingerprint, "fingerprint_parts": pinned.parts}
        published = commit_file(out, footer, rows=given.num_rows, replace=split.replace)
        found.close()
        result = SplitResult(split.id, split.output_path, published=published)
        result.rows.add(RowCounts.of(rows))
        tally.done(split, result)
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


def delete_by_vector(table: Path, path: str, *rows: int) -> None:
    """Deletes rows of a data file as Spark does: by a bitmap of them, inline in the log.

    Args:
        table: A Delta table that has the feature.
        path: The data file, as the log names it.
        rows: Which, below 65536, counted from its first.
    """
    add = next(a["add"] for a in reversed(log(table)) if a.get("add", {}).get("path") == path)
    add = {key: value for key, value in add.items() if value is not None}
    # A 64-bit roaring bitmap of one 32-bit one, that of one array.
    bits = struct.pack("<II", 12346, 1) + struct.pack("<HH", 0, len(rows) - 1)
    bits += struct.pack("<I", 16) + struct.pack(f"<{len(rows)}H", *sorted(rows))
    raw = struct.pack("<I", 1681511377) + struct.pack("<QI", 1, 0) + bits
    vector = {"storageType": "i", "pathOrInlineDv": _z85(raw + b"\0" * (-len(raw) % 4))}
    vector |= {"sizeInBytes": len(raw), "cardinality": len(rows)}
    actions = [
        {"remove": {"path": path, "deletionTimestamp": 1, "dataChange": True}},
        {"add": {**add, "deletionVector": vector}},
    ]
    if "deletionVector" in add:
        actions[0]["remove"]["deletionVector"] = add["deletionVector"]
    write_log(table, actions)


def write_log(table: Path, actions: list[dict[str, Any]]) -> None:
    """Writes a Delta table's next version."""
    version = max(int(p.stem) for p in (table / "_delta_log").glob("*.json")) + 1
    lines = "".join(f"{json.dumps(action)}\n" for action in actions)
    (table / "_delta_log" / f"{version:020}.json").write_text(lines)


def _z85(raw: bytes) -> str:
    text = ""
    for at in range(0, len(raw), 4):
        number = int.from_bytes(raw[at : at + 4], "big")
        text += "".join(Z85[number // 85**place % 85] for place in range(4, -1, -1))
    return text
