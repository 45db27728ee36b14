"""Iceberg tables by real workers: five nights from a table to a table."""

import pyarrow as pa
import pytest
from iceberg_tables import added_once, delete_rows, ids, made, make, paths, rows, settings

from pipeline.run import run_job
from pipeline.verify import verify_job

pytestmark = pytest.mark.integration


def test_five_nights_from_table_to_table_infer_new_and_changed_rows_alone(
    ray_cluster, make_job, tiny_model, tmp_path, display
):
    source = make(tmp_path, rows(1, 2, 3), rows(4, 5))
    job = make_job(
        tmp_path / "lake",
        tasks={"mood": {"kind": "classify", "model": str(tiny_model)}},
        output="table",
        compute={"workers": 1, "cpus_per_worker": 1},
    )

    def into(table: str):
        given = {"path": None, "table": "db.reviews", "catalog": settings(tmp_path)}
        taken = {"path": None, "format": "iceberg", "table": table, "catalog": settings(tmp_path)}
        return job.model_copy(
            update={
                "input": job.input.model_copy(update=given),
                "output": job.output.model_copy(update=taken),
            }
        )

    counts = []

    def night() -> None:
        summary = run_job(into("db.annotated"), display=display)
        assert summary.exit_code == 0, summary.error
        assert summary.input_version == source.refresh().current_snapshot().snapshot_id
        counts.append(summary.rows.rows)
        assert summary.tokens == 3 * summary.rows.rows

    night()
    source.append(rows(6, 7, 8))
    night()
    source.upsert(rows(6).set_column(1, "text", pa.array(["w9"])), join_cols=["id"])
    night()
    delete_rows(source, (next(path for path in paths(source) if _has(source, path, 1)), 0))
    night()
    source.delete("id = 4")
    night()
    # An update writes the other rows of its file anew; so does a delete without delete files.
    assert counts[:2] == [5, 3]
    assert counts[3:] == [2, 1]
    assert ids(tmp_path) == [2, 3, 5, 6, 7, 8]
    assert verify_job(into("db.annotated")).problems == []
    added_once(tmp_path)
    assert run_job(into("db.full"), display=display).exit_code == 0
    nights = made(tmp_path).scan().to_arrow().sort_by("id")
    full = made(tmp_path, "db.full").scan().to_arrow().sort_by("id")
    assert nights.equals(full)
    assert all(row["label"] in ("yes", "no") for row in nights.column("mood").to_pylist())


def _has(table, path: str, number: int) -> bool:
    """Whether a row is in a data file."""
    tasks = table.scan(row_filter=f"id = {number}").plan_files()
    return path in {task.file.file_path for task in tasks}
