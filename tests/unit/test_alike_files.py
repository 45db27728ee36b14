"""Files of one dataset whose columns differ: made alike where that is safe, refused where not."""

import datetime as dt
import decimal
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from in_process import loud_job, run_here

from pipeline import preview as previewing
from pipeline import run as running
from pipeline.errors import JobError
from pipeline.job.job import Job
from pipeline.lake.source.promote import promoted
from pipeline.preview import Wanted, preview_rows
from pipeline.status import output_status
from pipeline.verify import verify_job

pytestmark = pytest.mark.unit

Make = Callable[..., Job]
D = decimal.Decimal


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def make(lake: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    return loud_job(monkeypatch, lake)


def write(path: Path, text: str = "a", **columns: Any) -> None:
    arrays = {name: c if isinstance(c, pa.Array) else pa.array(c) for name, c in columns.items()}
    rows = len(next(iter(arrays.values()))) if arrays else 1
    pq.write_table(pa.table({"text": [text] * rows, **arrays}), path)


def made(job: Job) -> list[pa.Table]:
    return [pq.read_table(path) for path in sorted(Path(job.output.path).rglob("*.parquet"))]


def rows_by_datasets(root: str) -> list[Any]:
    from datasets import load_dataset

    return load_dataset(root, cache_dir=f"{root}-cache")["train"]["text"][:]


def rows_by_pandas(root: str) -> list[Any]:
    import pandas

    return pandas.read_parquet(root)["text"].tolist()


def rows_by_polars(root: str) -> list[Any]:
    import polars

    return polars.read_parquet(f"{root}/")["text"].to_list()


def rows_by_duckdb(root: str) -> list[Any]:
    import duckdb

    return [row[0] for row in duckdb.sql(f"select text from '{root}/*.parquet'").fetchall()]


READERS = {
    "pyarrow": lambda root: pads.dataset(root).to_table()["text"].to_pylist(),
    "DuckDB": rows_by_duckdb,
    "Polars": rows_by_polars,
    "pandas": rows_by_pandas,
    "datasets": rows_by_datasets,
}


@pytest.fixture
def mixed(lake: Path) -> Path:
    """Five files, of which hardly two have the same columns in the same order."""
    write(
        lake / "a.parquet", "a", id=pa.array([1], pa.int32()), price=pa.array([1.5], pa.float32())
    )
    write(lake / "b.parquet", "b", id=pa.array([2**40]), price=[2.5], city=["Kyiv"])
    kinds = pa.array(["x"]).dictionary_encode()
    write(lake / "c.parquet", "c", city=kinds, id=pa.array([3], pa.int16()))
    deep = pa.array([[{"n": 1}]], pa.list_(pa.struct([("n", pa.int32())])))
    write(lake / "d.parquet", "d", id=pa.array([None], pa.null()), deep=deep,
          cost=pa.array([D("1.5")], pa.decimal128(4, 1)))  # fmt: skip
    wide = pa.array([[{"m": "y", "n": 2**40}]])
    write(lake / "e.parquet", "e", deep=wide, cost=pa.array([D("12.345")], pa.decimal128(8, 3)),
          id=pa.array([5], pa.uint32()))  # fmt: skip
    return lake


def test_all_files_of_the_output_have_the_same_columns(make: Make, mixed: Path) -> None:
    job = make()
    assert run_here(job).exit_code == 0
    tables = made(job)
    schema = tables[0].schema
    assert all(table.schema.equals(schema, check_metadata=True) for table in tables)
    assert schema.names == ["text", "id", "price", "city", "deep", "cost", "loud", "errors"]
    assert [str(schema.field(name).type) for name in ("id", "price", "city", "cost")] == [
        "int64", "double", "string", "decimal128(8, 3)",
    ]  # fmt: skip
    rows = pa.concat_tables(tables).to_pylist()
    assert [row["id"] for row in rows] == [1, 2**40, 3, None, 5]
    assert [row["city"] for row in rows] == [None, "Kyiv", "x", None, None]
    assert [row["deep"] for row in rows][3:] == [[{"n": 1, "m": None}], [{"n": 2**40, "m": "y"}]]
    assert [row["cost"] for row in rows][3:] == [D("1.500"), D("12.345")]
    assert [row["loud"] for row in rows] == ["A", "B", "C", "D", "E"]
    assert verify_job(job).problems == []
    assert output_status(job.output.path, job=job).left == 0
    assert run_here(job).state == "nothing to do"


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_every_reader_takes_it_for_one_dataset(
    make: Make, mixed: Path, reader: Callable[[str], list[Any]]
) -> None:
    job = make()
    run_here(job)
    assert sorted(reader(job.output.path)) == ["a", "b", "c", "d", "e"]


def test_files_that_are_alike_are_written_as_ever(
    make: Make, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        write(lake / f"{name}.parquet", name, id=pa.array([1], pa.int32()))
    job = make()
    run_here(job)
    alike = sorted(path.read_bytes() for path in Path(job.output.path).glob("*.parquet"))
    alone = make(output={"path": f"{job.output.path}2"})
    monkeypatch.setattr("pipeline.lake.source.files.union_of", lambda *_, **__: None)
    run_here(alone)
    assert alike == sorted(path.read_bytes() for path in Path(alone.output.path).glob("*.parquet"))


def test_a_file_that_comes_with_more_leaves_what_is_annotated_as_it_is(
    make: Make, lake: Path
) -> None:
    write(lake / "a.parquet", "a", id=pa.array([1], pa.int32()))
    job = make()
    run_here(job)
    write(lake / "b.parquet", "b", id=pa.array([2**40]), city=["Kyiv"])
    summary = run_here(job)
    assert (summary.rows.rows, summary.splits.done_before) == (1, 1)
    # Compared as wide as it is now: what was written before it is narrower.
    assert verify_job(job).problems == []
    assert [table.schema.field("id").type for table in made(job)] == [pa.int32(), pa.int64()]
    (lake / "b.parquet").unlink()
    assert [p for p in verify_job(job).problems if "belongs to no split" not in p] == []


def test_verify_still_sees_a_column_that_is_lost_or_another(make: Make, lake: Path) -> None:
    write(lake / "a.parquet", "a", id=[1])
    write(lake / "b.parquet", "b", id=[2], city=["Kyiv"])
    job = make()
    run_here(job)
    write_again = pa.array([3])
    entry = lake / "b.parquet"
    before = entry.stat()
    write(entry, "b", id=write_again, city=["Lviv"])
    import os

    os.utime(entry, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert any("column `id` differs" in problem for problem in verify_job(job).problems)


def test_footers_are_read_once(make: Make, mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.lake.source import alike

    job = make()
    run_here(job)
    read: list[str] = []
    real = alike._read
    monkeypatch.setattr(alike, "_read", lambda s, e: read.append(e.path) or real(s, e))
    write(mixed / "f.parquet", "f", id=[7])
    run_here(job)
    assert {*read} == {"f.parquet"}
    read.clear()
    assert verify_job(job).problems == []
    assert read == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1], ["x"]),
        ([1], [1.5]),
        ([True], [1]),
        ([b"x"], ["x"]),
        (pa.array([2**63], pa.uint64()), [1]),
        (pa.array([1], pa.timestamp("us")), pa.array([1], pa.timestamp("us", "UTC"))),
        (pa.array([1], pa.timestamp("us", "UTC")), pa.array([1], pa.timestamp("us", "Asia/Tokyo"))),
        ([dt.date(2026, 1, 1)], pa.array([1], pa.timestamp("us"))),
        ([[1]], [1]),
        ([{"a": 1}], [{"a": "x"}]),
        (pa.array([D(1)], pa.decimal256(76, 0)), pa.array([D("0.5")], pa.decimal256(76, 70))),
        (pa.array([b"ab"], pa.binary(2)), pa.array([b"abc"], pa.binary(3))),
    ],
)
def test_types_that_no_type_holds_are_refused_before_the_start_naming_file_and_column(
    make: Make, lake: Path, one: Any, other: Any
) -> None:
    write(lake / "a.parquet", n=one)
    write(lake / "b.parquet", n=other)
    job = make()
    with pytest.raises(JobError, match=r"in/b.parquet: column `n` is .*, and .* in a.parquet") as e:
        run_here(job)
    assert e.value.exit_code == 2
    assert "input.columns" in str(e.value)
    assert not [*Path(job.output.path).glob("*.parquet")]
    # What is not carried need not be alike.
    assert run_here(make(columns=["text"])).exit_code == 0


def test_a_file_without_a_column_that_is_read_fails_alone(make: Make, lake: Path) -> None:
    write(lake / "a.parquet", "a", id=[1])
    write(lake / "a0.parquet", "a", id=[1], more=["x"])
    pq.write_table(pa.table({"id": [2]}), lake / "b.parquet")
    pq.write_table(pa.table({"id": [2.5], "text": [7]}), lake / "c.parquet")
    (lake / "d.parquet").write_bytes(b"PAR1 no footer")
    summary = run_here(make())
    reasons = {failed.path: failed.reason for failed in summary.failed_splits}
    assert "has no column `text`; it has id." in reasons["b.parquet"]
    assert "column `text` is int64, not text" in reasons["c.parquet"]
    assert "d.parquet" in reasons
    assert summary.rows.rows == 2


def test_a_value_out_of_range_fails_its_file_alone(make: Make, lake: Path) -> None:
    write(lake / "a.parquet", "a", at=pa.array([1], pa.timestamp("ns")))
    write(lake / "b.parquet", "b", at=pa.array([dt.datetime(3000, 1, 1)], pa.timestamp("us")))
    (failed,) = run_here(make()).failed_splits
    assert "b.parquet: column `at` has a value that timestamp[ns]" in failed.reason


def test_texts_that_are_no_utf8_stay_bad_rows(make: Make, lake: Path) -> None:
    bad = pa.array([b"good", b"\xff"]).dictionary_encode()
    kind = pa.dictionary(pa.int32(), pa.string())
    spoilt = pa.DictionaryArray.from_arrays(bad.indices, bad.dictionary.view(pa.string()))
    pq.write_table(pa.table({"text": spoilt.cast(kind)}), lake / "a.parquet")
    pq.write_table(pa.table({"text": pa.array(["b"], pa.large_string())}), lake / "b.parquet")
    job = make()
    limits = job.limits.model_copy(update={"bad_rows": 1.0})
    job = job.model_copy(update={"limits": limits})
    summary = run_here(job)
    assert (summary.exit_code, summary.rows.rows, summary.rows.bad) == (0, 3, 1)
    assert verify_job(job).problems == []


def test_a_filter_over_a_column_that_a_file_lacks_holds_for_none_of_its_rows(
    make: Make, lake: Path
) -> None:
    write(lake / "a.parquet", "a", n=[1])
    write(lake / "b.parquet", "b", m=[2])
    assert run_here(make(filter="m > 1")).rows.rows == 1
    assert run_here(make(filter="m IS NULL", output={"path": f"{lake}-2"})).rows.rows == 1


def test_keys_and_directories_are_as_they_were(make: Make, lake: Path) -> None:
    for year in (2023, 2024):
        (lake / f"year={year}").mkdir()
    write(
        lake / "year=2023/a.parquet",
        "a",
        id=pa.array([1], pa.int32()),
        year=pa.array([2023], pa.int32()),
    )
    write(lake / "year=2024/b.parquet", "b", id=[2])
    job = make()
    assert run_here(job).exit_code == 0
    assert pads.dataset(job.output.path, partitioning="hive").to_table().num_rows == 2
    assert verify_job(job).problems == []
    keyed = make(output={"columns": "annotations", "path": f"{lake}-2"})
    assert run_here(keyed).exit_code == 0
    assert verify_job(keyed).problems == []


def test_a_task_that_reads_what_directories_tell_keeps_files_alike(make: Make, lake: Path) -> None:
    for year in (2023, 2024):
        (lake / f"year={year}").mkdir()
    write(lake / "year=2023/a.parquet", "a", id=pa.array([1], pa.int32()))
    write(lake / "year=2024/b.parquet", "b", id=[2**40])
    job = make({"template": "{text} {year}"})
    assert run_here(job).exit_code == 0
    files = sorted(Path(job.output.path).rglob("*.parquet"))
    assert [pq.read_schema(path).field("id").type for path in files] == [pa.int64()] * 2
    assert verify_job(job).problems == []


def test_a_preview_of_differing_files_shows_them_alike(make: Make, mixed: Path) -> None:
    shown = preview_rows(make(), Wanted(5))
    assert shown.rows == 5
    assert {str(table.schema.field("id").type) for table in shown.tables} == {"int64"}


def test_what_readers_believe_of_a_column_is_not_said_of_another(make: Make, lake: Path) -> None:
    import pandas
    from datasets import ClassLabel, Dataset, Features, Value, load_dataset

    features = Features({"text": Value("string"), "n": Value("int32"), "kind": ClassLabel(2)})
    Dataset.from_dict({"text": ["a"], "n": [1], "kind": [1]}, features=features).to_parquet(
        lake / "a.parquet"
    )
    index = pandas.Index([7], name="at")
    pandas.DataFrame({"text": ["b"], "n": [2**40], "kind": [0]}, index=index).to_parquet(
        lake / "b.parquet"
    )
    job = make()
    assert run_here(job).exit_code == 0
    found = load_dataset(job.output.path, cache_dir=f"{lake}-cache")["train"]
    assert sorted(found["n"]) == [1, 2**40]
    assert sorted(pandas.read_parquet(job.output.path)["n"]) == [1, 2**40]


def test_a_delta_table_takes_files_that_differ(make: Make, mixed: Path) -> None:
    from deltalake import DeltaTable

    job = make(output={"format": "delta"})
    assert run_here(job).exit_code == 0
    rows = DeltaTable(job.output.path).to_pyarrow_table()
    assert sorted(rows["text"].to_pylist()) == ["a", "b", "c", "d", "e"]
    write(mixed / "a0.parquet", "f", id=pa.array([9], pa.int8()))
    assert run_here(job).exit_code == 0
    assert verify_job(job).problems == []


def test_a_table_that_is_wider_than_the_first_files_goes_on(
    make: Make, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "FIRST_FILES", 2)
    monkeypatch.setattr(previewing, "FIRST_FILES", 2)
    for name in "ab":
        write(lake / f"{name}.parquet", name, id=pa.array([1], pa.int32()))
    write(lake / "c.parquet", "c", id=[2**40])
    job = make(output={"format": "delta"})
    assert run_here(job).exit_code == 0
    write(lake / "d.parquet", "d", id=pa.array([4], pa.int8()))
    assert run_here(job).rows.rows == 1
    assert preview_rows(job, Wanted(1)).rows == 1
    assert verify_job(job).problems == []


def test_a_carried_column_that_is_named_is_null_where_a_file_lacks_it(
    make: Make, lake: Path
) -> None:
    write(lake / "a.parquet", "a", id=[1])
    write(lake / "b.parquet", "b", id=[2], city=["Kyiv"])
    job = make(columns=["city", "id"])
    assert run_here(job).exit_code == 0
    assert [table.to_pylist()[0]["city"] for table in made(job)] == [None, "Kyiv"]
    assert verify_job(job).problems == []


KINDS = [
    pa.null(), pa.bool_(), pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32(), pa.uint64(),
    pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.large_string(), pa.binary(),
    pa.large_binary(), pa.decimal128(5, 2), pa.decimal128(38, 3), pa.decimal256(50, 4),
    pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.date32(),
    pa.dictionary(pa.int32(), pa.string()), pa.list_(pa.int32()), pa.large_list(pa.int64()),
    pa.list_(pa.int8(), 2), pa.struct([("a", pa.int32())]), pa.struct([("b", pa.string())]),
    pa.map_(pa.string(), pa.int32()), pa.map_(pa.string(), pa.int64()),
]  # fmt: skip


def test_promotion_does_not_depend_on_the_order_and_can_be_followed_by_a_cast() -> None:
    for one, other in itertools.product(KINDS, KINDS):
        wider = promoted(one, other)
        back = promoted(other, one)
        assert (wider is None) == (back is None), (one, other)
        if wider is None:
            continue
        assert promoted(wider, one) == wider
        assert promoted(wider, other) == wider
        for kind in (one, other):
            plain = pa.nulls(1, kind)
            if pa.types.is_dictionary(kind) and kind != wider:
                plain = plain.dictionary_decode()
            assert plain.cast(wider).type == wider
