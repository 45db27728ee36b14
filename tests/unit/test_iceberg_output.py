"""An Iceberg table as output: one transaction a run, whatever others do to the table meanwhile."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import table_jobs
from datasets import load_dataset
from duck import ducks
from iceberg_tables import (
    MADE,
    TABLE,
    added_once,
    catalog,
    compact,
    delete_rows,
    ids,
    job_into,
    made,
    make,
    paths,
    rows,
    settings,
    versions,
)
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import ManifestFile
from pyiceberg.transforms import IdentityTransform
from table_jobs import fails, run, write

from pipeline.compact import compact_output
from pipeline.errors import JobError, RunError
from pipeline.job.file import load_job
from pipeline.job.places import output_address, sink_of
from pipeline.lake.store.open import open_store
from pipeline.planning import Choices
from pipeline.preview import Wanted, output_rows
from pipeline.status import output_status
from pipeline.verify import verify_job

pytestmark = pytest.mark.unit


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    write(tmp_path / "lake", "a", 1, 2)
    write(tmp_path / "lake", "deep/b", 3)
    return tmp_path / "lake"


@pytest.fixture
def job(lake: Path, tmp_path: Path) -> str:
    catalog(tmp_path)
    return job_into(tmp_path)


def test_a_run_makes_the_table_and_adds_all_its_files_in_one_snapshot_that_carries_its_id(
    job: str, tmp_path: Path
) -> None:
    summary = run(job)
    assert (summary.state, summary.exit_code) == ("done", 0)
    table = made(tmp_path)
    assert (ids(tmp_path), versions(tmp_path), len(added_once(tmp_path))) == ([1, 2, 3], 1, 2)
    said = table.current_snapshot().summary
    assert (said["shardscribe.run"], said["added-records"]) == (summary.run, "3")
    assert table.properties["shardscribe"] == "1"
    assert [field.name for field in table.schema().fields] == ["id", "text", "mood", "errors"]
    place = table.location().removeprefix("file://")
    assert output_address(load_job(job)) == f"{place}/data/shardscribe"
    assert run(job).state == "nothing to do"
    assert versions(tmp_path) == 1


def test_the_table_is_the_same_to_all_who_read_it(job: str, tmp_path: Path) -> None:
    run(job)
    table = made(tmp_path)
    found = pl.scan_iceberg(table).sort("id").collect().to_dicts()
    assert [row["text"] for row in found] == ["w1", "w2", "w3"]
    by_library = table.scan().to_arrow().sort_by("id").to_pylist()
    # Its own library reads lists of nothing where lists of structs are null.
    assert [{**row, "errors": row["errors"] or None} for row in by_library] == found
    files = [path.removeprefix("file://") for path in paths(table)]
    assert pads.dataset(files).to_table().sort_by("id").to_pylist() == found
    assert pd.concat(map(pd.read_parquet, files))["id"].sort_values().to_list() == [1, 2, 3]
    read = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert sorted(read["train"]["id"]) == [1, 2, 3]
    with ducks("avro", "iceberg") as connection:
        scan = connection.sql(f"from iceberg_scan('{table.metadata_location}')").order("id")
        assert scan.to_arrow_table().to_pylist() == found
    shown = output_rows("", Wanted(rows=10), job=load_job(job))
    assert shown.rows == 3


def test_statistics_let_readers_pass_files_over(job: str, lake: Path, tmp_path: Path) -> None:
    write(lake, "c", 7, 9)
    run(job)
    (task,) = made(tmp_path).scan(row_filter="id > 5").plan_files()
    assert "/c-all-" in task.file.file_path


def test_new_changed_and_vanished_inputs_are_one_snapshot_each_night(
    job: str, lake: Path, tmp_path: Path
) -> None:
    run(job)
    write(lake, "a", 1, 20, 21)
    write(lake, "c", 4)
    summary = run(job)
    assert (summary.exit_code, summary.splits.done) == (0, 2)
    assert (versions(tmp_path), ids(tmp_path)) == (2, [1, 3, 4, 20, 21])
    assert run(job).state == "nothing to do"
    (lake / "c.parquet").unlink()
    summary = run(job)
    assert len(summary.vanished_outputs) == 1
    assert ids(tmp_path) == [1, 3, 4, 20, 21]
    run(job, Choices(prune=True))
    assert ids(tmp_path) == [1, 3, 20, 21]
    assert run(job).vanished_outputs == []
    assert versions(tmp_path) == 3
    added_once(tmp_path)
    assert verify_job(load_job(job)).problems == []


def test_an_input_that_is_as_it_was_before_a_change_gets_its_first_file_back(
    job: str, lake: Path, tmp_path: Path
) -> None:
    run(job)
    kept = tmp_path / "kept.parquet"
    shutil.copy2(lake / "a.parquet", kept)
    write(lake, "a", 8)
    run(job)
    assert ids(tmp_path) == [3, 8]
    shutil.copy2(kept, lake / "a.parquet")
    assert run(job).splits.done == 1
    assert ids(tmp_path) == [1, 2, 3]
    assert run(job).state == "nothing to do"


def test_rewriting_by_another_writer_leaves_splits_done_also_when_snapshots_have_expired(
    job: str, lake: Path, tmp_path: Path
) -> None:
    run(job)
    compact(tmp_path)
    assert run(job).state == "nothing to do"
    table = made(tmp_path)
    old = [s.snapshot_id for s in table.snapshots()][:-1]
    table.maintenance.expire_snapshots().by_ids(old).commit()
    shutil.rmtree(output_address(load_job(job)))
    assert run(job).state == "nothing to do"
    write(lake, "d", 5)
    summary = run(job)
    assert (summary.splits.done, summary.splits.done_before) == (1, 2)
    assert ids(tmp_path) == [1, 2, 3, 5]
    verdict = verify_job(load_job(job))
    assert (verdict.problems, verdict.splits, verdict.merged) == ([], 1, 2)
    status = output_status("", job=load_job(job))
    assert (status.files, status.total, status.left, status.rows.rows) == (3, 3, 0, 4)


def test_a_changed_input_whose_rows_are_merged_is_refused_before_anything_is_annotated(
    job: str, lake: Path, tmp_path: Path
) -> None:
    run(job)
    compact(tmp_path)
    write(lake, "a", 8)
    with pytest.raises(RunError, match="another writer has put their rows into other files"):
        run(job)
    assert ids(tmp_path) == [1, 2, 3]


def test_rows_of_others_are_left_alone_and_rows_that_others_delete_stay_deleted(
    job: str, lake: Path, tmp_path: Path
) -> None:
    run(job)
    table = made(tmp_path)
    more = table.scan().to_arrow().slice(0, 1)
    table.append(more.set_column(0, "id", pa.array([99])))
    first = next(path for path in paths(table) if "/a-all-" in path)
    delete_rows(made(tmp_path), (first, 0))
    assert ids(tmp_path) == [2, 3, 99]
    assert run(job).state == "nothing to do"
    write(lake, "deep/b", 8)
    run(job)
    assert ids(tmp_path) == [2, 8, 99]
    assert verify_job(load_job(job)).problems == []


def test_a_job_of_other_results_takes_the_place_of_all_rows_at_once(
    job: str, tmp_path: Path
) -> None:
    run(job)
    other = job_into(tmp_path, limits={"text": "1MB"})
    with pytest.raises(JobError, match=r"limits\.text"):
        run(other)
    summary = run(other, Choices(supersede=True))
    assert (summary.exit_code, summary.splits.done) == (0, 2)
    assert (ids(tmp_path), versions(tmp_path)) == ([1, 2, 3], 2)


def test_files_of_an_output_become_the_rows_of_a_table_without_being_annotated_again(
    job: str, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    run(table_jobs.write_job(tmp_path, output={"format": "parquet"}))
    before = {path: path.stat().st_ino for path in Path(out).rglob("*.parquet")}
    assert run(job_into(tmp_path, output={"path": out})).state == "nothing to do"
    assert ids(tmp_path) == [1, 2, 3]
    assert {path: path.stat().st_ino for path in Path(out).rglob("*.parquet")} == before


def test_columns_that_come_later_are_added_to_the_table_and_null_before(
    job: str, lake: Path, tmp_path: Path
) -> None:
    run(job)
    write(lake, "c", 4, lang=["en"])
    assert run(job).exit_code == 0
    found = {row["id"]: row["lang"] for row in made(tmp_path).scan().to_arrow().to_pylist()}
    assert found == {1: None, 2: None, 3: None, 4: "en"}
    assert (versions(tmp_path), run(job).state) == (2, "nothing to do")


def test_a_column_of_another_type_is_told_before_it_is_annotated(
    job: str, lake: Path, tmp_path: Path
) -> None:
    run(job)
    for name in ("a", "deep/b"):
        pq.write_table(pa.table({"id": ["x"], "text": ["y"]}), lake / f"{name}.parquet")
    with pytest.raises(JobError, match="column `id` is string, and int64 in the table") as caught:
        run(job)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"n": pa.array([1, 2], pa.uint8())}, "column `n` is uint8, which an Iceberg table can't"),
        ({"n": pa.array([1, 2], pa.timestamp("ns"))}, r"column `n` is timestamp\[ns\]"),
        ({"n": pa.array([1, 2], pa.timestamp("us", "Europe/Paris"))}, "Europe/Paris"),
        ({"n": pa.array([1, 2], pa.float16())}, "column `n` is halffloat"),
        ({"n": pa.nulls(2)}, "column `n` is null"),
        ({"n.m": [1, 2]}, r"column `n\.m`: its name holds '\.'"),
    ],
)
def test_a_column_that_an_iceberg_table_can_not_hold_is_refused_by_name(
    job: str, lake: Path, tmp_path: Path, column: dict[str, Any], said: str
) -> None:
    for name in ("a", "deep/b"):
        write(lake, name, 1, 2, **column)
    with pytest.raises(JobError, match=said):
        run(job)
    assert not catalog(tmp_path).table_exists(MADE)


def test_types_that_a_table_has_in_other_words_are_read_back_as_they_were(
    job: str, lake: Path, tmp_path: Path
) -> None:
    shutil.rmtree(lake)
    write(
        lake, "a", 1,
        day=pa.array([86_400_000], pa.timestamp("ms", "UTC")),
        shop=pa.array(["x"]).dictionary_encode(),
        pair=pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
        raw=pa.array([b"ab"], pa.binary(2)),
        long=pa.array(["y"], pa.large_string()),
        tags=pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())),
        at=pa.array([[{"x": 1}]], pa.list_(pa.struct([("x", pa.int16())]))),
    )  # fmt: skip
    run(job)
    (row,) = made(tmp_path).scan().to_arrow().to_pylist()
    assert (row["shop"], row["pair"], row["raw"], row["long"]) == ("x", [1.0, 2.0], b"ab", "y")
    assert (row["tags"], row["day"].timestamp(), row["at"]) == ([("k", 1)], 86_400, [{"x": 1}])
    assert verify_job(load_job(job)).problems == []


def test_from_table_to_table_columns_get_the_numbers_of_the_new_table(tmp_path: Path) -> None:
    # Written with numbers that differ from those of the output's columns.
    first = make(tmp_path, rows(1, 2, gone=["x", "y"], at=[{"n": 1}, {"n": 2}]))
    with first.update_schema() as change:
        change.delete_column("gone")
    pq_in = {"path": None, "table": TABLE, "catalog": settings(tmp_path)}
    job = job_into(tmp_path, input=pq_in)
    run(job)
    found = made(tmp_path).scan().to_arrow().sort_by("id").to_pylist()
    assert [(row["id"], row["text"], row["at"]) for row in found] == [
        (1, "w1", {"n": 1}), (2, "w2", {"n": 2}),
    ]  # fmt: skip
    # The same of data files that say their numbers, read as files.
    folder = Path(first.location().removeprefix("file://")) / "data"
    other = {"table": "db.other", "path": str(tmp_path / "files")}
    run(job_into(tmp_path, input={"path": str(folder)}, output=other))
    files = [*(tmp_path / "files").glob("*.parquet")]
    assert not [f for path in files for f in pq.read_schema(path) if f.metadata]


@pytest.mark.parametrize(
    ("content", "how", "said"),
    [
        ({"id": ["x"], "text": ["y"]}, {}, "column `id` is int64, and string in the table"),
        ({"id": [1], "text": ["y"], "more": [1]}, {}, "the job gives no column `more`"),
        ({"id": [1], "text": ["y"]}, {}, "it has no column `mood`"),
        ({"id": [1], "text": ["y"]}, {"parts": {"id": IdentityTransform()}}, "is partitioned by"),
    ],
)
def test_a_table_of_another_schema_or_partitioning_is_refused(
    job: str, tmp_path: Path, content: dict[str, Any], how: dict[str, Any], said: str
) -> None:
    make(tmp_path, pa.table(content), name=MADE, **how)
    with pytest.raises(JobError, match=said) as caught:
        run(job)
    assert caught.value.exit_code == 2
    assert versions(tmp_path) == 1


def test_a_table_that_was_dropped_and_its_lists_left_is_made_anew(job: str, tmp_path: Path) -> None:
    run(job)
    location = made(tmp_path).location()
    catalog(tmp_path).drop_table(MADE)
    assert run(job).state == "nothing to do"
    assert (ids(tmp_path), made(tmp_path).location()) == ([1, 2, 3], location)


def test_a_table_whose_lists_are_lost_is_refused_as_rows_may_be_in_it_already(
    job: str, tmp_path: Path
) -> None:
    run(job)
    compact(tmp_path)
    shutil.rmtree(Path(sink_of(load_job(job)).own.root) / "table")
    with pytest.raises(JobError, match=r"has 1 transactions of ours, and .* knows of 0"):
        run(job)


def test_a_damaged_data_file_is_annotated_anew_and_the_table_told_its_size(
    job: str, tmp_path: Path
) -> None:
    run(job)
    out = Path(output_address(load_job(job)))
    (path,) = out.glob("a-all-*.parquet")
    path.write_bytes(path.read_bytes()[:-40])
    summary = run(job)
    assert (summary.exit_code, summary.splits.done) == (0, 1)
    assert ids(tmp_path) == [1, 2, 3]
    path.unlink()
    assert run(job).splits.done == 1
    assert ids(tmp_path) == [1, 2, 3]
    assert run(job).state == "nothing to do"


def test_file_names_of_all_kinds_are_found_again(job: str, lake: Path, tmp_path: Path) -> None:
    names = ["a b", "a%20b", "é", "d=x y%2F/x", "q?#&", "a+b", "日", "x~'\"!*()", "[a]{b}", "a:b"]
    for number, name in enumerate(names):
        write(lake, name, 10 + number)
    run(job)
    assert ids(tmp_path) == [1, 2, 3, *range(10, 10 + len(names))]
    assert run(job).state == "nothing to do"
    assert len(added_once(tmp_path)) == 2 + len(names)


def test_of_an_input_that_is_not_all_annotated_the_table_keeps_the_old_rows(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog(tmp_path)
    cut = job_into(tmp_path, input={"split": {"rows": 2}})
    run(cut)
    write(lake, "a", 1, 20, 21)
    monkeypatch.setattr(table_jobs, "fails", lambda split: "rows 2" in split.told)
    assert run(cut).exit_code == 1
    assert ids(tmp_path) == [1, 2, 3]
    monkeypatch.setattr(table_jobs, "fails", fails)
    assert run(cut).exit_code == 0
    assert ids(tmp_path) == [1, 3, 20, 21]


def test_two_runs_at_once_add_each_file_once(
    job: str, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, other = sink_of(load_job(job)), sink_of(load_job(job))
    run(job)
    write(lake, "c", 4)
    for path in (Path(sink.own.root) / "lease.json",):
        path.unlink(missing_ok=True)
    again: list[int] = []

    def meanwhile() -> None:
        if not again:
            again.append(1)
            other.finish("other", wanted=wanted, guard=lambda: None)

    monkeypatch.setattr(type(sink), "finish", lambda *a, **k: None)
    run(job)
    monkeypatch.undo()
    wanted = {entry.path for entry in sink.present()}
    sink.finish("one", wanted=wanted, guard=meanwhile)
    assert (ids(tmp_path), versions(tmp_path)) == ([1, 2, 3, 4], 2)
    assert made(tmp_path).current_snapshot().summary["shardscribe.run"] == "other"


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"table": "nowhere.annotated"}, "the catalog has no namespace nowhere"),
        ({"catalog": {"type": "rest", "uri": "http://127.0.0.1:9"}}, "can't be opened"),
        ({"table": None}, "output.table.*is missing"),
        ({"table": "reviews"}, "output.table.*namespace.table"),
        ({"format": "parquet", "path": "out"}, "output.table.*is of an Iceberg table"),
        ({"format": "parquet", "table": None, "catalog": {}}, "output.path.*is missing"),
        ({"catalog": {"token": "abc"}}, "output.catalog.*holds a secret"),
    ],
)
def test_an_output_that_can_not_be_is_told_in_a_line(
    job: str, tmp_path: Path, part: dict[str, Any], said: str
) -> None:
    with pytest.raises(JobError, match=said) as caught:
        run(job_into(tmp_path, output=part))
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.exit_code == 2


def test_a_table_is_not_annotated_into_itself(tmp_path: Path) -> None:
    make(tmp_path, rows(1), name=MADE)
    part = {"path": None, "table": MADE, "catalog": settings(tmp_path)}
    with pytest.raises(JobError, match="it is the input"):
        load_job(job_into(tmp_path, input=part))


def test_records_are_beside_the_files_and_hidden_from_other_tools(job: str, tmp_path: Path) -> None:
    run(job)
    own = open_store(output_address(load_job(job))).own
    assert own.root.endswith("/data/.shardscribe/shardscribe")
    assert own.names("runs")


def test_with_a_place_for_its_files_a_namespace_is_made_with_the_table(
    lake: Path, tmp_path: Path
) -> None:
    part = {"table": "new.annotated", "path": str(tmp_path / "out")}
    job = job_into(tmp_path, output=part)
    assert run(job).exit_code == 0
    assert catalog(tmp_path).load_table("new.annotated").scan().to_arrow().num_rows == 3
    assert run(job).state == "nothing to do"


def test_files_of_a_table_are_neither_compacted_nor_taken_for_files_alone(
    job: str, tmp_path: Path
) -> None:
    run(job)
    place = output_address(load_job(job))
    with pytest.raises(JobError, match="holds the files of an Iceberg table"):
        compact_output(place, file_size=10**6)
    with pytest.raises(JobError, match="holds the files of a table"):
        run(table_jobs.write_job(tmp_path, output={"format": "parquet", "path": place}))
    assert ids(tmp_path) == [1, 2, 3]


def test_a_catalog_that_can_not_make_and_fill_a_table_at_once_makes_it_first(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog(tmp_path)

    def refused(*_: Any, **__: Any) -> Any:
        raise ValueError("staged creation is not supported")

    monkeypatch.setattr(SqlCatalog, "create_table_transaction", refused)
    with pytest.raises(JobError, match="can't be made: staged creation is not supported"):
        run(job_into(tmp_path))
    job = job_into(tmp_path, output={"path": str(tmp_path / "out")})
    assert run(job).exit_code == 0
    assert (ids(tmp_path), versions(tmp_path)) == ([1, 2, 3], 1)
    assert run(job).state == "nothing to do"


def test_a_commit_keeps_all_of_the_tables_past_its_tags_and_its_branches(
    job: str, lake: Path, tmp_path: Path
) -> None:
    run(job)
    first = made(tmp_path).current_snapshot()
    made(tmp_path).manage_snapshots().create_tag(first.snapshot_id, "kept").commit()
    made(tmp_path).manage_snapshots().create_branch(first.snapshot_id, "theirs").commit()
    made(tmp_path).append(pa.table({"id": [9]}), branch="theirs")
    for number in (4, 5):
        write(lake, f"n{number}", number)
        write(lake, "a", 1, 10 * number)
        assert run(job).exit_code == 0
    table = made(tmp_path)
    assert ids(tmp_path) == [1, 3, 4, 5, 50]
    past = [entry.snapshot_id for entry in table.history()]
    assert past[0] == first.snapshot_id
    assert len(past) == 3
    assert len(table.metadata.snapshots) >= 4
    assert len(table.metadata.metadata_log) >= 5
    assert table.refs()["kept"].snapshot_id == first.snapshot_id
    kept = table.scan(snapshot_id=first.snapshot_id).to_arrow()["id"].to_pylist()
    assert sorted(kept) == [1, 2, 3]
    assert 9 in table.scan().use_ref("theirs").to_arrow()["id"].to_pylist()


def test_of_a_table_with_a_long_past_a_commit_reads_new_manifests_alone(
    job: str, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job)
    for number in range(6):
        made(tmp_path).append(pa.table({"id": [100 + number]}))
    output = sink_of(load_job(job)).table
    read: list[str] = []
    theirs = ManifestFile.fetch_manifest_entry

    def counted(self: Any, *some: Any, **named: Any) -> Any:
        read.append(self.manifest_path)
        return theirs(self, *some, **named)

    monkeypatch.setattr(ManifestFile, "fetch_manifest_entry", counted)
    assert len(output.look().entries) == 2
    assert len(read) == 7
    read.clear()
    assert len(output.look().entries) == 2
    assert read == []
    made(tmp_path).append(pa.table({"id": [200]}))
    assert len(output.look().entries) == 2
    assert len(read) == 1
    assert not pickle.loads(pickle.dumps(output)).read, "workers are not sent it"


def test_a_snapshot_is_made_each_time_so_many_splits_are_annotated(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog(tmp_path)
    for number in range(10, 13):
        write(lake, f"c{number}", number)
    job = job_into(tmp_path, output={"commit_every": 2})
    seen: list[int] = []
    monkeypatch.setattr(table_jobs, "step", lambda name: seen.append(len(ids(tmp_path))))
    assert run(job).exit_code == 0
    assert seen[0] == 0
    assert 0 < seen[1] < seen[3] < 6
    assert (ids(tmp_path), versions(tmp_path)) == ([1, 2, 3, 10, 11, 12], 3)
    assert len(added_once(tmp_path)) == 5
    assert run(job).state == "nothing to do"
    assert versions(tmp_path) == 3


def test_changed_inputs_are_replaced_in_the_snapshot_of_their_last_split(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog(tmp_path)
    job = job_into(tmp_path, output={"commit_every": 1})
    run(job)
    write(lake, "a", 1, 7)
    write(lake, "deep/b", 8, 9)
    seen: list[list[int]] = []
    monkeypatch.setattr(table_jobs, "step", lambda name: seen.append(ids(tmp_path)))
    assert run(job).exit_code == 0
    assert seen in ([[1, 3, 7], [1, 7, 8, 9]], [[1, 2, 8, 9], [1, 7, 8, 9]])
    added_once(tmp_path)
