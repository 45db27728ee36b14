"""Whoever is pointed at an output's root finds the annotated rows there, and nothing else."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from helpers import commit_file

from pipeline.engine.driver.lease import Lease
from pipeline.errors import JobError
from pipeline.lake.sink.files import FileSink
from pipeline.lake.sink.scratch import OutputFile
from pipeline.lake.source.open import open_source
from pipeline.lake.store import own
from pipeline.lake.store.local import LocalStore
from pipeline.lake.store.own import own_address
from pipeline.records.schema import Progress
from pipeline.records.writer import RunRecord

pytestmark = pytest.mark.unit

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])


def by_polars(root: str) -> list[int]:
    import polars

    assert polars.scan_parquet(root).collect().height == polars.read_parquet(f"{root}/").height
    return polars.read_parquet(root)["id"].to_list()


def by_pandas(root: str) -> list[int]:
    import pandas

    return pandas.read_parquet(root)["id"].tolist()


def by_duckdb(root: str) -> list[int]:
    import duckdb

    # DuckDB takes no directory, only a pattern.
    return [row[0] for row in duckdb.sql(f"select id from '{root}/**/*.parquet'").fetchall()]


def by_datasets(root: str) -> list[int]:
    from datasets import load_dataset

    return load_dataset(root, cache_dir=f"{root}-cache")["train"]["id"][:]


def by_datasets_parquet(root: str) -> list[int]:
    from datasets import load_dataset

    found = load_dataset("parquet", data_dir=root, cache_dir=f"{root}-cache")
    return found["train"]["id"][:]


READERS = {
    "pyarrow.dataset": lambda root: pads.dataset(root).to_table()["id"].to_pylist(),
    "pyarrow.parquet": lambda root: pq.read_table(root)["id"].to_pylist(),
    "Polars": by_polars,
    "pandas": by_pandas,
    "DuckDB": by_duckdb,
    "datasets": by_datasets,
    "datasets parquet": by_datasets_parquet,
}


def publish(store: LocalStore, name: str, row: int) -> None:
    out = OutputFile(FileSink(store), name, SCHEMA, compression="zstd")
    out.write(pa.table({"id": [row], "text": ["a"]}, schema=SCHEMA))
    commit_file(out, {"split": name}, rows=1)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("partition", ["", "year=2026/"], ids=["flat", "hive"])
def test_the_root_of_an_output_reads_while_a_run_is_under_way_and_after_it_died(
    tmp_path: Path, reader: Callable[[str], list[int]], partition: str
) -> None:
    store = LocalStore(str(tmp_path / "annotated"))
    record = RunRecord(store.own, "run")
    with Lease(store.own, "run", output=store.root), record:
        publish(store, f"{partition}a-all-0123456789abcdef.parquet", 1)
        publish(store, f"{partition}b-all-1123456789abcdef.parquet", 2)
        record.event("done", path="a.parquet")
        record.write("job.yaml", "name: test\n")
        record.write("summary.json", {"state": "failed"})
        record.progress(Progress(splits=3))
        record.flush()
        begun = OutputFile(
            FileSink(store), f"{partition}c-all-2.parquet", SCHEMA, compression="zstd"
        )
        begun.write(pa.table({"id": [3], "text": ["a"]}, schema=SCHEMA))
        # As a killed process would leave it: none of our own files is taken away.
        assert sorted(reader(store.root)) == [1, 2]
        begun.discard()
    assert sorted(reader(store.root)) == [1, 2]
    assert (store.own.base / "runs/run/summary.json").exists()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("output", "place"),
    [
        ("/data/lake/annotated", "/data/lake/.shardscribe/annotated"),
        ("/data/lake/annotated/", "/data/lake/.shardscribe/annotated"),
        ("file:///data/lake/annotated", "/data/lake/.shardscribe/annotated"),
        ("/annotated", "/.shardscribe/annotated"),
        ("/", "/.shardscribe"),
        ("s3://bucket/lake/annotated", "s3://bucket/lake/.shardscribe/annotated"),
        ("s3://bucket/lake/annotated/", "s3://bucket/lake/.shardscribe/annotated"),
        ("gs://bucket/annotated", "gs://bucket/.shardscribe/annotated"),
        ("s3://bucket", "s3://bucket/.shardscribe"),
        ("s3://bucket/", "s3://bucket/.shardscribe"),
        ("abfss://c@account.dfs.core.windows.net/a/b",
         "abfss://c@account.dfs.core.windows.net/a/.shardscribe/b"),
    ],
)  # fmt: skip
def test_own_files_are_beside_the_output_where_something_can_be_beside_it(
    output: str, place: str
) -> None:
    assert own_address(output) == place


def test_all_names_of_an_output_have_one_place_for_own_files(tmp_path: Path) -> None:
    (tmp_path / "real/annotated").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real/annotated")
    assert own_address(str(tmp_path / "link")) == own_address(str(tmp_path / "real/annotated"))


def test_own_files_of_a_mounted_directory_are_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "my own\\output"
    escaped = str(output).replace("\\", "\\134").replace(" ", "\\040")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"36 35 98:0 /deep {escaped} rw,noatime master:1 - ext4 /dev/root rw\n")
    monkeypatch.setattr(own, "MOUNTS", mounts)
    assert own_address(str(output)) == str(output / ".shardscribe")
    assert own_address(str(output / "below")) == str(output / ".shardscribe/below")
    monkeypatch.setattr(own, "MOUNTS", tmp_path / "nowhere")
    assert own_address(str(output)) == str(tmp_path / ".shardscribe" / output.name)


def test_an_output_that_can_not_be_written_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    dataset = open_source(str(tmp_path / "in"))
    asked: list[str] = []

    def refuse(path: str | Path, mode: int) -> bool:
        asked.append(str(path))
        return False

    monkeypatch.setattr(os, "access", refuse)
    with pytest.raises(JobError, match=r"out/deep can't be written: no permission"):
        FileSink(LocalStore(str(tmp_path / "out/deep"))).check(dataset)
    assert asked == [str(tmp_path)]
