"""Reading a split in bounded windows, and what counts as text."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SplitError
from pipeline.job.columns import carried_columns
from pipeline.job.job import Job
from pipeline.lake.sink.footers import look, read_footer
from pipeline.lake.source import open_files, reader
from pipeline.lake.source.open import open_source
from pipeline.lake.source.open_files import OpenFiles
from pipeline.lake.source.reader import ParquetSplit, texts_of
from pipeline.lake.split import WHOLE, Region, RowGroups, Rows, Split
from pipeline.lake.store.local import LocalStore

pytestmark = pytest.mark.unit


def read(path: Path, *, columns: Sequence[str] = ("id",), region: Region = WHOLE) -> list[pa.Table]:
    dataset = open_source(str(path))
    split = Split.of(dataset.listing().files[0], fingerprint="f", region=region)
    with closing(dataset.open(split)) as found:
        tables = list(found.batches(columns))
        assert found.rows == sum(table.num_rows for table in tables)
        return tables


def ids(parts: Sequence[pa.Table]) -> list[int]:
    return [row for table in parts for row in table.column("id").to_pylist()]


def opened(directory: Path, name: str = "a.parquet") -> ParquetSplit:
    return ParquetSplit(LocalStore(str(directory)), Split("1", name, 1, "v"), OpenFiles())


def numbered(path: Path, rows: int, *, row_group_size: int | None = None) -> Path:
    table = pa.table({"id": range(rows), "text": [f"text {i}" for i in range(rows)]})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lake")


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 900), st.integers(1, 400), st.integers(1, 300), st.integers(1, 300), st.data()
)
def test_windows_give_every_row_once_in_order(
    folder: Path, rows: int, group: int, window: int, step: int, data: st.DataObject
) -> None:
    path = numbered(folder / "a.parquet", rows, row_group_size=group)
    count = pq.ParquetFile(path).metadata.num_row_groups
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first, count - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "BATCH_ROWS", window)
        patch.setattr(open_files, "STEP_ROWS", step)
        patch.setattr(open_files, "MOST_STEPS", 1)
        whole = read(path)
        part = read(path, region=RowGroups(first, last))
    assert ids(whole) == list(range(rows))
    assert ids(part) == list(range(rows))[first * group : (last + 1) * group]
    assert all(table.num_rows <= max(window, step) for table in [*whole, *part])
    assert all(table.num_rows for table in whole), "no window is empty"


def test_small_row_groups_are_gathered_into_full_windows(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.parquet", 20_000, row_group_size=100)
    sizes = [table.num_rows for table in read(path)]
    assert sum(sizes) == 20_000
    assert len(sizes) == 2
    assert sizes[0] > 16_000


def test_the_rows_of_a_split_are_those_of_its_row_groups(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.parquet", 25, row_group_size=10)
    dataset = open_source(str(path))
    entry = dataset.listing().files[0]
    for region, first, rows in [
        (WHOLE, 0, 25),
        (RowGroups(0, 0), 0, 10),
        (RowGroups(1, 2), 10, 15),
        (Rows(7, 9), 7, 9),
    ]:
        with closing(dataset.open(Split.of(entry, fingerprint="f", region=region))) as found:
            assert (found.first, found.rows) == (first, rows)


def test_who_asks_for_few_rows_at_a_time_is_given_so_few(tmp_path: Path) -> None:
    numbered(tmp_path / "a.parquet", 25, row_group_size=10)
    with closing(opened(tmp_path)) as found:
        tables = list(found.batches(("id",), rows=7))
    assert ids(tables) == list(range(25))
    assert [table.num_rows for table in tables] == [7, 7, 7, 4]


def test_huge_rows_come_in_windows_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BATCH_BYTES", 1_000_000)
    chance = np.random.default_rng(0)
    texts = [chance.bytes(50_000).hex() for _ in range(60)]
    pq.write_table(pa.table({"id": range(60), "text": texts}), tmp_path / "a.parquet")
    parts = read(tmp_path / "a.parquet", columns=("id", "text"))
    assert ids(parts) == list(range(60))
    assert max(table.nbytes for table in parts) <= 1_100_000


def test_a_window_of_one_long_text_repeated_is_bounded_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A dictionary keeps it once, so the footer says little of what it unpacks to.
    monkeypatch.setattr(reader, "BATCH_BYTES", 4_000_000)
    table = pa.table({"id": range(1_000), "text": ["x" * 10_000] * 1_000})
    pq.write_table(table, tmp_path / "a.parquet")
    parts = read(tmp_path / "a.parquet", columns=("id", "text"))
    assert ids(parts) == list(range(1_000))
    assert max(table.nbytes for table in parts) <= 4_000_000


@pytest.mark.parametrize("repeats", [True, False])
def test_huge_texts_side_by_side_among_many_small_ones_are_never_held_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeats: bool
) -> None:
    monkeypatch.setattr(reader, "BATCH_BYTES", 1_000_000)
    huge = [("x" if repeats else chr(97 + at % 26)) * 1_000_000 for at in range(100)]
    texts = ["small"] * 50_000 + huge + ["small"] * 50_000
    table = pa.table({"id": range(len(texts)), "text": texts})
    path = tmp_path / "a.parquet"
    # A page is unpacked whole, so that it has to be small for any reader.
    how = {"use_dictionary": repeats, "write_batch_size": 1024 if repeats else 1}
    pq.write_table(table, path, row_group_size=200_000, **how)
    del table
    dataset = open_source(str(tmp_path / "a.parquet"))
    split = Split.of(dataset.listing().files[0], fingerprint="f")
    before, most, rows = pa.total_allocated_bytes(), 0, []
    with closing(dataset.open(split)) as found:
        for window in found.batches(("id", "text")):
            most = max(most, pa.total_allocated_bytes() - before)
            rows += window.column("id").to_pylist()
            assert window.nbytes <= 1_000_000 or window.num_rows == 1
    assert rows == list(range(len(texts)))
    assert most < 30_000_000, "of 100 MB"


@pytest.mark.parametrize("groups", [0, 1])
def test_a_file_without_rows_has_no_windows(tmp_path: Path, groups: int) -> None:
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(tmp_path / "a.parquet", schema) as writer:
        for _ in range(groups):
            writer.write_table(schema.empty_table())
    assert read(tmp_path / "a.parquet") == []


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    nested = [{"text": "inner", "x": 1}, {"text": "inner", "x": 2}]
    table = pa.table({"id": [0, 1], "text": ["a", "b"], "meta": nested})
    pq.write_table(table, tmp_path / "a.parquet")
    (got,) = read(tmp_path / "a.parquet", columns=("id", "text"))
    assert sorted(got.column_names) == ["id", "text"]
    (got,) = read(tmp_path / "a.parquet", columns=("id", "meta"))
    assert got.column("meta").to_pylist() == nested


def kept_of(
    schema: pa.Schema, *, text: str = "text", columns: list[str] | None = None
) -> pa.Schema:
    job = Job.model_validate(
        {
            "name": "test",
            "input": {"path": "lake", "text": text, "columns": columns},
            "output": {"path": "out"},
            "tasks": {"label": {"kind": "classify", "model": "none"}},
        }
    )
    return carried_columns(job, schema, where="lake/a.parquet")


def refusal(schema: pa.Schema, *, text: str = "text", columns: list[str] | None = None) -> str:
    with pytest.raises(SplitError) as caught:
        kept_of(schema, text=text, columns=columns)
    return str(caught.value)


SCHEMA = pa.schema([("id", pa.int64()), ("body", pa.string()), ("when", pa.timestamp("us"))])


def test_a_missing_text_column_is_told_with_those_that_are_there() -> None:
    said = refusal(SCHEMA)
    assert "lake/a.parquet has no column `text`; it has id, body, when" in said
    assert "Name one of them in input.text" in said


def test_a_missing_carried_column_is_told_with_those_that_are_there() -> None:
    said = refusal(SCHEMA, text="body", columns=["id", "lang"])
    assert "has no column `lang`; it has id, body, when" in said
    assert "input.columns" in said


def test_a_column_that_is_there_twice_is_told() -> None:
    schema = pa.schema([("text", pa.string()), ("text", pa.string())])
    assert "(or more than once)" in refusal(schema)


@pytest.mark.parametrize(
    "kind",
    [
        pa.int64(),
        pa.binary(),
        pa.list_(pa.string()),
        pa.struct([("text", pa.string())]),
        pa.dictionary(pa.int32(), pa.int64()),
    ],
)
def test_a_text_column_of_another_type_is_told_with_all_types(kind: pa.DataType) -> None:
    said = refusal(pa.schema([("id", pa.int64()), ("text", kind)]))
    assert f"column `text` is {kind}, not text" in said
    assert f"id: int64, text: {kind}" in said


def test_carried_columns_come_in_the_order_of_the_job() -> None:
    kept = kept_of(SCHEMA, text="body", columns=["when", "id"])
    assert kept.names == ["when", "id"]
    assert kept_of(SCHEMA, text="body").names == SCHEMA.names
    assert kept_of(SCHEMA, text="body", columns=[]).names == []


@pytest.mark.parametrize("columns", [None, ["text"]])
def test_metadata_of_a_file_stays_with_its_columns(columns: list[str] | None) -> None:
    table = pa.table({"text": ["a"]}).replace_schema_metadata({"owner": "me"})
    kept = kept_of(table.schema, columns=columns)
    assert kept.metadata == {b"owner": b"me"}


WORDS = ["a", None, "", "ünï 語 🙂", "a", " "]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
def test_every_kind_of_string_column_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    array = pa.array(WORDS, pa.string())
    if pa.types.is_dictionary(kind):
        array = array.cast(kind.value_type).dictionary_encode()
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": array.cast(kind)}), path, row_group_size=2)
    schema = pq.ParquetFile(path).schema_arrow
    assert kept_of(schema).names == ["text"]
    (table,) = read(path, columns=("text",))
    assert texts_of(table.column("text").combine_chunks()) == (WORDS, {})


RAW = [b"fine", b"\xff\xfe", "ünï".encode(), b"cut \xc3", b""]


def broken(kind: pa.DataType) -> pa.Array:
    if pa.types.is_string_view(kind):
        buffers = pa.array([*RAW, None], pa.binary_view()).buffers()
        return pa.Array.from_buffers(kind, len(RAW) + 1, buffers)
    wide = pa.types.is_large_string(kind)
    array = pa.array([*RAW, None], pa.large_binary() if wide else pa.binary())
    return pa.Array.from_buffers(kind, len(RAW) + 1, array.buffers())


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), "dictionary"], ids=str
)
def test_bytes_that_are_not_utf8_are_an_error_of_their_row_alone(kind: Any) -> None:
    if kind == "dictionary":
        values = broken(pa.string())
        column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3, 4, None]), values)
    else:
        column = broken(kind)
    texts, failures = texts_of(column)
    assert texts == ["fine", None, "ünï", None, "", None]
    assert sorted(failures) == [1, 3]
    assert {error.code for error in failures.values()} == {"not_utf8"}
    assert "not UTF-8" in failures[1].message


def test_a_slice_of_a_column_is_read_from_its_start() -> None:
    assert texts_of(pa.array(["a", "b", "c"]).slice(1)) == (["b", "c"], {})
    texts, failures = texts_of(broken(pa.string()).slice(3, 2))
    assert texts == [None, ""]
    assert list(failures) == [0]


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("id,text\n1,hello\n")
    with pytest.raises(SplitError, match=r"a\.parquet is not a readable Parquet file.*again"):
        opened(tmp_path)


def test_a_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.parquet", 1_000)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SplitError, match="is not a readable Parquet file"):
        opened(tmp_path)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    with pytest.raises(SplitError, match="is not a readable Parquet file"):
        opened(tmp_path)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match=r"a\.parquet is not there any more"):
        opened(tmp_path)


def test_a_file_whose_name_is_not_utf8_is_refused_in_words_that_can_be_printed(
    tmp_path: Path,
) -> None:
    numbered(tmp_path / "a.parquet", 3).rename(tmp_path / "b\udcff.parquet")
    store = LocalStore(str(tmp_path))
    (entry,) = store.entries()
    with pytest.raises(SplitError, match="UTF-8") as caught:
        opened(tmp_path, entry.path)
    assert str(caught.value).encode("utf-8")


def test_a_file_with_a_column_whose_name_is_not_utf8_is_not_readable(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"], "longname": ["y"]}), tmp_path / "a.parquet")
    raw = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(raw.replace(b"longname", b"long\xa7\xa7\xa7\xa7"))
    store = LocalStore(str(tmp_path))
    with pytest.raises(SplitError, match=r"a\.parquet is not a readable Parquet file: .*utf-8"):
        opened(tmp_path)
    (entry,) = store.entries()
    assert "utf-8" in look(store, entry).damage
    assert read_footer(store, "a.parquet") == {}
