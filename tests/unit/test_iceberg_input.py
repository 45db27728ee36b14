"""An Iceberg table as input: which rows are its, and what becomes of them night after night."""

import datetime
import json
import pickle
import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import table_jobs
from helpers import own
from iceberg_tables import TABLE, catalog, delete_rows, make, paths, rows, settings
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import DataFileContent
from pyiceberg.table import Table
from pyiceberg.transforms import BucketTransform, DayTransform, IdentityTransform
from pyiceberg.types import LongType
from table_jobs import fails, run, write_job

from pipeline.errors import JobError, SplitError
from pipeline.job.check import check
from pipeline.job.file import load_job
from pipeline.lake.iceberg import TableName
from pipeline.lake.source.choice import Choice
from pipeline.lake.source.open import open_table
from pipeline.lake.split import Split
from pipeline.planning import Choices
from pipeline.verify import verify_job

pytestmark = pytest.mark.unit


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Two snapshots of a file each."""
    return make(tmp_path, rows(1, 2, 3), rows(4, 5))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def job(table: Table, tmp_path: Path) -> str:
    return job_over(tmp_path)


def job_over(folder: Path, **sections: Any) -> str:
    """A job over the table into files."""
    part = {"path": None, "table": TABLE, "catalog": settings(folder)}
    return write_job(
        folder,
        input={**part, **sections.pop("input", {})},
        output={"format": "parquet", **sections.pop("output", {})},
        **sections,
    )


def annotated(out: Path) -> list[int]:
    return sorted(pads.dataset(out, format="parquet").to_table().column("id").to_pylist())


def read(
    folder: Path, columns: list[str] | None = None, *, filter: str | None = None, **how: Any
) -> pa.Table:
    """All that a source gives of the table, by another process."""
    source = open_table(TableName(TABLE, settings(folder)), choice=Choice(filter), **how)
    listing = source.listing()
    source = pickle.loads(pickle.dumps(source.settled(listing)))
    found = []
    for entry in listing.files:
        with closing(source.open(Split.of(entry, fingerprint=""))) as split:
            tables = [*split.batches(columns or split.schema.names)]
            assert split.filtered or sum(t.num_rows for t in tables) == split.rows
            found += tables or [split.schema.empty_table().select(columns or split.schema.names)]
    return pa.concat_tables(found)


def test_rows_of_the_latest_snapshot_are_read_whatever_files_lie_around(
    job: str, table: Table, out: Path
) -> None:
    table.delete("id = 2")
    pq.write_table(rows(99), f"{table.location()}/data/stray.parquet".removeprefix("file://"))
    summary = run(job)
    assert summary.exit_code == 0
    assert summary.input_version == table.current_snapshot().snapshot_id
    assert annotated(out) == [1, 3, 4, 5]
    assert verify_job(load_job(job)).problems == []
    (said,) = (own(out) / "runs").glob("*/summary.json")
    assert json.loads(said.read_text())["input"] == TABLE


def test_a_snapshot_is_read_by_its_id_or_by_time(
    job: str, table: Table, tmp_path: Path, out: Path
) -> None:
    first, second = table.snapshots()
    assert read(tmp_path, version=first.snapshot_id).column("id").to_pylist() == [1, 2, 3]
    moment = datetime.datetime.fromtimestamp(second.timestamp_ms / 1000, datetime.UTC)
    before = (moment - datetime.timedelta(milliseconds=1)).isoformat()
    assert read(tmp_path, version=before).num_rows == 3
    assert read(tmp_path, version=moment.isoformat()).num_rows == 5
    assert read(tmp_path, version="2999-01-01").num_rows == 5
    summary = run(job_over(tmp_path, input={"version": first.snapshot_id}))
    assert (summary.input_version, annotated(out)) == (first.snapshot_id, [1, 2, 3])


@pytest.mark.parametrize(
    ("version", "said"),
    [(7, "has no snapshot 7; it may have expired"), ("1999-01-01", "had no snapshot yet at 1999")],
)
def test_a_snapshot_that_is_not_there_is_refused_in_a_line(
    job: str, tmp_path: Path, version: int | str, said: str
) -> None:
    with pytest.raises(JobError, match=said) as caught:
        run(job_over(tmp_path, input={"version": version}))
    assert len(str(caught.value).splitlines()) == 1


def test_a_snapshot_that_has_expired_is_refused(job: str, table: Table, tmp_path: Path) -> None:
    first = table.snapshots()[0].snapshot_id
    table.maintenance.expire_snapshots().by_id(first).commit()
    with pytest.raises(JobError, match=f"has no snapshot {first}; it may have expired"):
        run(job_over(tmp_path, input={"version": first}))


def test_deleted_rows_are_not_read_and_all_others_are(
    job: str, table: Table, out: Path, tmp_path: Path
) -> None:
    first, second = paths(table)
    run(job)
    assert annotated(out) == [1, 2, 3, 4, 5]
    delete_rows(table, (first, 1))
    assert sorted(table.scan().to_arrow()["id"].to_pylist()) == [1, 3, 4, 5]
    assert sorted(read(tmp_path)["id"].to_pylist()) == [1, 3, 4, 5]
    summary = run(job)
    assert (summary.splits.done, summary.splits.done_before) == (1, 1)
    assert annotated(out) == [1, 3, 4, 5]
    # Rows of both files, in one delete file; and one that is deleted twice.
    delete_rows(table, (second, 0), (first, 2), (first, 1))
    assert run(job).splits.done == 2
    assert annotated(out) == [1, 5]
    assert verify_job(load_job(job)).problems == []
    delete_rows(table, (first, 0))
    run(job)
    assert annotated(out) == [5]
    assert table.scan().to_arrow()["id"].to_pylist() == read(tmp_path)["id"].to_pylist() == [5]


def test_deleted_rows_of_a_large_file_are_left_out_whichever_batch_they_are_in(
    tmp_path: Path,
) -> None:
    table = make(tmp_path, rows(*range(50_000)))
    gone = [0, 7, 8, 16_383, 16_384, 30_000, 49_999]
    delete_rows(table, *[(paths(table)[0], row) for row in gone])
    found = read(tmp_path, ["id"])
    assert found.column("id").to_pylist() == sorted({*range(50_000)} - {*gone})
    assert read(tmp_path, ["id"], filter="id < 10")["id"].to_pylist() == [1, 2, 3, 4, 5, 6, 9]


def test_columns_are_found_by_number_through_renames_drops_and_wider_types(
    tmp_path: Path, out: Path
) -> None:
    first = rows(
        1, 2,
        size=pa.array([5, None], pa.int32()),
        at=pa.array([{"x": 1, "y": 2}] * 2, pa.struct([("x", pa.int32()), ("y", pa.int32())])),
        old=["a", "b"],
    )  # fmt: skip
    table = make(tmp_path, first)
    with table.update_schema() as change:
        change.rename_column("text", "body")
        change.rename_column("at.x", "z")
        change.delete_column("old")
    with table.update_schema() as change:
        change.update_column("size", LongType())
        change.add_column("old", LongType())
        change.add_column("text", LongType())
    expected = table.scan().to_arrow().to_pylist()
    assert read(tmp_path).to_pylist() == expected
    assert expected[0] == {
        "id": 1, "body": "w1", "size": 5, "at": {"z": 1, "y": 2}, "old": None, "text": None,
    }  # fmt: skip
    assert read(tmp_path, ["text"]).to_pylist() == [{"text": None}] * 2
    job = job_over(tmp_path, input={"text": "body"})
    assert run(job).exit_code == 0
    found = pads.dataset(out, format="parquet").to_table()
    assert found.column("body").to_pylist() == ["w1", "w2"]
    # Readers would take the numbers that its columns had in the table for the columns' own.
    fields = [pq.read_schema(path) for path in out.rglob("*.parquet")]
    assert not [f for schema in fields for f in schema if f.metadata]
    # Then as the columns were.
    was = read(tmp_path, version=table.snapshots()[0].snapshot_id)
    assert was.schema.names == ["id", "text", "size", "at", "old"]


def test_null_and_nested_values_stay_what_they_are_whatever_is_renamed_within(
    tmp_path: Path,
) -> None:
    pair = pa.struct([("x", pa.int32()), ("y", pa.string())])
    content = rows(
        *range(5),
        some=pa.array([None, [], [None], [{"x": 1, "y": "a"}, None], [{"x": None, "y": "b"}]],
                      pa.list_(pair)),
        by=pa.array([None, [], [("k", None)], [("k", {"x": 1, "y": "a"})], None],
                    pa.map_(pa.string(), pair)),
        one=pa.array([None, {"x": None, "y": None}, {"x": 1, "y": "a"}, None, None], pair),
        deep=pa.array([None, [], [None], [[]], [[1, None]]], pa.list_(pa.list_(pa.int64()))),
    )  # fmt: skip
    # The library itself writes empty ones for lists and maps that are null.
    pq.write_table(content, tmp_path / "a.parquet")
    table = make(tmp_path, content.slice(0, 0))
    table.add_files([f"file://{tmp_path}/a.parquet"])
    assert read(tmp_path).to_pylist() == content.to_pylist()
    with table.update_schema() as change:
        change.rename_column("some.element.x", "u")
        change.delete_column("by.value.x")
        change.move_after("one.x", "one.y")
        change.add_column(("one", "z"), LongType())

    def now(row: dict[str, Any]) -> dict[str, Any]:
        some, by, one = row["some"], row["by"], row["one"]
        row["some"] = some and [e and {"u": e["x"], "y": e["y"]} for e in some]
        row["by"] = by and [(k, e and {"y": e["y"]}) for k, e in by]
        row["one"] = one and {"y": one["y"], "x": one["x"], "z": None}
        return row

    expected = [now(row) for row in content.to_pylist()]
    assert read(tmp_path).to_pylist() == expected
    assert read(tmp_path, filter="id >= 3").to_pylist() == expected[3:]


def test_files_that_others_wrote_are_read_by_the_names_of_their_columns(
    tmp_path: Path,
) -> None:
    table = make(tmp_path, rows(1))
    away = tmp_path / "away"
    away.mkdir()
    pq.write_table(rows(2, 3), away / "_a b%20é.parquet")
    table.add_files([f"file://{away}/_a b%20é.parquet"])
    source = open_table(TableName(TABLE, settings(tmp_path)), choice=Choice())
    listing = source.listing()
    assert {entry.path.split("/")[0] for entry in listing.files} == {"data", "elsewhere"}
    assert sorted(read(tmp_path)["id"].to_pylist()) == [1, 2, 3]
    out = tmp_path / "out"
    run(job_over(tmp_path))
    assert annotated(out) == [1, 2, 3]
    assert run(job_over(tmp_path)).state == "nothing to do"


def test_partitioned_tables_of_all_kinds_of_transforms_are_read(tmp_path: Path, out: Path) -> None:
    days = [datetime.date(2026, 1, 31), None, datetime.date(2026, 2, 1)]
    at = [datetime.datetime(2026, 1, 31, 12), datetime.datetime(2026, 2, 1), None]
    content = rows(1, 2, 3, day=days, at=at, word=["a b/%é", "x", None])
    identity = IdentityTransform()
    parts = {"day": identity, "at": DayTransform(), "word": identity, "id": BucketTransform(4)}
    make(tmp_path, content, parts=parts)
    found = read(tmp_path).sort_by("id")
    assert found.cast(content.schema).equals(content)
    assert run(job_over(tmp_path)).exit_code == 0
    result = pads.dataset(out, format="parquet").to_table().sort_by("id")
    for name in content.schema.names:
        assert result.column(name).to_pylist() == content.column(name).to_pylist()
    assert read(tmp_path, filter="day >= DATE '2026-02-01'")["id"].to_pylist() == [3]
    assert read(tmp_path, filter="word IS NULL")["id"].to_pylist() == [3]


@pytest.mark.parametrize(
    ("filter", "wanted", "opened"),
    [
        ("id >= 150", range(150, 200), 1),
        ("id < 20 OR id = 110", [*range(20), 110], 2),
        ("shop = 'b'", [*range(100, 200)], 1),
        ("day = DATE '2026-01-01' AND id > 97", [98, 99], 1),
        ("half > 98.5", [*range(198, 200)], 2),
    ],
)
def test_a_filter_opens_no_file_that_partitions_or_statistics_rule_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filter: str, wanted: Any, opened: int
) -> None:
    content = []
    for number, shop in enumerate("ab"):
        ids = range(100 * number, 100 * number + 100)
        days = [datetime.date(2026, 1, 1 + number)] * 100
        content.append(rows(*ids, day=days, shop=[shop] * 100, half=[i / 2 for i in ids]))
    make(tmp_path, *content, parts={"shop": IdentityTransform()})
    seen: list[str] = []
    new_input = PyArrowFileIO.new_input

    def counting(io: PyArrowFileIO, location: str) -> Any:
        seen.append(location)
        return new_input(io, location)

    monkeypatch.setattr(PyArrowFileIO, "new_input", counting)
    job = job_over(tmp_path, input={"filter": filter})
    run(job)
    assert annotated(tmp_path / "out") == [*wanted]
    assert len({path for path in seen if path.endswith(".parquet")}) == opened


def test_a_filter_that_rules_out_every_file_is_told(job: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="rules out all 2 files"):
        run(job_over(tmp_path, input={"filter": "id > 900"}))


def test_five_nights_of_appends_updates_deletes_and_overwrites_equal_one_run_over_the_last(
    job: str, table: Table, out: Path, tmp_path: Path
) -> None:
    assert run(job).splits.done == 2
    table.append(rows(6, 7))
    summary = run(job)
    assert (summary.splits.done, summary.splits.done_before) == (1, 2)
    # All rows of a file are written anew: the library deletes it in a snapshot of its own.
    table.upsert(rows(6, 7).set_column(1, "text", pa.array(["new", "newer"])), join_cols=["id"])
    summary = run(job)
    assert (summary.splits.done, summary.vanished_outputs) == (1, [])
    assert annotated(out) == [1, 2, 3, 4, 5, 6, 7]
    # Rows of some files, and nothing else, are deleted: that is said, and they stay.
    table.delete("id >= 4 and id <= 5")
    summary = run(job)
    assert (summary.state, len(summary.vanished_outputs)) == ("nothing to do", 1)
    assert annotated(out) == [1, 2, 3, 4, 5, 6, 7]
    run(job, Choices(prune=True))
    assert annotated(out) == [1, 2, 3, 6, 7]
    table.delete("id = 2")
    run(job)
    assert annotated(out) == [1, 3, 6, 7]
    table.overwrite(rows(8, 9, 10))
    assert run(job).splits.done == 1
    assert annotated(out) == [8, 9, 10]

    full = job_over(tmp_path, output={"path": str(tmp_path / "full")})
    run(full)
    expected = pads.dataset(tmp_path / "full", format="parquet").to_table().sort_by("id")
    found = pads.dataset(out, format="parquet").to_table().sort_by("id")
    assert found.equals(expected)


def test_what_is_rewritten_stays_until_all_of_it_is_annotated(
    job: str, table: Table, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job)
    table.overwrite(table.scan().to_arrow())
    monkeypatch.setattr(table_jobs, "fails", lambda split: True)
    assert run(job).exit_code == 1
    assert annotated(out) == [1, 2, 3, 4, 5]
    monkeypatch.setattr(table_jobs, "fails", fails)
    assert run(job).exit_code == 0
    assert annotated(out) == [1, 2, 3, 4, 5]
    assert len([*out.rglob("*.parquet")]) == 1


def test_of_files_whose_end_the_snapshots_have_forgotten_the_output_goes(
    job: str, table: Table, out: Path
) -> None:
    run(job)
    table.delete("id >= 4")
    table.append(rows(6))
    old = [s.snapshot_id for s in table.snapshots()][:-1]
    table.maintenance.expire_snapshots().by_ids(old).commit()
    assert run(job).vanished_outputs == []
    assert annotated(out) == [1, 2, 3, 6]


def test_a_run_reads_the_snapshot_that_it_has_listed_whatever_comes_meanwhile(
    job: str, table: Table, tmp_path: Path
) -> None:
    version = table.current_snapshot().snapshot_id
    checked = check(load_job(job))
    table.append(rows(6))
    table.delete("id = 1")
    (tmp_path / "catalog.db").rename(tmp_path / "away.db")
    source = pickle.loads(pickle.dumps(checked.source))
    assert source.version == version
    for entry in checked.listing.files:
        assert source.entry(entry.path) == entry
        with closing(source.open(Split.of(entry, fingerprint=""))) as split:
            assert split.rows in (2, 3)


def test_a_data_file_that_is_gone_fails_alone(
    job: str, table: Table, out: Path, tmp_path: Path
) -> None:
    source = open_table(TableName(TABLE, settings(tmp_path)), choice=Choice())
    source = source.settled(source.listing())
    first = paths(table)[0]
    Path(first.removeprefix("file://")).unlink()
    (entry,) = [e for e in source.listing().files if source.where(e.path) == first]
    with pytest.raises(SplitError, match="is not there any more"):
        source.open(Split.of(entry, fingerprint=""))


def test_equality_deletes_are_refused_by_name(job: str, table: Table) -> None:
    delete_rows(table, (paths(table)[0], 1), content=DataFileContent.EQUALITY_DELETES)
    with pytest.raises(JobError, match="equality deletes") as caught:
        run(job)
    assert len(str(caught.value).splitlines()) == 1


def test_a_later_format_is_refused_by_its_version(job: str, table: Table, tmp_path: Path) -> None:
    (path,) = Path(table.metadata_location.removeprefix("file://")).parent.glob("00002-*.json")
    said = json.loads(path.read_text())
    said |= {"format-version": 3, "next-row-id": 9}
    path.write_text(json.dumps(said))
    with pytest.raises(JobError, match="is of format version 3; versions up to 2 are read"):
        run(job)


def test_a_table_without_a_snapshot_or_without_rows_is_told(tmp_path: Path) -> None:
    table = catalog(tmp_path).create_table(TABLE, schema=rows(1).schema)
    with pytest.raises(JobError, match="has no snapshot yet"):
        run(job_over(tmp_path))
    table.append(rows(1))
    table.delete("id = 1")
    with pytest.raises(JobError, match="has no rows"):
        run(job_over(tmp_path))


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"table": "db.nothing"}, "the catalog has no Iceberg table db.nothing"),
        ({"table": "nowhere.reviews"}, "the catalog has no Iceberg table nowhere.reviews"),
        ({"catalog": {"type": "sql", "uri": "sqlite:////nowhere/c.db"}}, "can't be opened"),
        ({"catalog": {"type": "rest", "uri": "http://127.0.0.1:9"}}, "can't be opened"),
        ({"catalog": {"type": "abacus"}}, "can't be opened: .*abacus"),
        ({"catalog": {"type": "sql"}}, "can't be opened: .*uri"),
        ({"catalog": {"type": "hive", "uri": "thrift://x"}}, "needs a package that is not inst"),
        ({"catalog": {"type": "sql", "uri": "postgresql://host/db"}}, "needs a package .* Install"),
        ({"catalog": {"uri": "${env:NOT_THERE}"}}, "names the environment's NOT_THERE, which"),
        ({"partitions": {"day": "date"}}, "is an Iceberg table, which knows the types"),
    ],
)
def test_a_table_or_catalog_that_can_not_be_had_is_told_in_a_line(
    job: str, tmp_path: Path, part: dict[str, Any], said: str
) -> None:
    with pytest.raises(JobError, match=said) as caught:
        run(job_over(tmp_path, input=part))
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"table": "reviews"}, "input.table.*namespace.table"),
        ({"path": "lake"}, "input.table.*stands beside `path`"),
        ({"table": None, "path": "lake"}, "input.catalog.*is of a table"),
        ({"table": None, "catalog": {}}, "input.path.*is missing"),
        ({"catalog": {"s3.secret-access-key": "abc"}}, r"holds a secret: write \${env:NAME}"),
        ({"catalog": {"uri": "postgresql://me:abc@host/db"}}, r"holds a secret"),
        ({"catalog": {"py-catalog-impl": "os.path"}}, "would load code of its own"),
        ({"catalog": "prod"}, "input.catalog.* must be a mapping"),
        ({"catalog": {"uri": [1]}}, "input.catalog.uri.* must be text"),
    ],
)
def test_what_is_no_table_or_catalog_is_told_with_the_field(
    tmp_path: Path, part: dict[str, Any], said: str
) -> None:
    with pytest.raises(JobError, match=said) as caught:
        load_job(job_over(tmp_path, input=part))
    assert "abc" not in str(caught.value)


def test_secrets_come_from_the_environment_and_are_in_no_message_and_no_record(
    job: str, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATALOG_FILE", f"{tmp_path}/catalog.db")
    monkeypatch.setenv("CATALOG_TOKEN", "hushhush")
    part = {**settings(tmp_path), "uri": "sqlite:///${env:CATALOG_FILE}"}
    part["token"] = "${env:CATALOG_TOKEN}"
    assert run(job_over(tmp_path, input={"catalog": part})).exit_code == 0
    kept = [path.read_bytes() for path in [*own(out).rglob("*"), *out.rglob("*")] if path.is_file()]
    assert kept
    assert not [content for content in kept if b"hushhush" in content]
    part["uri"] = "hushhush://x"
    with pytest.raises(JobError, match="env:CATALOG_TOKEN") as caught:
        run(job_over(tmp_path, input={"catalog": part}))
    assert "hushhush" not in str(caught.value)


def test_an_output_inside_the_table_s_place_is_refused(
    job: str, table: Table, tmp_path: Path
) -> None:
    place = table.location().removeprefix("file://")
    for path in (f"{place}/data/more", str(Path(place).parent)):
        with pytest.raises(JobError, match="are inside each other"):
            run(job_over(tmp_path, output={"path": path}))


def test_without_the_extra_a_table_is_refused_with_what_to_install(
    job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyiceberg", None)
    with pytest.raises(JobError, match=r"pip install 'shardscribe\[iceberg\]'"):
        run(job)


def test_a_table_that_was_moved_with_its_rows_is_annotated_anew(
    job: str, table: Table, tmp_path: Path, out: Path
) -> None:
    run(job)
    content = table.scan().to_arrow()
    catalog(tmp_path).drop_table(TABLE)
    shutil.rmtree(table.location().removeprefix("file://"))
    make(tmp_path, content)
    run(job)
    assert annotated(out) == [1, 2, 3, 4, 5]
