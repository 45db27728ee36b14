"""Jobs over partitioned trees, from end to end: what is annotated, and what readers find of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from in_process import loud_job, run_here

from pipeline.errors import JobError
from pipeline.job.job import Job
from pipeline.preview import Wanted, output_rows, preview_rows
from pipeline.verify import verify_job

pytestmark = pytest.mark.unit

PARTS = {
    "year=2023/city=S%C3%A3o%20Paulo": ["one", "two"],
    "year=2024/city=Kyiv": ["three", "four", "five"],
    "year=2024/city=__HIVE_DEFAULT_PARTITION__": ["six"],
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    at = 0
    for place, texts in PARTS.items():
        path = tmp_path / "in" / place / "part-0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"id": range(at, at + len(texts)), "text": texts}), path)
        at += len(texts)
    return tmp_path / "in"


@pytest.fixture
def make(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    return loud_job(monkeypatch, tree)


def files(tree: Path) -> dict[str, int]:
    out = tree.parent / "out"
    return {
        path.parent.relative_to(out).as_posix(): pq.read_metadata(path).num_rows
        for path in sorted(out.rglob("*.parquet"))
    }


def found(tree: Path) -> list[dict[str, Any]]:
    kinds = pa.schema([("year", pa.int32()), ("city", pa.string())])
    hive = pads.partitioning(kinds, flavor="hive")
    rows = pads.dataset(tree.parent / "out", partitioning=hive).to_table().to_pylist()
    return sorted(rows, key=lambda row: row["id"])


def test_the_output_keeps_the_trees_layout_and_with_it_its_columns(make: Any, tree: Path) -> None:
    summary = run_here(make())
    assert (summary.exit_code, summary.rows.rows) == (0, 6)
    assert files(tree) == {place: len(texts) for place, texts in PARTS.items()}
    rows = found(tree)
    assert [row["loud"] for row in rows] == ["ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX"]
    assert [(row["year"], row["city"]) for row in rows[1:3]] == [
        (2023, "São Paulo"), (2024, "Kyiv")
    ]  # fmt: skip
    assert rows[5]["city"] is None
    assert verify_job(make()).problems == []


def test_only_rows_that_pass_are_annotated_and_the_same_job_is_done_then(
    make: Any, tree: Path
) -> None:
    job = make(filter="year = 2024 AND text LIKE 'f%'")
    summary = run_here(job)
    assert (summary.exit_code, summary.rows.rows, summary.files) == (0, 2, 2)
    assert [row["id"] for row in found(tree)] == [3, 4]
    # A file of which no row passes is done, too: it has a file without rows.
    assert files(tree) == {
        "year=2024/city=Kyiv": 2,
        "year=2024/city=__HIVE_DEFAULT_PARTITION__": 0,
    }
    assert verify_job(job).problems == []
    assert run_here(job).state == "nothing to do"


def test_another_filter_is_another_job(make: Any, tree: Path) -> None:
    run_here(make(filter="id < 3"))
    with pytest.raises(JobError, match="filter was id < 3, is id < 4"):
        run_here(make(filter="id < 4"))
    assert run_here(make(filter="id < 4"), supersede=True).rows.rows == 4
    assert [row["id"] for row in found(tree)] == [0, 1, 2, 3]


def test_tasks_read_what_directories_tell(make: Any, tree: Path) -> None:
    job = make({"template": "{text} in {city}, {year}", "when": "year > 2023"})
    run_here(job)
    assert [row["loud"] for row in found(tree)] == [
        None, None, "THREE IN KYIV, 2024", "FOUR IN KYIV, 2024", "FIVE IN KYIV, 2024",
        "SIX IN , 2024",
    ]  # fmt: skip


def test_a_preview_shows_what_directories_tell_and_only_rows_that_pass(
    make: Any, tree: Path
) -> None:
    job = make({"template": "{text} {year}"}, filter="id >= 1")
    shown = preview_rows(job, Wanted(2))
    assert [row["loud"] for table in shown.tables for row in table.to_pylist()] == [
        "TWO 2023", "THREE 2024"
    ]  # fmt: skip
    run_here(job)
    kept = output_rows(str(tree.parent / "out"), Wanted(9, "year = 2024", columns=("id", "city")))
    assert kept.tables[0].to_pylist()[0] == {"id": 2, "year": 2024, "city": "Kyiv"}


def test_a_bad_row_is_named_by_its_place_in_the_file(make: Any, tree: Path) -> None:
    table = pa.table({"id": range(10, 14), "text": ["a", "x" * 50, "b", "y" * 50]})
    pq.write_table(table, tree / "year=2023" / "long.parquet")
    given = make(filter="id > 11")
    limits = given.limits.model_copy(update={"text": 20, "bad_rows": 0.0})
    summary = run_here(given.model_copy(update={"limits": limits}))
    (failure,) = summary.failed_splits
    assert "1 of 2 rows can't be annotated" in failure.reason
    assert "the first is row 3, task loud" in failure.reason


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"filter": "yaer = 2024"}, "no column `yaer`.*Name `year`"),
        ({"filter": "text > 5"}, "`text` is a text"),
        ({"filter": "year = 'new'"}, "`year` is a number"),
        ({"filter": "year = 1999"}, "rules out all 3 files"),
        ({"filter": "year"}, "gives a number, not true or false"),
        ({"partitions": {"city": "int32"}}, "the partition city=.* is no int32"),
        ({"partitions": {"month": "int32"}}, "names `month`"),
        ({"columns": ["id", "cities"]}, "no column `cities`"),
    ],
)
def test_a_wrong_wish_is_told_before_anything_starts(
    make: Any, tree: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(JobError, match=said):
        run_here(make(**given))
    assert files(tree) == {}


def test_a_directory_that_is_named_as_a_task_is_refused(make: Any, tree: Path) -> None:
    (tree / "year=2023").rename(tree / "loud=2023")
    (tree / "year=2024").rename(tree / "loud=2024")
    with pytest.raises(JobError, match="has a column `loud`, which the output would overwrite"):
        run_here(make())


def by_pyarrow(root: str) -> list[Any]:
    return pads.dataset(root, partitioning="hive").to_table().to_pylist()


def by_parquet(root: str) -> list[Any]:
    return pq.read_table(root).to_pylist()


def by_polars(root: str) -> list[Any]:
    import polars

    return polars.read_parquet(f"{root}/", hive_partitioning=True).to_dicts()


def by_pandas(root: str) -> list[Any]:
    import pandas

    return pandas.read_parquet(root).to_dict("records")


def by_duckdb(root: str) -> list[Any]:
    import duckdb

    query = f"select * from read_parquet('{root}/**/*.parquet', hive_partitioning=true)"
    return duckdb.sql(query).to_arrow_table().to_pylist()


READERS = [by_pyarrow, by_parquet, by_polars, by_pandas, by_duckdb]


@pytest.mark.parametrize("reader", READERS)
def test_readers_find_each_row_with_its_partition(make: Any, tree: Path, reader: Any) -> None:
    run_here(make(filter="city IS NOT NULL"))
    rows = reader(str(tree.parent / "out"))
    got = sorted((row["id"], row["loud"], int(row["year"]), row["city"]) for row in rows)
    assert got == [
        (0, "ONE", 2023, "São Paulo"), (1, "TWO", 2023, "São Paulo"),
        (2, "THREE", 2024, "Kyiv"), (3, "FOUR", 2024, "Kyiv"), (4, "FIVE", 2024, "Kyiv"),
    ]  # fmt: skip


def test_datasets_finds_each_row(make: Any, tree: Path) -> None:
    from datasets import load_dataset

    run_here(make())
    out = str(tree.parent / "out")
    rows = load_dataset(out, cache_dir=str(tree.parent / "cache"))["train"]
    assert sorted(rows["loud"]) == sorted(text.upper() for part in PARTS.values() for text in part)
