"""A Delta table as output: what a run commits to it, and what it makes of what others did to it."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import table_jobs
from deltalake import DeltaTable, write_deltalake
from helpers import own
from table_jobs import added_once, ids, log, run, write, write_job

from pipeline.errors import JobError, RunError
from pipeline.job.file import load_job
from pipeline.lake.sink import table_commit
from pipeline.lake.sink.open import as_table, open_sink
from pipeline.planning import Choices
from pipeline.status import output_status
from pipeline.verify import verify_job

pytestmark = pytest.mark.unit


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    write(tmp_path / "lake", "a", 1, 2)
    write(tmp_path / "lake", "deep/b", 3)
    return tmp_path / "lake"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def job(lake: Path, tmp_path: Path) -> str:
    return write_job(tmp_path)


def test_a_run_makes_the_table_and_adds_all_its_files_in_one_transaction_that_carries_its_id(
    job: str, out: Path
) -> None:
    summary = run(job)
    assert (summary.state, summary.exit_code) == ("done", 0)
    table = DeltaTable(out)
    assert table.version() == 0
    assert ids(out) == [1, 2, 3]
    assert len(added_once(out)) == 2
    assert table.transaction_version(f"shardscribe/{summary.run}") == 1
    assert [field.name for field in table.schema().fields] == ["id", "text", "mood", "errors"]
    assert (table.protocol().min_reader_version, table.protocol().min_writer_version) == (1, 2)

    assert run(job).state == "nothing to do"
    assert DeltaTable(out).version() == 0


def test_what_readers_see_of_the_table_is_the_same_to_all(job: str, out: Path) -> None:
    run(job)
    rows = sorted(DeltaTable(out).to_pyarrow_table().to_pylist(), key=lambda row: row["id"])
    assert [row["text"] for row in rows] == ["w1", "w2", "w3"]
    assert pl.scan_delta(str(out)).sort("id").collect().to_dicts() == rows
    dataset = DeltaTable(out).to_pyarrow_dataset()
    assert dataset.to_table().sort_by("id").to_pylist() == rows
    files = DeltaTable(out).file_uris()
    assert duckdb.sql(f"select count(*), min(id), max(id) from read_parquet({files})").fetchall()
    assert DeltaTable(out).to_pandas()["id"].sort_values().to_list() == [1, 2, 3]


def test_statistics_let_readers_pass_files_over(job: str, out: Path, lake: Path) -> None:
    write(lake, "c", 7, 9, day=pa.array([None, 3], pa.int32()))
    run(job)
    found = {
        row["path"].rpartition("/")[2][:1]: row
        for row in pa.table(DeltaTable(out).get_add_actions()).to_pylist()
    }
    assert found["c"]["num_records"] == 2
    assert (found["c"]["min"]["id"], found["c"]["max"]["id"]) == (7, 9)
    assert (found["c"]["min"]["day"], found["c"]["null_count"]["day"]) == (3, 1)
    assert (found["a"]["min"]["text"], found["a"]["max"]["text"]) == ("w1", "w2")
    assert DeltaTable(out).to_pyarrow_table(filters=[("id", ">", 5)]).num_rows == 2


def test_new_changed_and_vanished_inputs_are_one_transaction_each_night(
    job: str, out: Path, lake: Path
) -> None:
    run(job)
    write(lake, "a", 1, 20, 21)
    write(lake, "c", 4)
    summary = run(job)
    assert (summary.exit_code, summary.splits.done) == (0, 2)
    assert DeltaTable(out).version() == 1
    assert ids(out) == [1, 3, 4, 20, 21]
    (removed,) = [action["remove"] for action in log(out) if "remove" in action]
    assert removed["path"].startswith("a-all-")
    assert run(job).state == "nothing to do"

    (lake / "c.parquet").unlink()
    summary = run(job)
    assert len(summary.vanished_outputs) == 1
    assert ids(out) == [1, 3, 4, 20, 21]
    run(job, Choices(prune=True))
    assert ids(out) == [1, 3, 20, 21]
    assert run(job).vanished_outputs == []
    assert DeltaTable(out).version() == 2
    added_once(out)
    assert verify_job(load_job(job)).problems == []


def test_an_input_that_is_as_it_was_before_a_change_gets_its_first_file_back(
    job: str, out: Path, lake: Path
) -> None:
    run(job)
    first = (lake / "a.parquet").read_bytes()
    kept = lake.parent / "kept.parquet"
    shutil.copy2(lake / "a.parquet", kept)
    write(lake, "a", 8)
    run(job)
    assert ids(out) == [3, 8]
    shutil.copy2(kept, lake / "a.parquet")
    assert (lake / "a.parquet").read_bytes() == first
    summary = run(job)
    assert summary.splits.done == 1
    assert ids(out) == [1, 2, 3]
    assert run(job).state == "nothing to do"
    assert verify_job(load_job(job)).problems == []


def test_compaction_by_another_writer_leaves_splits_done_also_when_log_and_files_are_gone(
    job: str, out: Path, lake: Path
) -> None:
    run(job)
    write(lake, "c", 4)
    run(job)
    DeltaTable(out).optimize.compact()
    assert run(job).state == "nothing to do"
    table = DeltaTable(out)
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
    DeltaTable(out).create_checkpoint()
    for path in (out / "_delta_log").glob("*.json"):
        if int(path.stem) < DeltaTable(out).version():
            path.unlink()
    assert not [*out.glob("*-all-*.parquet")]
    assert run(job).state == "nothing to do"
    write(lake, "d", 5)
    summary = run(job)
    assert (summary.splits.done, summary.splits.done_before) == (1, 3)
    assert ids(out) == [1, 2, 3, 4, 5]
    verdict = verify_job(load_job(job))
    assert (verdict.problems, verdict.splits, verdict.merged) == ([], 1, 3)
    status = output_status(str(out), job=load_job(job))
    assert (status.files, status.total, status.left, status.rows.rows) == (4, 4, 0, 5)


def test_a_changed_input_whose_rows_are_merged_is_refused_before_anything_is_annotated(
    job: str, out: Path, lake: Path
) -> None:
    run(job)
    DeltaTable(out).optimize.compact()
    write(lake, "a", 8)
    with pytest.raises(RunError, match="another writer has put their rows into other files"):
        run(job)
    assert ids(out) == [1, 2, 3]
    (lake / "a.parquet").unlink()
    assert len(run(job).vanished_outputs) == 1
    with pytest.raises(RunError, match="another writer has put their rows into other files"):
        run(job, Choices(prune=True))
    with pytest.raises(JobError, match="--supersede"):
        run(write_job(out.parent, input={"columns": ["id"]}))
    with pytest.raises(RunError, match="another writer"):
        run(write_job(out.parent, input={"columns": ["id"]}), Choices(supersede=True))


def test_a_job_of_other_results_takes_the_place_of_all_rows_at_once(
    job: str, out: Path, lake: Path
) -> None:
    run(job)
    other = write_job(out.parent, limits={"text": "1MB"})
    with pytest.raises(JobError, match=r"limits\.text"):
        run(other)
    summary = run(other, Choices(supersede=True))
    assert (summary.exit_code, summary.splits.done) == (0, 2)
    assert (ids(out), DeltaTable(out).version()) == ([1, 2, 3], 1)
    assert run(other).state == "nothing to do"


def test_rows_of_other_writers_in_the_table_are_left_alone(job: str, out: Path, lake: Path) -> None:
    run(job)
    more = DeltaTable(out).to_pyarrow_table().slice(0, 1)
    write_deltalake(out, more.set_column(0, "id", pa.array([99])), mode="append")
    assert run(job).state == "nothing to do"
    write(lake, "a", 8)
    run(job)
    assert ids(out) == [3, 8, 99]
    assert verify_job(load_job(job)).problems == []


def test_files_of_an_output_become_the_rows_of_a_table_without_being_annotated_again(
    job: str, out: Path
) -> None:
    files = write_job(out.parent, output={"format": "parquet"})
    run(files)
    before = {path: path.stat().st_ino for path in out.rglob("*.parquet")}
    assert run(write_job(out.parent)).state == "nothing to do"
    assert ids(out) == [1, 2, 3]
    assert {path: path.stat().st_ino for path in out.rglob("*.parquet")} == before
    with pytest.raises(JobError, match=r"is a Delta table\. Set output\.format: delta"):
        run(write_job(out.parent, output={"format": "parquet"}))


def test_columns_that_come_later_are_added_to_the_table_and_null_before(
    job: str, out: Path, lake: Path
) -> None:
    run(job)
    write(lake, "c", 4, lang=["en"])
    assert run(job).exit_code == 0
    rows = DeltaTable(out).to_pyarrow_table().to_pylist()
    assert {row["id"]: row["lang"] for row in rows} == {1: None, 2: None, 3: None, 4: "en"}
    assert run(job).state == "nothing to do"


def test_a_column_of_another_type_is_told_before_it_is_annotated(
    job: str, out: Path, lake: Path
) -> None:
    run(job)
    for name in ("a", "deep/b"):
        pq.write_table(pa.table({"id": ["x"], "text": ["y"]}), lake / f"{name}.parquet")
    with pytest.raises(JobError, match="column `id` is string, and long in the table") as caught:
        run(job)
    assert caught.value.exit_code == 2
    assert ids(out) == [1, 2, 3]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"n": pa.array([1, 2], pa.uint8())}, "column `n` is uint8, which a Delta table can't"),
        ({"n": pa.array([1, 2], pa.timestamp("ns"))}, r"column `n` is timestamp\[ns\]"),
        ({"n": pa.array([1, 2], pa.time64("us"))}, r"column `n` is time64\[us\]"),
        ({"n": pa.nulls(2)}, "column `n` is null"),
        ({"n": pa.array([1, 2], pa.float16())}, "column `n` is halffloat"),
        ({"n": pa.array([[{"a": 1}], None], pa.list_(pa.struct([("a", pa.uint8())])))}, "uint8"),
        ({"n m": [1, 2]}, "column `n m`: its name holds ' '"),
    ],
)
def test_a_column_that_a_delta_table_can_not_hold_is_refused_by_name(
    job: str, out: Path, lake: Path, column: dict[str, Any], said: str
) -> None:
    for name in ("a", "deep/b"):
        write(lake, name, 1, 2, **column)
    with pytest.raises(JobError, match=said):
        run(job)
    assert not out.exists()
    run(write_job(out.parent, input={"columns": ["id"]}))
    assert ids(out) == [1, 1, 2, 2]


def test_types_that_a_table_has_in_other_words_are_read_back_as_they_were(
    job: str, out: Path, lake: Path
) -> None:
    shutil.rmtree(lake)
    write(
        lake, "a", 1,
        day=pa.array([86_400_000], pa.timestamp("ms", "Europe/Paris")),
        shop=pa.array(["x"]).dictionary_encode(),
        pair=pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
        raw=pa.array([b"ab"], pa.binary(2)),
        long=pa.array(["y"], pa.large_string()),
        tags=pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())),
    )  # fmt: skip
    run(job)
    (row,) = DeltaTable(out).to_pyarrow_table().to_pylist()
    assert (row["shop"], row["pair"], row["raw"], row["long"]) == ("x", [1.0, 2.0], b"ab", "y")
    assert (row["tags"], row["day"].timestamp()) == ([("k", 1)], 86_400)
    assert verify_job(load_job(job)).problems == []


def test_a_table_of_another_schema_or_partitioning_is_refused(job: str, out: Path) -> None:
    for content, options, said in (
        ({"id": ["x"], "text": ["y"]}, {}, "column `id` is long, and string in the table"),
        ({"id": [1], "text": ["y"], "more": [1]}, {}, "the job gives no column `more`"),
        ({"id": [1], "text": ["y"]}, {}, "it has no column `mood`"),
        ({"id": [1], "text": ["y"]}, {"partition_by": ["id"]}, "it is partitioned by id"),
        (
            {"id": [1], "text": ["y"]},
            {"configuration": {"delta.setTransactionRetentionDuration": "interval 1 days"}},
            "makes it forget",
        ),
    ):
        shutil.rmtree(out, ignore_errors=True)
        write_deltalake(out, pa.table(content), **options)
        with pytest.raises(JobError, match=said):
            run(job)
        assert DeltaTable(out).version() == 0


def test_a_table_that_is_there_and_fits_takes_the_rows_beside_its_own(job: str, out: Path) -> None:
    run(job)
    schema = DeltaTable(out).to_pyarrow_table().schema
    shutil.rmtree(out)
    shutil.rmtree(own(out))
    write_deltalake(out, schema.empty_table())
    run(job)
    assert (ids(out), DeltaTable(out).version()) == ([1, 2, 3], 1)


def test_a_table_that_was_removed_and_its_lists_left_is_made_anew(job: str, out: Path) -> None:
    run(job)
    shutil.rmtree(out)
    assert run(job).splits.done == 2
    assert ids(out) == [1, 2, 3]


def test_a_table_whose_lists_are_lost_is_refused_as_rows_may_be_in_it_already(
    job: str, out: Path, lake: Path
) -> None:
    run(job)
    DeltaTable(out).optimize.compact()
    shutil.rmtree(own(out) / "table")
    with pytest.raises(JobError, match=r"has 1 transactions of ours, and .* knows of 0"):
        run(job)
    assert ids(out) == [1, 2, 3]


def test_a_list_that_is_damaged_is_told(job: str, out: Path) -> None:
    run(job)
    (path,) = (own(out) / "table").rglob("*.list")
    path.write_bytes(b"nothing")
    with pytest.raises(JobError, match="is damaged: which rows are in the table"):
        run(job)


def test_a_later_protocol_is_refused_in_a_line(job: str, out: Path) -> None:
    run(job)
    path = out / "_delta_log" / f"{0:020}.json"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if "protocol" in line:
            line["protocol"] = {"minReaderVersion": 99, "minWriterVersion": 99}
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(JobError, match="version 99") as caught:
        run(job)
    assert len(str(caught.value).splitlines()) == 1


def test_without_the_extra_a_delta_output_is_refused_with_what_to_install(
    job: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(JobError, match=r"pip install 'shardscribe\[delta\]'"):
        run(job)
    run(write_job(out.parent, output={"format": "parquet"}))


def test_bad_rows_are_not_tried_again_in_a_table(job: str) -> None:
    run(job)
    with pytest.raises(JobError, match=r"retry --bad-rows: the data files .* never written again"):
        run(job, Choices(retry_bad_rows=True))
    with pytest.raises(JobError, match=r"run --full: the data files .* never written again"):
        run(job, Choices(full=True))


def test_a_damaged_data_file_is_annotated_anew_and_the_table_told_its_size(
    job: str, out: Path, lake: Path
) -> None:
    run(job)
    (path,) = out.glob("a-all-*.parquet")
    path.write_bytes(path.read_bytes()[:-40])
    assert list(output_status(str(out)).damaged) == [path.name]
    summary = run(job)
    assert (summary.exit_code, summary.splits.done) == (0, 1)
    assert ids(out) == [1, 2, 3]
    (out / path.name).unlink()
    assert run(job).splits.done == 1
    assert ids(out) == [1, 2, 3]
    assert run(job).state == "nothing to do"


def test_file_names_of_all_kinds_are_found_again(job: str, out: Path, lake: Path) -> None:
    names = ["a b", "a%20b", "é", "d=x y%2F/x", "q?#&", "a+b", "日", "x~'\"!*()", "[a]{b}", "a\\b"]
    for number, name in enumerate(names):
        write(lake, name, 10 + number)
    run(job)
    assert ids(out) == [1, 2, 3, *range(10, 10 + len(names))]
    assert run(job).state == "nothing to do"
    for number, name in enumerate(names):
        write(lake, name, 30 + number, 1000)
    run(job)
    assert [i for i in ids(out) if i < 1000] == [1, 2, 3, *range(30, 30 + len(names))]
    assert run(job).state == "nothing to do"
    added_once(out)


def test_of_an_input_that_is_not_all_annotated_the_table_keeps_the_old_rows(
    job: str, out: Path, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = write_job(out.parent, input={"split": {"rows": 2}})
    write(lake, "a", *range(10, 15))
    run(cut)
    write(lake, "a", *range(20, 25))
    write(lake, "c", 50)
    monkeypatch.setattr(table_jobs, "fails", lambda split: split.told.endswith("(rows 4 to 4)"))
    summary = run(cut)
    assert (summary.state, summary.splits.done) == ("some splits failed", 3)
    assert ids(out) == [3, *range(10, 15), 50]
    monkeypatch.undo()
    assert run(cut).splits.done == 1
    assert ids(out) == [3, *range(20, 25), 50]


def test_of_two_runs_that_make_the_table_at_once_one_makes_it_and_the_other_adds_to_it(
    job: str, out: Path
) -> None:
    def make_first(*arguments: Any, **named: Any) -> None:
        table_jobs.copy_all(*arguments, **named)
        # Another run of the job that does not know of the lease has all splits, and finishes.
        other = as_table(open_sink(str(out)))
        other.finish("another", wanted=set(), guard=lambda: None)

    assert run(job, annotate=make_first).exit_code == 0
    assert ids(out) == [1, 2, 3]
    assert DeltaTable(out).version() == 0
    assert len(added_once(out)) == 2


def test_what_directories_of_the_input_tell_is_a_column_of_the_table(
    job: str, out: Path, lake: Path
) -> None:
    write(lake, "year=2025/c", 4)
    write(lake, "year=2026/c", 5)
    run(job)
    found = DeltaTable(out).to_pyarrow_table()
    years = dict(zip(*(found.column(name).to_pylist() for name in ("id", "year")), strict=True))
    assert years == {1: None, 2: None, 3: None, 4: 2025, 5: 2026}
    assert verify_job(load_job(job)).problems == []


def test_a_transaction_every_so_many_splits_shows_rows_as_the_run_goes(
    lake: Path, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10, 13):
        write(lake, f"c{number}", number)
    job = write_job(tmp_path, output={"commit_every": 2})
    seen: list[int] = []

    def looks(name: str) -> None:
        seen.append(len(ids(out)) if (out / "_delta_log").exists() else 0)

    monkeypatch.setattr(table_jobs, "step", looks)
    assert run(job).exit_code == 0
    assert seen[0] == 0
    assert 0 < seen[1] < seen[3] < 6
    assert (ids(out), DeltaTable(out).version()) == ([1, 2, 3, 10, 11, 12], 2)
    assert len(added_once(out)) == 5
    assert run(job).state == "nothing to do"
    assert DeltaTable(out).version() == 2


def test_changed_inputs_are_replaced_in_the_transaction_of_their_last_split(
    lake: Path, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path, output={"commit_every": 1})
    run(job)
    write(lake, "a", 1, 7)
    write(lake, "deep/b", 8, 9)
    seen = []
    monkeypatch.setattr(table_jobs, "step", lambda name: seen.append(ids(out)))
    assert run(job).exit_code == 0
    assert seen in ([[1, 3, 7], [1, 7, 8, 9]], [[1, 2, 8, 9], [1, 7, 8, 9]])
    added_once(out)


def test_a_transaction_that_does_not_go_through_is_left_to_the_next(
    lake: Path, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path, output={"commit_every": 1})
    commit, calls = table_commit._commit, iter([1, 2, 3])

    def refused(*arguments: Any) -> bool:
        if next(calls, None):
            raise OSError("throttled")
        return commit(*arguments)

    monkeypatch.setattr(table_commit, "_commit", refused)
    assert run(job).exit_code == 0
    assert "throttled" in str(run.notices)  # type: ignore[attr-defined]
    assert ids(out) == [1, 2, 3]


def test_files_alone_have_no_transactions_to_be_made_every_so_many_splits(
    lake: Path, tmp_path: Path
) -> None:
    job = write_job(tmp_path, output={"commit_every": 2, "format": "parquet"})
    with pytest.raises(JobError, match="commit_every is for tables"):
        load_job(job)
