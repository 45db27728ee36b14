"""Delta tables by real workers: nights of output, and a table in an object store."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from s3_server import KEY, s3_server
from table_jobs import added_once, delete_by_vector, ids, log, run, write, write_job

from pipeline.errors import JobError
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
    table = DeltaTable(out).to_pyarrow_table()
    assert sorted(table.column("id").to_pylist()) == [1, 2, 3]
    assert all(row["label"] in ("yes", "no") for row in table.column("mood").to_pylist())
    assert verify_job(job).problems == []
    DeltaTable(out).optimize.compact()
    write(lake, "d", 5)
    summary = run_job(job, display=display)
    assert (summary.splits.done, summary.splits.done_before) == (1, 2)
    assert ids(out) == [1, 2, 3, 5]
    assert (output_status(str(out), job=job).left, DeltaTable(out).version()) == (0, 2)
    assert len(added_once(out)) == 3


def test_nights_over_a_table_infer_the_rows_of_new_and_changed_files_alone(
    ray_cluster, job, tmp_path, display
):
    lake, out = tmp_path / "lake", tmp_path / "table"
    options = {"delta.enableDeletionVectors": "true"}
    write_deltalake(lake, rows(1, 2, 3), partition_by=["shop"], configuration=options)
    write_deltalake(lake, rows(4, 5), mode="append")
    job = as_delta(job)
    counts = []

    def night() -> None:
        summary = run_job(job, display=display)
        assert summary.exit_code == 0
        counts.append(summary.rows.rows)
        assert summary.tokens == 0 or summary.tokens == 3 * summary.rows.rows

    night()
    write_deltalake(lake, rows(6, 7, 8), mode="append")
    night()
    DeltaTable(lake).update(updates={"text": "'w9'"}, predicate="id = 6")
    night()
    (file,) = [a["add"]["path"] for a in log(lake) if a["version"] == 1 and "add" in a]
    delete_by_vector(lake, file, 0)
    night()
    DeltaTable(lake).delete("id = 2")
    night()
    assert counts == [5, 3, 3, 1, 2]
    assert ids(out) == [1, 3, 5, 6, 7, 8]
    assert verify_job(job).problems == []
    found = DeltaTable(out).to_pyarrow_table().sort_by("id")
    assert found.column("text").to_pylist() == ["w1", "w3", "w5", "w9", "w7", "w8"]
    assert {*found.column("shop").to_pylist()} == {"one"}


def rows(*numbers: int) -> pa.Table:
    texts = [f"w{number}" for number in numbers]
    return pa.table({"id": list(numbers), "text": texts, "shop": ["one"] * len(numbers)})


def test_a_column_of_another_type_is_refused_and_the_others_go_on_without_its_file(
    ray_cluster, job, lake, tmp_path, display
):
    pq.write_table(pa.table({"id": ["x"], "text": ["w1"]}), lake / "z.parquet")
    with pytest.raises(JobError, match=r"z.parquet: column `id` is string, and int64 in"):
        run_job(as_delta(job), display=display)
    (lake / "z.parquet").unlink()
    assert run_job(as_delta(job), display=display).exit_code == 0
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
        again = write_job(
            tmp_path,
            input={"path": address, "columns": ["id", "text"]},
            output={"path": f"{address}2"},
        )
        assert run(again).input_version == 1
        assert DeltaTable(f"{address}2").to_pyarrow_table().num_rows == 3
        assert not [content for content in kept if KEY.encode() in content]
