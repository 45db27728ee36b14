"""Delta tables by real workers: nights of output, and a table in an object store."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from s3_server import KEY, s3_server
from table_jobs import added_once, ids, run, write, write_job

from pipeline.job.file import load_job
from pipeline.lake.store.open import open_store
from pipeline.run import run_job
from pipeline.status import output_status
from pipeline.verify import verify_job

pytestmark = pytest.mark.integration


@pytest.fixture
def job(make_job, tiny_model, tmp_path) -> Any:
    return make_job(
        tmp_path / "lake",
        tasks={"mood": {"kind": "classify", "model": str(tiny_model)}},
        output="table",
        compute={"workers": 1, "cpus_per_worker": 1},
    )


@pytest.fixture
def lake(tmp_path) -> Path:
    write(tmp_path / "lake", "a", 1, 2)
    write(tmp_path / "lake", "day=1/b", 3)
    return tmp_path / "lake"


def as_delta(job: Any) -> Any:
    return job.model_copy(update={"output": job.output.model_copy(update={"format": "delta"})})


def test_workers_fill_a_table_night_after_night_also_when_others_compact_it(
    ray_cluster, job, lake, tmp_path, display
):
    job = as_delta(job)
    out = tmp_path / "table"
    assert run_job(job, display=display).exit_code == 0
    write(lake, "a", 1, 20)
    write(lake, "c", 4)
    assert run_job(job, display=display).splits.done == 2
    table = DeltaTable(out).to_pyarrow_table()
    assert sorted(table.column("id").to_pylist()) == [1, 3, 4, 20]
    assert all(row["label"] in ("yes", "no") for row in table.column("mood").to_pylist())
    assert verify_job(job).problems == []
    DeltaTable(out).optimize.compact()
    write(lake, "d", 5)
    summary = run_job(job, display=display)
    assert (summary.splits.done, summary.splits.done_before) == (1, 3)
    assert ids(out) == [1, 3, 4, 5, 20]
    assert (output_status(str(out), job=job).left, DeltaTable(out).version()) == (0, 3)
    assert len(added_once(out)) == 5


def test_a_column_of_another_type_fails_its_file_alone(ray_cluster, job, lake, tmp_path, display):
    pq.write_table(pa.table({"id": ["x"], "text": ["w1"]}), lake / "z.parquet")
    summary = run_job(as_delta(job), display=display)
    assert (summary.exit_code, summary.splits.failed, summary.splits.done) == (1, 1, 2)
    (failed,) = summary.failed_splits
    assert "column `id` is string, and long in the table" in failed.reason
    assert ids(tmp_path / "table") == [1, 2, 3]


def test_a_table_in_an_object_store_is_made_and_added_to_and_holds_no_secrets(tmp_path):
    with s3_server():
        address = "s3://lake/some tables/reviews"
        write(tmp_path / "lake", "a b", 1, 2)
        job = write_job(tmp_path, output={"path": address})
        assert run(job).exit_code == 0
        write(tmp_path / "lake", "a b", 1, 20)
        write(tmp_path / "lake", "c", 3)
        assert run(job).splits.done == 2
        assert run(job).state == "nothing to do"
        table = DeltaTable(address)
        assert sorted(table.to_pyarrow_table().column("id").to_pylist()) == [1, 3, 20]
        assert table.version() == 1
        assert verify_job(load_job(job)).problems == []
        assert output_status(address).rows.rows == 3
        own = open_store(address).own
        kept = [own.read(entry.path) or b"" for entry in own.entries()]
        store = open_store(address)
        kept += [store.read(f"_delta_log/{number:020}.json") or b"" for number in (0, 1)]
        assert kept
        assert not [content for content in kept if KEY.encode() in content]
