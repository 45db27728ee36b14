"""Trees of files: what their directories tell, which rows pass a filter, several addresses."""

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import JobError, SplitError
from pipeline.lake.source.choice import Choice
from pipeline.lake.source.files import FileSource
from pipeline.lake.source.hive import values_of
from pipeline.lake.source.open import open_source
from pipeline.lake.split import RowGroups, Rows, Split
from pipeline.lake.store.local import LocalStore

pytestmark = pytest.mark.unit


def write(path: Path, *, rows: int = 4, groups: int | None = None, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": range(rows), "text": [f"text {n}" for n in range(rows)], **columns})
    pq.write_table(table, path, row_group_size=groups)
    return path


def chosen(root: Path | str | list[str], where: str | None = None, **partitions: str) -> FileSource:
    source = open_source(
        root if isinstance(root, list) else str(root), choice=Choice(where, partitions)
    )
    return source.settled(source.listing())


def paths(source: FileSource) -> list[str]:
    return [entry.path for entry in source.listing().files]


def rows(source: FileSource, *names: str, region: Any = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for entry in source.listing().files:
        split = Split.of(entry, fingerprint="f", **({"region": region} if region else {}))
        opened = source.open(split)
        for table in opened.batches(names):
            found += table.to_pylist()
        opened.close()
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for year in (2023, 2024):
        for language in ("en", "de"):
            write(tmp_path / f"year={year}" / f"language={language}" / "a.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("a.parquet", {}),
        ("year=2024/a.parquet", {"year": "2024"}),
        ("x/year=2024/y/m=a%2Fb%3D%25/a=1.parquet", {"year": "2024", "m": "a/b=%"}),
        ("city=S%C3%A3o%20Paulo/a.parquet", {"city": "São Paulo"}),
        ("c%20d=1/a.parquet", {"c d": "1"}),
        ("a=b=c/x.parquet", {"a": "b=c"}),
        ("a=/x.parquet", {"a": ""}),
        ("=a/x.parquet", {}),
        ("year=__HIVE_DEFAULT_PARTITION__/a.parquet", {"year": None}),
    ],
)
def test_directories_tell_columns(path: str, told: dict[str, str | None]) -> None:
    assert values_of(path) == told


@pytest.mark.parametrize("path", ["a=1/a=2/x.parquet", "a=%FF/x.parquet", "a=\udcff/x.parquet"])
def test_a_directory_that_tells_nonsense_is_refused(path: str) -> None:
    with pytest.raises(JobError):
        values_of(path)


def test_what_directories_tell_stands_beside_each_row_with_its_type(tree: Path) -> None:
    source = chosen(tree)
    split = Split.of(source.listing().files[0], fingerprint="f")
    opened = source.open(split)
    assert opened.schema.names == ["id", "text", "year", "language"]
    assert (opened.schema.field("year").type, {*opened.beside}) == (
        pa.int64(),
        {"year", "language"},
    )
    (table,) = opened.batches(["language", "text", "year"])
    assert table.column_names == ["language", "text", "year"]
    assert table.to_pylist()[1] == {"language": "de", "text": "text 1", "year": 2023}


@pytest.mark.parametrize(
    ("values", "kind", "first"),
    [
        (["1", "-2"], pa.int64(), -2),
        (["01", "2"], pa.int64(), 1),
        (["1", "x"], pa.string(), "1"),
        (["1", "__HIVE_DEFAULT_PARTITION__"], pa.int64(), 1),
        (["__HIVE_DEFAULT_PARTITION__"], pa.string(), None),
        (["1", ""], pa.string(), ""),
        (["1.5"], pa.string(), "1.5"),
        (["9999999999999999999"], pa.string(), "9999999999999999999"),
        (["\u0663"], pa.string(), "\u0663"),
    ],
)
def test_a_column_is_of_numbers_if_all_its_values_are(
    tmp_path: Path, values: list[str], kind: pa.DataType, first: Any
) -> None:
    for value in values:
        write(tmp_path / f"v={value}" / "a.parquet", rows=1)
    source = chosen(tmp_path)
    assert source.partitions.types == {"v": kind}
    assert rows(source, "v")[0] == {"v": first}


@pytest.mark.parametrize(
    ("kind", "value", "given"),
    [
        ("string", "007", "007"),
        ("int32", "07", 7),
        ("float64", "1.5", 1.5),
        ("bool", "true", True),
        ("date", "2024-02-29", dt.date(2024, 2, 29)),
    ],
)
def test_a_job_may_say_the_type(tmp_path: Path, kind: str, value: str, given: object) -> None:
    write(tmp_path / f"v={value}" / "a.parquet", rows=1)
    assert rows(chosen(tmp_path, v=kind), "v") == [{"v": given}]


@pytest.mark.parametrize(
    ("kind", "value"),
    [("int32", "x"), ("int32", "9999999999"), ("int64", "1.5"), ("float64", "much"),
     ("date", "2024-02-30"), ("bool", "perhaps"), ("int32", "")],
)  # fmt: skip
def test_a_value_that_is_not_of_the_type_is_refused_by_name(
    tmp_path: Path, kind: str, value: str
) -> None:
    write(tmp_path / f"v={value}" / "a.parquet")
    with pytest.raises(JobError, match=f"the partition v={value} of v={value}/a.parquet is no"):
        chosen(tmp_path, v=kind)


def test_a_type_for_a_column_that_no_directory_tells_is_refused(tree: Path) -> None:
    with pytest.raises(JobError, match=r"names `month`.*they tell year, language"):
        chosen(tree, month="int32")


def test_a_file_higher_up_has_null_for_what_only_others_are_told(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", rows=1)
    write(tmp_path / "v=1" / "b.parquet", rows=1)
    assert [row["v"] for row in rows(chosen(tmp_path), "v")] == [None, 1]


def test_a_files_own_column_is_kept_where_it_is_what_the_directory_tells(tmp_path: Path) -> None:
    write(tmp_path / "v=1" / "a.parquet", rows=2, v=pa.array([1, 1], pa.int16()))
    source = chosen(tmp_path)
    opened = source.open(Split.of(source.listing().files[0], fingerprint="f"))
    assert (opened.schema.field("v").type, opened.beside) == (pa.int16(), {})
    assert rows(source, "v") == [{"v": 1}, {"v": 1}]


@pytest.mark.parametrize("column", [[1, 2], [1, None], ["1", "x"], [None, None]])
def test_a_files_own_column_that_tells_something_else_is_refused(
    tmp_path: Path, column: list[Any]
) -> None:
    write(tmp_path / "v=1" / "a.parquet", rows=2, v=column)
    with pytest.raises(SplitError, match="column `v` is not what the file's directory tells, 1"):
        rows(chosen(tmp_path), "v")


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("year = 2024", ["year=2024/language=de", "year=2024/language=en"]),
        ("year = 2024 AND language = 'en' AND id > 2", ["year=2024/language=en"]),
        ("(year < 2024 AND id = 1) OR language IN ('fr')",
         ["year=2023/language=de", "year=2023/language=en"]),
        ("NOT (year = 2024) AND language LIKE 'd%'", ["year=2023/language=de"]),
        ("id = 1 OR year = 2024", None),
        ("NOT (id = 1 AND year = 2024)", None),
    ],
)  # fmt: skip
def test_what_directories_rule_out_is_not_listed(
    tree: Path, where: str, left: list[str] | None
) -> None:
    found = [path.removesuffix("/a.parquet") for path in paths(chosen(tree, where))]
    assert found == left if left is not None else len(found) == 4


def test_no_file_of_another_partition_is_opened(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    usual = LocalStore.open
    monkeypatch.setattr(
        LocalStore, "open", lambda store, path: opened.append(path) or usual(store, path)
    )
    found = rows(chosen(tree, "year = 2024 AND language = 'en'"), "id")
    assert (len(found), {*opened}) == (4, {"year=2024/language=en/a.parquet"})


def test_a_filter_that_leaves_no_file_is_told(tree: Path) -> None:
    with pytest.raises(JobError, match=r"rules out all 4 files.*by what their directories tell"):
        chosen(tree, "year = 2025")


def test_a_filter_of_the_wrong_type_is_told(tree: Path) -> None:
    with pytest.raises(JobError, match=r"^input.filter: .*`year` is a number"):
        chosen(tree, "year = 'new'")


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("id % 2 = 1", [1, 3]),
        ("id > 99", []),
        ("text LIKE '%2'", [2]),
        ("id >= 1 AND year = 2023", [1, 2, 3]),
        ("NULL", []),
        ("TRUE", [0, 1, 2, 3]),
    ],
)
def test_the_rows_that_are_read_are_those_that_pass(
    tmp_path: Path, where: str, ids: list[int]
) -> None:
    write(tmp_path / "year=2023" / "a.parquet", groups=3)
    found = rows(chosen(tmp_path, where), "text")
    assert found == [{"text": f"text {n}"} for n in ids]


@pytest.mark.parametrize(
    ("region", "ids"),
    [(Rows(3, 4), [4, 6]), (RowGroups(1, 1), [4]), (RowGroups(0, 1), [0, 2, 4]), (Rows(9, 1), [])],
)
@pytest.mark.parametrize("step", [None, 1, 2])
def test_a_row_is_placed_where_it_stands_in_the_file(
    tmp_path: Path, region: Any, ids: list[int], step: int | None
) -> None:
    write(tmp_path / "a.parquet", rows=10, groups=3)
    source = chosen(tmp_path, "id % 2 = 0")
    split = Split.of(source.listing().files[0], fingerprint="f", region=region)
    opened = source.open(split)
    found = [row["id"] for table in opened.batches(["id"], rows=step) for row in table.to_pylist()]
    opened.close()
    assert (found, opened.filtered) == (ids, True)
    assert [opened.place(row) for row in range(len(ids))] == ids
    with pytest.raises(IndexError):
        opened.place(len(ids))


def test_several_addresses_are_one_dataset(tmp_path: Path) -> None:
    for path in ("x/year=1/a.parquet", "x/b.parquet", "y/c.parquet", "y/d.parquet", "z/e.parquet"):
        write(tmp_path / path, rows=1)
    given = [f"{tmp_path}/x", f"{tmp_path}/y/c.parquet", f"{tmp_path}/y/c*", f"{tmp_path}/x/b.pq"]
    source = chosen(given[:3])
    assert paths(source) == ["x/b.parquet", "x/year=1/a.parquet", "y/c.parquet"]
    assert rows(source, "id", "year")[1] == {"id": 0, "year": 1}
    assert source.overlaps(LocalStore(f"{tmp_path}/x/out"))
    assert not source.overlaps(LocalStore(f"{tmp_path}/z"))
    assert source.entry("y/c.parquet") is not None
    with pytest.raises(JobError, match=r"x/b\.pq does not exist"):
        chosen(given)


def test_addresses_in_two_buckets_are_refused() -> None:
    with pytest.raises(JobError, match="no one directory holds"):
        open_source(["s3://a/x", "s3://b/x"])


def test_a_glob_tells_what_stands_below_its_first_star(tree: Path) -> None:
    source = chosen(f"{tree}/*/language=en/*.parquet", "year = 2024")
    assert paths(source) == ["year=2024/language=en/a.parquet"]
