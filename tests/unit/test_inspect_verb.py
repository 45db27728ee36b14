"""`inspect`: what is at a place, told by footers and a few rows."""

import datetime as dt
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.inspect import inspect

pytestmark = pytest.mark.unit


def write(path: Path, rows: dict[str, Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), path, **options)


def inspected(path: Path, *, code: int = 0) -> Any:
    done = CliRunner().invoke(main, ["inspect", str(path), "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def refused(path: Path) -> str:
    done = CliRunner().invoke(main, ["inspect", str(path)])
    assert done.exit_code == 2, done.output
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_files_are_counted_as_their_footers_say(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"id": [3, 1, None], "body": ["x" * 20, None, "y" * 300]})
    write(tmp_path / "b.parquet", {"id": [7, 5], "body": ["", "z"]}, row_group_size=1)
    found = inspected(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert (found["format"], found["files"], found["rows"]) == ("Parquet files", 2, 5)
    assert (found["bytes"], found["row_groups"], found["partitions"]) == (size, 3, 0)
    assert found["columns"]["id"] == {
        "type": "int64", "partition": False, "nulls": 1, "min": 1, "max": 7,
    }  # fmt: skip
    assert found["columns"]["body"]["nulls"] == 1
    assert found["text"] == "body"
    assert "longest" in found["why"]
    lengths = [(step["from"], step["texts"]) for step in found["text_lengths"] if step["texts"]]
    assert lengths == [(0, 1), (1, 1), (16, 1), (256, 1)]
    assert found["sample"][0] == {"id": 3, "body": "x" * 20}


def test_a_tree_has_partitions_and_their_column(tmp_path: Path) -> None:
    for year in (2024, 2025):
        write(tmp_path / f"year={year}" / "a.parquet", {"text": ["one", "two"]})
    found = inspected(tmp_path)
    assert (found["format"], found["partitions"], found["rows"]) == ("Hive tree of Parquet", 2, 4)
    year = found["columns"]["year"]
    assert (year["type"], year["partition"], year["min"], year["max"]) == (
        "int64", True, 2024, 2025,
    )  # fmt: skip


def test_a_table_is_told_with_its_version_and_without_rows_that_are_gone(tmp_path: Path) -> None:
    import deltalake

    for first in (0, 10):
        rows = pa.table({"id": [first, first + 1], "text": ["a", "b"]})
        deltalake.write_deltalake(str(tmp_path), rows, mode="append")
    deltalake.DeltaTable(str(tmp_path)).delete("id = 10")
    found = inspected(tmp_path)
    assert (found["format"], found["version"], found["rows"]) == ("Delta table", 2, 3)
    assert found["columns"]["id"]["max"] == 11


def test_a_damaged_file_is_named_and_the_others_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"text": ["a"]})
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no footer PAR1")
    found = inspected(tmp_path, code=2)
    assert (found["files"], found["rows"], [*found["unreadable"]]) == (2, 1, ["b.parquet"])
    assert "b.parquet can't be read" in refused(tmp_path)


def test_files_that_differ_from_the_first_are_named_with_how(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"id": [1], "text": ["a"]})
    write(tmp_path / "b.parquet", {"id": ["1"], "more": [1]})
    found = inspected(tmp_path)
    assert found["differing"]["b.parquet"] == (
        "lacks `text`, has `more` more, `id` is string and not int64"
    )
    assert (found["columns"]["text"]["nulls"], found["columns"]["more"]["nulls"]) == (1, 1)
    assert found["columns"]["id"]["min"] is None


def test_files_without_rows_are_counted_and_need_no_text(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"text": pa.array([], pa.string())})
    found = inspected(tmp_path)
    assert (found["rows"], found["empty_files"], found["text"], found["sample"]) == (0, 1, None, [])


def test_what_is_not_there_is_told_in_a_line(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none")
    assert "holds no Parquet file" in refused(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"")
    assert "can be read" in refused(tmp_path)


def test_a_table_without_its_package_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "_delta_log").mkdir()
    monkeypatch.setitem(sys.modules, "deltalake", None)
    assert "pip install" in refused(tmp_path)


def test_what_steers_a_terminal_is_spelled_out(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"te\x1b[31mxt": ["\x1b[2J and \u202e more"]})
    done = CliRunner().invoke(main, ["inspect", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert "\u202e" not in done.output


def test_ends_are_those_of_all_values_whatever_they_are_and_however_they_are_cut(
    tmp_path: Path,
) -> None:
    at = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)
    columns = {
        "small": pa.array([3, None, -1, 2], pa.int8()),
        "large": pa.array([2**63 + 5, 1, None, 2], pa.uint64()),
        "name": pa.array(["é", "z", "a", None]).dictionary_encode(),
        "yes": pa.array([True, None, False, True]),
        "day": pa.array([dt.date(2024, 1, d) for d in (3, 1, 4, 2)]),
        "at": pa.array([at, at + dt.timedelta(hours=1), None, at], pa.timestamp("us", "UTC")),
        "none": pa.array([None] * 4, pa.int32()),
        "part": pa.array([None, None, 5, 4], pa.int16()),
    }
    rows = pa.table(columns | {"share": [1.0, float("nan"), 2.0, 3.0]})
    pq.write_table(rows.slice(0, 3), tmp_path / "a.parquet", row_group_size=1)
    pq.write_table(rows.slice(3), tmp_path / "b.parquet")
    found = inspect(str(tmp_path)).columns
    for name in columns:
        values = [value for value in rows.column(name).to_pylist() if value is not None]
        assert found[name].nulls == 4 - len(values)
        assert found[name].low == min(values, default=None)
        assert found[name].high == max(values, default=None)
    assert found["share"].low is None


def test_without_statistics_nothing_is_said_of_ends_and_nulls(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"id": [1, None]}, write_statistics=False)
    write(tmp_path / "b.parquet", {"id": [1, 2]})
    column = inspect(str(tmp_path)).columns["id"]
    assert (column.nulls, column.low, column.high) == (None, None, None)
