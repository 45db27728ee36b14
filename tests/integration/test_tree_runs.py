"""A partitioned tree by real workers: nights, a filter, and the same tree in an object store."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from in_process import annotate
from s3_server import s3_server
from table_jobs import run

from pipeline.job.job import Job
from pipeline.lake.store.open import open_store
from pipeline.records.schema import Summary
from pipeline.run import run_job
from pipeline.status import output_status
from pipeline.verify import verify_job

pytestmark = pytest.mark.integration

DIRECTORIES = {
    "year=2024/lang=en": (1, 2),
    "year=2025/lang=en": (3, 4, 5),
    "year=2025/lang=a%20b%2Fc": (6,),
    "year=__HIVE_DEFAULT_PARTITION__/lang=en": (7,),
}
FILTER = "year >= 2025 AND id <> 4 AND lang <> 'de'"


def fill(root: str, files: dict[str, tuple[int, ...]], name: str = "part") -> None:
    store = open_store(root)
    for directory, numbers in files.items():
        sink = pa.BufferOutputStream()
        texts = [f"w{number}" for number in numbers]
        pq.write_table(pa.table({"id": list(numbers), "text": texts}), sink)
        assert store.create(f"{directory}/{name}.parquet", sink.getvalue().to_pybytes())


def test_nights_over_a_tree_annotate_the_rows_that_a_filter_takes_and_keep_its_layout(
    ray_cluster, make_job, tiny_model, tmp_path, display
):
    lake, out = tmp_path / "lake", tmp_path / "table"
    nights(make_job, tiny_model, str(lake), str(out), partial(run_job, display=display))
    theirs = duckdb.sql(
        f"SELECT id, lang FROM read_parquet('{lake}/**/*.parquet', hive_types={{'year': INT}})"
        f" WHERE {FILTER} ORDER BY id"
    )
    ours = duckdb.sql(f"SELECT id, lang FROM read_parquet('{out}/**/*.parquet') ORDER BY id")
    assert ours.fetchall() == theirs.fetchall()


def test_nights_over_a_tree_in_an_object_store_do_the_same(make_job, tiny_model, tmp_path):
    with s3_server():
        nights(
            make_job,
            tiny_model,
            "s3://lake/a tree",
            "s3://lake/a tree's output",
            lambda _: run(str(tmp_path / "job.yaml"), annotate=annotate),
        )


def nights(
    make_job: Any, model: Path, lake: str, out: str, night: Callable[[Job], Summary]
) -> None:
    fill(lake, DIRECTORIES)
    job = make_job(
        lake,
        tasks={"mood": {"kind": "classify", "model": str(model)}},
        input={"path": lake, "text": "text", "filter": FILTER},
        compute={"workers": 1, "cpus_per_worker": 1},
        output=out,
    )
    first = night(job)
    assert (first.exit_code, first.rows.rows) == (0, 3)
    fill(lake, {"year=2026/lang=en": (8,), "year=2023/lang=en": (9,)}, "new")
    second = night(job)
    assert (second.exit_code, second.rows.rows) == (0, 1)
    assert night(job).state == "nothing to do"
    assert verify_job(job).problems == []
    assert output_status(str(out), job=job).left == 0
    store = open_store(str(out))
    files = [entry.path for entry in store.entries() if entry.path.endswith(".parquet")]
    assert {path.rsplit("/", 1)[0] for path in files} == {
        "year=2025/lang=en",
        "year=2025/lang=a%20b%2Fc",
        "year=2026/lang=en",
    }
    found = {}
    for path in files:
        table = pq.read_table(pa.BufferReader(store.read(path) or b""))
        assert all(
            label in ("yes", "no")
            for label in table["mood"].combine_chunks().field("label").to_pylist()
        )
        found |= dict.fromkeys(table["id"].to_pylist(), path.split("/")[0])
    assert {number: int(year[5:]) for number, year in found.items()} == {
        3: 2025,
        5: 2025,
        6: 2025,
        8: 2026,
    }
