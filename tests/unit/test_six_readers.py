"""Six independent readers find the same rows, types and partitions in what a job has written."""

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from duck import ducks
from in_process import loud_job, run_here

from pipeline.verify import verify_job

pytestmark = pytest.mark.unit

ROWS = 60
SHOWN = ["id", "year", "lang", "price", "day", "tags", "loud"]


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A tree by year and language, one value of which is missing, in two files each."""
    root = tmp_path / "in"
    for number in range(ROWS):
        year, lang = 2023 + number % 2, ("en", "uk", None)[number % 3]
        place = root / f"year={year}" / f"lang={lang or '__HIVE_DEFAULT_PARTITION__'}"
        place.mkdir(parents=True, exist_ok=True)
        row = {
            "id": [number], "text": [f"text {number}"],
            "price": pa.array([Decimal(number) / 4], pa.decimal128(10, 2)),
            "day": [dt.date(2026, 1, 1) + dt.timedelta(number)],
            "tags": [[f"t{n}" for n in range(number % 3)]],
        }  # fmt: skip
        half = place / f"part-{number % 2}.parquet"
        table = pa.table(row)
        if half.exists():
            table = pa.concat_tables([pq.ParquetFile(half).read(), table])
        pq.write_table(table, half)
    return root


def wanted() -> list[dict[str, Any]]:
    return [
        {
            "id": n, "year": 2023 + n % 2, "lang": ("en", "uk", None)[n % 3],
            "price": Decimal(n) / 4, "day": dt.date(2026, 1, 1) + dt.timedelta(n),
            "tags": [f"t{i}" for i in range(n % 3)], "loud": f"TEXT {n}",
        }
        for n in range(ROWS)
    ]  # fmt: skip


def plain(value: Any) -> Any:
    """A value as Python has it, whoever read it."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return value
    if value is None or value != value or str(value) in ("<NA>", "NaT"):
        return None
    if isinstance(value, dt.datetime):
        return value.date()
    return int(value) if isinstance(value, str) and value.isdigit() else value


def sorted_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [{name: plain(row[name]) for name in SHOWN} for row in rows]
    return sorted(found, key=lambda row: row["id"])


def tree_by_pyarrow(root: str) -> list[Any]:
    return pads.dataset(root, partitioning="hive").to_table().to_pylist()


def tree_by_parquet(root: str) -> list[Any]:
    return pq.read_table(root).to_pylist()


def tree_by_duckdb(root: str) -> list[Any]:
    import duckdb

    found = duckdb.sql(f"select * from read_parquet('{root}/**/*.parquet', hive_partitioning=true)")
    return found.to_arrow_table().to_pylist()


def tree_by_polars(root: str) -> list[Any]:
    import polars

    return polars.read_parquet(f"{root}/", hive_partitioning=True).to_dicts()


def tree_by_pandas(root: str) -> list[Any]:
    import pandas

    # By itself pyarrow makes categories of what directories tell, which it can't give to pandas
    # where a value is missing.
    kinds = pa.schema([("year", pa.int32()), ("lang", pa.string())])
    hive = pads.partitioning(kinds, flavor="hive")
    return pandas.read_parquet(root, partitioning=hive).to_dict("records")


def tree_by_datasets(root: str) -> list[Any]:
    """It reads files and knows nothing of directories: what these tell is put beside them."""
    from datasets import load_dataset

    found = []
    for number, place in enumerate(sorted({path.parent for path in Path(root).rglob("*.parquet")})):
        told = dict(step.split("=") for step in place.parts if "=" in step)
        told = {k: None if "DEFAULT" in v else v for k, v in told.items()}
        rows = load_dataset(str(place), cache_dir=f"{root}-cache-{number}")["train"]
        found += [{**row, **told} for row in rows]
    return found


TREE_READERS = {
    "pyarrow.dataset": tree_by_pyarrow,
    "pyarrow.parquet": tree_by_parquet,
    "DuckDB": tree_by_duckdb,
    "Polars": tree_by_polars,
    "pandas": tree_by_pandas,
    "datasets": tree_by_datasets,
}


@pytest.fixture
def made(lake: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def make(given: dict[str, Any] | None = None, **output: Any) -> str:
        job = loud_job(monkeypatch, lake)(output=output, **(given or {}))
        assert run_here(job).exit_code == 0
        assert verify_job(job).problems == []
        return job.output.path

    return make


@pytest.mark.parametrize("reader", TREE_READERS.values(), ids=TREE_READERS)
def test_a_tree_is_the_same_to_each_of_them(
    made: Callable[..., str], reader: Callable[[str], list[Any]]
) -> None:
    assert sorted_rows(reader(made())) == wanted()


@pytest.mark.parametrize("reader", TREE_READERS.values(), ids=TREE_READERS)
def test_files_of_which_no_row_passes_the_filter_disturb_none_of_them(
    made: Callable[..., str], reader: Callable[[str], list[Any]]
) -> None:
    root = made({"filter": "id < 40", "split": {"rows": 4}})
    counts = [pq.ParquetFile(file).metadata.num_rows for file in Path(root).rglob("*.parquet")]
    assert counts.count(0) == 6
    assert sorted_rows(reader(root)) == wanted()[:40]


def test_a_bound_of_rows_for_splits_bounds_output_files(made: Callable[..., str]) -> None:
    files = [*Path(made({"split": {"rows": 4}})).rglob("*.parquet")]
    counts = sorted(pq.ParquetFile(file).metadata.num_rows for file in files)
    assert counts == sorted([4, 4, 2] * 6)


def table_by_deltalake(root: str) -> list[Any]:
    from deltalake import DeltaTable

    return DeltaTable(root).to_pyarrow_table().to_pylist()


def table_by_pyarrow(root: str) -> list[Any]:
    from deltalake import DeltaTable

    return DeltaTable(root).to_pyarrow_dataset().to_table().to_pylist()


def table_by_duckdb(root: str) -> list[Any]:
    with ducks("delta") as connection:
        return connection.sql(f"from delta_scan('{root}')").to_arrow_table().to_pylist()


def table_by_polars(root: str) -> list[Any]:
    import polars

    return polars.scan_delta(root).collect().to_dicts()


def table_by_pandas(root: str) -> list[Any]:
    from deltalake import DeltaTable

    return DeltaTable(root).to_pandas().to_dict("records")


def table_by_datasets(root: str) -> list[Any]:
    from datasets import load_dataset
    from deltalake import DeltaTable

    files = [uri.removeprefix("file://") for uri in DeltaTable(root).file_uris()]
    found = load_dataset("parquet", data_files=files, cache_dir=f"{root}-cache")["train"]
    return [*found]


TABLE_READERS = {
    "deltalake": table_by_deltalake,
    "pyarrow.dataset": table_by_pyarrow,
    "DuckDB": table_by_duckdb,
    "Polars": table_by_polars,
    "pandas": table_by_pandas,
    "datasets": table_by_datasets,
}


@pytest.mark.parametrize("reader", TABLE_READERS.values(), ids=TABLE_READERS)
def test_a_delta_table_is_the_same_to_each_of_them(
    made: Callable[..., str], reader: Callable[[str], list[Any]]
) -> None:
    assert sorted_rows(reader(made(format="delta"))) == wanted()


def test_the_types_of_a_tree_and_of_a_table_are_the_inputs(
    made: Callable[..., str], lake: Path
) -> None:
    import duckdb
    import polars
    from deltalake import DeltaTable

    tree, table = made(), made(format="delta", path=f"{lake}-table")
    kinds = {"id": pa.int64(), "price": pa.decimal128(10, 2), "day": pa.date32(),
             "tags": pa.list_(pa.string())}  # fmt: skip
    seen = (
        pads.dataset(tree, partitioning="hive").schema,
        pq.read_schema(next(Path(tree).rglob("*.parquet"))),
        duckdb.sql(f"select * from read_parquet('{tree}/**/*.parquet')").to_arrow_table().schema,
        polars.read_parquet(f"{tree}/").to_arrow().schema,
        DeltaTable(table).to_pyarrow_dataset().schema,
        polars.scan_delta(table).collect().to_arrow().schema,
    )
    for schema in seen:
        for name, kind in kinds.items():
            assert alike(schema.field(name).type, kind), (name, schema)


def alike(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether two types are one but for how large their offsets are."""
    names = (str(kind).replace("large_", "").replace("element", "item") for kind in (one, other))
    return len({name.replace("string_view", "string").replace("child", "item")
                .replace("<l:", "<item:") for name in names}) == 1  # fmt: skip
