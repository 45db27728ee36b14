"""A Delta table as input: which rows are its, and what becomes of them night after night."""

import datetime
import json
import os
import pickle
import shutil
import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import table_jobs
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from helpers import own
from table_jobs import delete_by_vector, fails, ids, log, run, write_job, write_log

from pipeline.errors import JobError, SplitError
from pipeline.job.check import check
from pipeline.job.file import load_job
from pipeline.lake.sink.footers import read_footer
from pipeline.lake.source.choice import Choice
from pipeline.lake.source.open import as_found, open_source
from pipeline.lake.split import Split
from pipeline.lake.store.open import open_store
from pipeline.planning import Choices
from pipeline.preview import Wanted, output_rows
from pipeline.verify import verify_job

pytestmark = pytest.mark.unit


TEXT = {pa.string_view(): pa.string()}


def rows(*numbers: int, **columns: Any) -> pa.Table:
    return pa.table({"id": list(numbers), "text": [f"w{n}" for n in numbers], **columns})


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two versions of a file each."""
    path = tmp_path / "lake"
    write_deltalake(path, rows(1, 2, 3), configuration={"delta.enableDeletionVectors": "true"})
    write_deltalake(path, rows(4, 5), mode="append")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def job(table: Path, tmp_path: Path) -> str:
    return write_job(tmp_path, output={"format": "parquet"})


def annotated(out: Path) -> list[int]:
    return sorted(pads.dataset(out, format="parquet").to_table().column("id").to_pylist())


def texts(out: Path) -> list[str]:
    return list(pads.dataset(out, format="parquet").to_table()["text"].to_pylist())


def read(path: Path, columns: list[str] | None = None, **how: Any) -> pa.Table:
    """All that a source gives of a table."""
    source = as_found(open_source(str(path)), **how)
    listing = source.listing()
    source = pickle.loads(pickle.dumps(source.settled(listing)))
    found = []
    for entry in listing.files:
        with closing(source.open(Split.of(entry, fingerprint=""))) as split:
            tables = [*split.batches(columns or split.schema.names)]
            assert sum(t.num_rows for t in tables) == split.rows
            found += tables or [split.schema.empty_table()]
    return pa.concat_tables(found).sort_by("id")


def by_library(path: Path) -> pa.Table:
    found = QueryBuilder().register("t", DeltaTable(path)).execute("select * from t order by id")
    table = pa.table(found)
    return table.cast(pa.schema([(f.name, TEXT.get(f.type, f.type)) for f in table.schema]))


def test_rows_of_the_latest_version_are_read_whatever_files_lie_around(
    job: str, table: Path, out: Path
) -> None:
    DeltaTable(table).delete("id = 2")
    DeltaTable(table).optimize.compact()
    pq.write_table(rows(99), table / "stray.parquet")
    summary = run(job)
    assert (summary.exit_code, summary.files, summary.input_version) == (0, 1, 3)
    assert annotated(out) == [1, 3, 4, 5]
    assert verify_job(load_job(job)).problems == []


def test_a_version_is_read_by_number_or_by_time(job: str, table: Path, out: Path) -> None:
    assert read(table, version=0).column("id").to_pylist() == [1, 2, 3]
    for number, seconds in ((0, 1_000_000_000), (1, 1_700_000_000)):
        path = table / "_delta_log" / f"{number:020}.json"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if "commitInfo" in line:
                line["commitInfo"]["timestamp"] = seconds * 1000
        path.write_text("\n".join(map(json.dumps, lines)))
        os.utime(path, (seconds, seconds))
    assert read(table, version="2020-01-01").column("id").to_pylist() == [1, 2, 3]
    assert read(table, version="2023-11-14T23:13:20+01:00").num_rows == 5
    assert read(table, version="2999-01-01T00:00:00Z").num_rows == 5
    summary = run(write_job(out.parent, input={"version": 0}))
    assert (summary.input_version, annotated(out)) == (0, [1, 2, 3])


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (7, "the Delta table .* can't be opened"),
        ("1999-01-01", "had no version yet at 1999-01-01"),
    ],
)
def test_a_version_that_is_not_there_is_refused_in_a_line(
    job: str, table: Path, version: int | str, said: str
) -> None:
    with pytest.raises(JobError, match=said) as caught:
        run(write_job(table.parent, input={"version": version}))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("version", [-1, "yesterday", "", 1.5])
def test_what_is_no_version_is_told_with_what_to_write(table: Path, version: Any) -> None:
    job = write_job(table.parent, input={"version": version})
    with pytest.raises(JobError, match=r"input\.version"):
        load_job(job)


def test_a_version_of_files_is_refused(tmp_path: Path) -> None:
    pq.write_table(rows(1), tmp_path / "a.parquet")
    with pytest.raises(JobError, match=r"input\.version is of a table, and .* is none"):
        run(write_job(tmp_path, input={"path": str(tmp_path / "a.parquet"), "version": 1}))


def test_deleted_rows_are_not_read_and_all_others_are(job: str, table: Path, out: Path) -> None:
    (path,) = [a["add"]["path"] for a in log(table) if a["version"] == 0 and "add" in a]
    run(job)
    assert annotated(out) == [1, 2, 3, 4, 5]
    delete_by_vector(table, path, 1)
    assert read(table).equals(by_library(table))
    summary = run(job)
    assert (summary.splits.done, summary.splits.done_before, summary.rows.rows) == (1, 1, 2)
    assert annotated(out) == [1, 3, 4, 5]
    delete_by_vector(table, path, 1, 2)
    assert run(job).splits.done == 1
    assert annotated(out) == [1, 4, 5]
    assert verify_job(load_job(job)).problems == []
    delete_by_vector(table, path, 0, 1, 2)
    run(job)
    assert annotated(out) == [4, 5]
    assert read(table).equals(by_library(table))


def test_deleted_rows_of_a_large_file_are_left_out_whichever_batch_they_are_in(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lake"
    write_deltalake(
        path, rows(*range(50_000)), configuration={"delta.enableDeletionVectors": "true"}
    )
    (file,) = [a["add"]["path"] for a in log(path) if "add" in a]
    gone = [0, 7, 8, 16_383, 16_384, 30_000, 49_999]
    delete_by_vector(path, file, *gone)
    assert read(path).equals(by_library(path))
    assert read(path, ["id"]).num_rows == 50_000 - len(gone)


def test_deleted_rows_are_left_out_of_files_whose_names_need_quoting(tmp_path: Path) -> None:
    path = tmp_path / "a lake é"
    write_deltalake(
        path,
        rows(1, 2, 3, day=["x y%/é"] * 3),
        partition_by=["day"],
        configuration={"delta.enableDeletionVectors": "true"},
    )
    (file,) = [a["add"]["path"] for a in log(path) if "add" in a]
    delete_by_vector(path, file, 1)
    assert read(path).column("id").to_pylist() == [1, 3]
    assert read(path).equals(by_library(path))


def test_partition_values_are_columns_of_the_table_s_types_and_carried(
    tmp_path: Path, out: Path
) -> None:
    day = datetime.date(2026, 1, 31)
    content = rows(
        1, 2, 3,
        n=pa.array([7, 7, None], pa.int32()),
        day=[day, None, day],
        word=["a b/%é", "x", None],
        price=[Decimal("1.50"), None, Decimal("2.00")],
    )  # fmt: skip
    path = tmp_path / "lake"
    write_deltalake(path, content, partition_by=["n", "day", "word", "price"])
    found = read(path)
    assert found.select(content.schema.names).cast(content.schema).equals(content)
    assert read(path, ["id", "n"]).column("n").to_pylist() == [7, 7, None]
    assert read(path, ["word", "id"]).column("word").to_pylist() == ["a b/%é", "x", None]
    job = write_job(tmp_path, output={"format": "parquet"})
    assert run(job).exit_code == 0
    result = pads.dataset(out, format="parquet").to_table().sort_by("id")
    for name in content.schema.names:
        assert result.column(name).to_pylist() == content.column(name).to_pylist()
    assert verify_job(load_job(job)).problems == []


def test_columns_that_came_later_are_null_before_and_narrow_numbers_become_the_table_s(
    tmp_path: Path, out: Path
) -> None:
    path = tmp_path / "lake"
    write_deltalake(path, rows(1, size=pa.array([5], pa.int64())))
    write_deltalake(path, rows(2, lang=["en"]), mode="append", schema_mode="merge")
    # Another writer's file, of narrower numbers.
    pq.write_table(rows(3, size=pa.array([9], pa.int16())), path / "narrow.parquet")
    size = (path / "narrow.parquet").stat().st_size
    add = {"path": "narrow.parquet", "size": size, "partitionValues": {}, "dataChange": True}
    write_log(path, [{"add": {**add, "modificationTime": 1}}])
    found = read(path)
    assert found.column("lang").to_pylist() == [None, "en", None]
    assert found.column("size").to_pylist() == [5, None, 9]
    assert run(write_job(tmp_path, output={"format": "parquet"})).exit_code == 0
    assert annotated(out) == [1, 2, 3]


def test_a_file_whose_column_can_not_be_the_table_s_fails_alone(tmp_path: Path) -> None:
    path = tmp_path / "lake"
    write_deltalake(path, rows(1))
    pq.write_table(pa.table({"id": ["x"], "text": ["y"]}), path / "wrong.parquet")
    add = {"path": "wrong.parquet", "size": 1, "partitionValues": {}, "dataChange": True}
    write_log(path, [{"add": {**add, "modificationTime": 1}}])
    source = as_found(open_source(str(path)))
    source = source.settled(source.listing())
    entry = source.entry("wrong.parquet")
    assert entry is not None
    with (
        closing(source.open(Split.of(entry, fingerprint=""))) as split,
        pytest.raises(SplitError, match="column `id` is string, which can't be read"),
    ):
        list(split.batches(["id"]))


def test_five_nights_of_appends_updates_deletes_and_compaction_equal_one_run_over_the_last(
    job: str, table: Path, out: Path, tmp_path: Path
) -> None:
    assert run(job).splits.done == 2
    write_deltalake(table, rows(6, 7), mode="append")
    summary = run(job)
    assert (summary.splits.done, summary.splits.done_before, summary.input_version) == (1, 2, 2)
    # An update writes the file of the row anew: its other rows come along.
    DeltaTable(table).update(updates={"text": "'new'"}, predicate="id = 6")
    summary = run(job)
    assert (summary.splits.done, summary.splits.done_before) == (1, 2)
    assert (annotated(out), summary.vanished_outputs) == ([1, 2, 3, 4, 5, 6, 7], [])
    # Rows of some files, and nothing else, are deleted: that is said, and they stay.
    DeltaTable(table).delete("id >= 4 and id <= 5")
    summary = run(job)
    assert (summary.state, len(summary.vanished_outputs)) == ("nothing to do", 1)
    assert annotated(out) == [1, 2, 3, 4, 5, 6, 7]
    run(job, Choices(prune=True))
    assert annotated(out) == [1, 2, 3, 6, 7]
    DeltaTable(table).delete("id = 2")
    run(job)
    assert annotated(out) == [1, 3, 6, 7]
    DeltaTable(table).optimize.compact()
    assert run(job).state == "nothing to do"
    assert annotated(out) == [1, 3, 6, 7]

    full = write_job(tmp_path, output={"format": "parquet", "path": str(tmp_path / "full")})
    run(full)
    expected = pads.dataset(tmp_path / "full", format="parquet").to_table().sort_by("id")
    found = pads.dataset(out, format="parquet").to_table().sort_by("id")
    assert found.equals(expected)
    assert verify_job(load_job(write_job(tmp_path, output={"path": str(out)}))).problems == []


def test_what_is_rewritten_stays_until_all_of_it_is_annotated(
    job: str, table: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job)
    DeltaTable(table).update(updates={"text": "'new'"})
    monkeypatch.setattr(table_jobs, "fails", lambda split: True)
    assert run(job).exit_code == 1
    assert annotated(out) == [1, 2, 3, 4, 5]
    monkeypatch.setattr(table_jobs, "fails", fails)
    assert run(job).exit_code == 0
    assert annotated(out) == [1, 2, 3, 4, 5]
    assert {*texts(out)} == {"new"}


def test_of_files_whose_end_the_log_has_forgotten_the_output_goes(
    job: str, table: Path, out: Path
) -> None:
    run(job)
    DeltaTable(table).delete("id >= 4")
    DeltaTable(table).create_checkpoint()
    for path in (table / "_delta_log").glob("*.json"):
        path.unlink()
    assert run(job).vanished_outputs == []
    assert annotated(out) == [1, 2, 3]


def test_from_table_to_table_a_night_is_one_transaction(
    table: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path)
    run(job)
    DeltaTable(table).update(updates={"text": "'new'"}, predicate="id = 4")
    DeltaTable(table).delete("id = 1")
    write_deltalake(table, rows(6), mode="append")
    monkeypatch.setattr(table_jobs, "fails", lambda split: split.size % 2 == 0)
    run(job)
    assert ids(out) in ([1, 2, 3, 4, 5], [2, 3, 4, 5, 6])
    monkeypatch.setattr(table_jobs, "fails", fails)
    assert run(job).exit_code in (0, 1)
    assert ids(out) == [2, 3, 4, 5, 6]
    assert DeltaTable(out).version() == 1
    assert verify_job(load_job(job)).problems == []
    shown = output_rows(str(out), Wanted(rows=10))
    assert shown.rows == 5


def test_footers_and_the_record_say_which_version_was_read(
    job: str, table: Path, out: Path
) -> None:
    summary = run(job)
    (said,) = (own(out) / "runs").glob("*/summary.json")
    assert json.loads(said.read_text())["input_version"] == summary.input_version == 1
    (path, _) = sorted(p.name for p in out.glob("*.parquet"))
    assert read_footer(open_store(str(out)), path)["input"].startswith("part-")


def test_a_run_reads_the_version_that_it_has_listed_whatever_comes_meanwhile(
    job: str, table: Path
) -> None:
    checked = check(load_job(job))
    write_deltalake(table, rows(6), mode="append")
    DeltaTable(table).delete("id = 1")
    source = pickle.loads(pickle.dumps(checked.source))
    assert source.version == 1
    for entry in checked.listing.files:
        assert source.entry(entry.path) == entry
        with closing(source.open(Split.of(entry, fingerprint=""))) as split:
            assert split.rows in (2, 3)


def test_tables_that_are_not_read_are_refused_in_a_line(job: str, table: Path) -> None:
    path = table / "_delta_log" / f"{0:020}.json"
    first = path.read_text()
    for change, said in (
        (lambda line: {"protocol": {"minReaderVersion": 9, "minWriterVersion": 9}}, "version 9"),
        (
            lambda line: {
                "protocol": {
                    "minReaderVersion": 3,
                    "minWriterVersion": 7,
                    "readerFeatures": ["quantum"],
                    "writerFeatures": ["quantum"],
                }
            },
            "quantum",
        ),
    ):
        lines = [json.loads(line) for line in first.splitlines()]
        lines = [change(line) if "protocol" in line else line for line in lines]
        path.write_text("\n".join(map(json.dumps, lines)))
        with pytest.raises(JobError, match=said) as caught:
            run(job)
        assert (len(str(caught.value).splitlines()), caught.value.exit_code) == (1, 2)
    path.write_text(
        first.replace('"configuration":{', '"configuration":{"delta.columnMapping.mode":"name",')
    )
    with pytest.raises(JobError, match=r"other names in its files .*columnMapping"):
        run(job)
    path.write_text(first)
    add = {"path": "s3://elsewhere/a.parquet", "size": 1, "partitionValues": {}}
    write_log(table, [{"add": {**add, "dataChange": True, "modificationTime": 1}}])
    with pytest.raises(JobError, match="has data files elsewhere"):
        run(job)


def test_an_empty_table_and_a_broken_log_are_told(job: str, table: Path) -> None:
    DeltaTable(table).delete()
    with pytest.raises(JobError, match="has no rows"):
        run(job)
    (table / "_delta_log" / f"{1:020}.json").write_text("{nonsense")
    with pytest.raises(JobError, match="can't be opened"):
        run(job)
    shutil.rmtree(table / "_delta_log")
    (table / "_delta_log").mkdir()
    with pytest.raises(JobError, match="Delta table"):
        run(job)


def test_a_data_file_that_is_gone_fails_its_split(job: str, table: Path) -> None:
    source = as_found(open_source(str(table)))
    listing = source.listing()
    source = source.settled(listing)
    (table / listing.files[0].path).unlink()
    with pytest.raises(SplitError, match="is not there any more"):
        source.open(Split.of(listing.files[0], fingerprint=""))


def test_a_place_that_the_library_takes_for_another_is_refused(job: str, table: Path) -> None:
    table.rename(table.parent / "a%20lake")
    with pytest.raises(JobError, match="deltalake takes the % in it for an escape"):
        run(write_job(table.parent, input={"path": str(table.parent / "a%20lake")}))


def test_an_output_inside_the_table_is_refused(job: str, table: Path) -> None:
    with pytest.raises(JobError, match="inside each other"):
        run(write_job(table.parent, output={"path": str(table / "out")}))


def test_without_the_extra_a_table_is_refused_with_what_to_install(
    job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(JobError, match=r"pip install 'shardscribe\[delta\]'"):
        run(job)


def test_a_filter_holds_over_partitions_deleted_rows_and_columns_that_are_not_there(
    tmp_path: Path, out: Path
) -> None:
    path = tmp_path / "lake"
    options = {"delta.enableDeletionVectors": "true"}
    content = rows(1, 2, 3, 4, year=[2024, 2025, 2025, 2025])
    write_deltalake(path, content, partition_by=["year"], configuration=options)
    later = rows(5, 6, year=[2025, 2025], lang=["en", None])
    write_deltalake(path, later, mode="append", schema_mode="merge")
    files = {
        a["add"]["partitionValues"]["year"]: a["add"]["path"] for a in log(path)[:5] if "add" in a
    }
    delete_by_vector(path, files["2025"], 1)
    with pytest.raises(JobError, match="there is no column `month`"):
        run(write_job(tmp_path, input={"filter": "month = 1"}))
    (path / files["2024"]).write_bytes(b"nobody opens it")
    job = write_job(
        tmp_path, output={"format": "parquet"}, input={"filter": "year = 2025 AND id > 2"}
    )
    summary = run(job)
    assert (summary.exit_code, summary.files) == (0, 2)
    assert annotated(out) == [4, 5, 6]
    assert verify_job(load_job(job)).problems == []
    shutil.rmtree(out)
    shutil.rmtree(own(out))
    run(
        write_job(
            tmp_path, output={"format": "parquet"}, input={"filter": "lang = 'en'  AND year > 2024"}
        )
    )
    assert annotated(out) == [5]
    with pytest.raises(JobError, match="rules out all 3 files"):
        run(write_job(tmp_path, input={"filter": "year = 1999"}))
    with pytest.raises(JobError, match=r"input\.partitions is of directories"):
        run(write_job(tmp_path, input={"filter": "year = 2025", "partitions": {"year": "int32"}}))


def test_the_place_of_a_row_is_that_in_its_file_whatever_is_deleted_or_filtered_out(
    table: Path,
) -> None:
    (path,) = [a["add"]["path"] for a in log(table) if a["version"] == 0 and "add" in a]
    delete_by_vector(table, path, 1)
    for condition, places in ((None, [0, 2]), ("id > 1", [2])):
        source = as_found(open_source(str(table), choice=Choice(condition)))
        source = source.settled(source.listing())
        entry = source.entry(path)
        assert entry is not None
        with closing(source.open(Split.of(entry, fingerprint=""))) as split:
            found = pa.concat_tables(split.batches(["id"])).column("id").to_pylist()
            assert [split.place(row) for row in range(len(found))] == places
            assert sum(t.num_rows for t in split.batches([])) == len(places)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("id > 15", [16, 17, 20, 21]),
        ("15 < id", [16, 17, 20, 21]),
        ("id BETWEEN 2 AND 15", [2, 10, 11]),
        ("id = 11 OR word = 'z'", [11, 20, 21]),
        ("id IN (2, 21, 99)", [2, 21]),
        ("(word >= 'm' AND id < 21)", [10, 11, 17, 20]),
        ("day < CAST('2026-02-01' AS DATE)", [1, 2]),
        ("day >= '2026-02-02' AND NOT id = 20", [21]),
        ("word IS NULL OR id = 1", [1, 16]),
        ("score < 0.15 AND id < 3", [2]),
        ("length(text) = 2 AND id >= 2 AND id <= 2", [2]),
    ],
)
def test_a_filter_opens_no_file_that_statistics_rule_out(
    tmp_path: Path, out: Path, condition: str, expected: list[int]
) -> None:
    path = tmp_path / "lake"
    day = datetime.date(2026, 1, 1)
    lots = [
        rows(1, 2, word=["a", "b"], day=[day] * 2, score=[float("nan"), 0.1]),
        rows(10, 11, word=["m", "n"], day=[day.replace(month=2)] * 2, score=[0.2, None]),
        rows(16, 17, word=[None, "n"], day=[None, None], score=[0.1, 0.1]),
        rows(20, 21, word=["z", "z"], day=[day.replace(month=2, day=9)] * 2, score=[0.2, 0.2]),
    ]
    texts = pa.schema([("id", pa.int64()), ("text", pa.string()), ("word", pa.string())])
    kinds = [*texts, pa.field("day", pa.date32()), pa.field("score", pa.float64())]
    for lot in lots:
        write_deltalake(path, lot.cast(pa.schema(kinds)), mode="append")
    source = as_found(open_source(str(path), choice=Choice(condition)))
    listed = {entry.path for entry in source.listing().files}
    for action in log(path):
        if "add" in action and action["add"]["path"] not in listed:
            (path / action["add"]["path"]).write_bytes(b"nobody opens it")
    assert len(listed) < 4 or "NULL" in condition or "NOT" in condition
    job = write_job(tmp_path, output={"format": "parquet"}, input={"filter": condition})
    assert run(job).exit_code == 0
    assert annotated(out) == expected
