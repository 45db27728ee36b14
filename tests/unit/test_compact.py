"""`compact`: many small files into few, and every verb knows what is done as before."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from compact_jobs import cli, compact, files, holds, lake_of, parquet_job, scratch, shown
from helpers import own
from table_jobs import run, write

from pipeline.engine.driver.lease import Lease
from pipeline.lake.sink.open import open_sink
from pipeline.lake.store.local import LocalStore
from pipeline.planning import Choices

pytestmark = pytest.mark.unit


@pytest.fixture
def ids(tmp_path: Path) -> list[int]:
    return lake_of(tmp_path)


@pytest.fixture
def job(tmp_path: Path, ids: list[int]) -> str:
    job = parquet_job(tmp_path)
    assert run(job).state == "done"
    return job


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_small_files_are_one_a_partition_and_every_verb_knows_what_is_done(
    job: str, out: Path, ids: list[int]
) -> None:
    before = pads.dataset(out, partitioning="hive").to_table().sort_by("id")
    assert compact(out) == {"before": 6, "after": 2, "written": 2, "rows": 18, "left": {}}
    assert [path.split("/")[0] for path in files(out)] == ["day=0", "day=1"]
    holds(job, out, ids)
    assert run(job).state == "nothing to do"
    assert pads.dataset(out, partitioning="hive").to_table().sort_by("id").equals(before)
    assert compact(out)["written"] == 0
    assert scratch(out) == []


def test_files_of_a_later_night_are_merged_with_those_before(
    job: str, out: Path, tmp_path: Path, ids: list[int]
) -> None:
    compact(job)
    write(tmp_path / "lake/day=0", "g", 7000)
    assert run(job).splits.done == 1
    assert compact(out)["after"] == 2
    holds(job, out, sorted([*ids, 7000]), splits=7)
    assert run(job).state == "nothing to do"


def test_a_file_is_as_large_as_asked_for_and_larger_ones_stay(job: str, out: Path) -> None:
    size = max((out / path).stat().st_size for path in files(out))
    assert compact(out, "--file-size", str(size))["written"] == 0
    assert compact(out, "--file-size", str(2 * size + 100))["after"] == 4


def test_a_source_file_that_changes_replaces_its_rows_alone(
    job: str, out: Path, tmp_path: Path, ids: list[int]
) -> None:
    compact(out)
    kept = next(path for path in files(out) if path.startswith("day=1"))
    write(tmp_path / "lake/day=0", "f2", 5000, 5001)
    summary = run(job)
    assert (summary.splits.done, summary.splits.done_before) == (1, 5)
    now = sorted([*(i for i in ids if i // 100 != 2), 5000, 5001])
    assert shown(out) == now
    assert sorted(pads.dataset(out).to_table()["id"].to_pylist()) == now
    assert kept in files(out)
    holds(job, out, now)
    compact(out)
    assert len(files(out)) == 2
    holds(job, out, now)


def test_a_source_file_that_is_gone_stays_until_it_is_pruned(
    job: str, out: Path, tmp_path: Path, ids: list[int]
) -> None:
    compact(out)
    (tmp_path / "lake/day=0/f0.parquet").unlink()
    run(job)
    assert shown(out) == ids
    run(job, Choices(prune=True))
    assert shown(out) == [i for i in ids if i >= 100]
    for number in (2, 4):
        (tmp_path / f"lake/day=0/f{number}.parquet").unlink()
    run(job, Choices(prune=True))
    assert [path.split("/")[0] for path in files(out)] == ["day=1"]


def test_another_job_replaces_all_with_supersede_and_is_refused_without(
    job: str, out: Path, tmp_path: Path, ids: list[int]
) -> None:
    compact(out)
    model = str(tmp_path / "model")
    task = {"kind": "classify", "model": model, "top_k": 1}
    other = parquet_job(tmp_path, tasks={"mood": task})
    assert "add --supersede" in cli("run", other, code=2).output
    run(other, Choices(supersede=True))
    assert shown(out) == ids
    assert len(files(out)) == 6


def test_a_split_that_is_annotated_again_counts_by_its_new_file(
    job: str, out: Path, tmp_path: Path, ids: list[int]
) -> None:
    small = next(path for path in files(out) if "f2-" in path)
    before = (out / small).read_bytes()
    compact(out)
    # As `retry` does: in the place of the split's own file.
    table = pq.read_table(out / next(path for path in files(out) if "day=0" in path))
    assert table.num_rows == 9
    (out / small).write_bytes(before)
    with (out / small).open("ab"):
        pass
    holds(job, out, ids)
    sink = open_sink(str(out))
    sink.present()
    sink.finish("r", wanted=(), guard=lambda: None)
    assert small not in files(out)
    holds(job, out, ids)


def test_what_was_annotated_again_since_is_not_taken_for_what_was_merged(
    job: str, out: Path, ids: list[int]
) -> None:
    small = next(path for path in files(out) if "f2-" in path)
    merged_of = pq.ParquetFile(out / small)
    compact(out)
    with pq.ParquetWriter(out / small, merged_of.schema_arrow) as writer:
        writer.write_table(merged_of.read())
        writer.add_key_value_metadata({b"shardscribe": merged_of.metadata.metadata[b"shardscribe"]})
    assert shown(out) == ids
    assert run(job).state == "nothing to do"
    assert small in files(out)
    assert len(files(out)) == 3
    assert sorted(pads.dataset(out).to_table()["id"].to_pylist()) == ids


def test_a_merged_file_that_is_damaged_is_found_and_its_splits_are_annotated_anew(
    job: str, out: Path, ids: list[int]
) -> None:
    compact(out)
    merged = out / files(out)[0]
    raw = bytearray(merged.read_bytes())
    raw[40] ^= 1
    merged.write_bytes(raw)
    assert "3 " in cli("verify", job, code=1).output
    run(job, Choices(retry_damaged=True))
    holds(job, out, ids)
    assert sorted(pads.dataset(out).to_table()["id"].to_pylist()) == ids


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_merged_file_that_is_cut_short_is_annotated_anew_by_the_next_run(
    job: str, out: Path, ids: list[int], keep: int
) -> None:
    compact(out)
    merged = out / files(out)[0]
    merged.write_bytes(merged.read_bytes()[:keep])
    assert json.loads(cli("status", job, "--json").stdout)["left"] == 3
    cli("verify", job, code=1)
    assert run(job).splits.done == 3
    holds(job, out, ids)
    assert not merged.exists()


def test_a_damaged_small_file_stays_as_it_is_and_is_named(job: str, out: Path) -> None:
    small = files(out)[0]
    (out / small).write_bytes((out / small).read_bytes()[:-30])
    found = compact(out, code=1)
    assert [*found["left"]] == [small]
    assert found["after"] == 3


def test_a_flipped_bit_in_a_small_file_is_not_merged(job: str, out: Path) -> None:
    small = out / files(out)[0]
    raw = bytearray(small.read_bytes())
    raw[40] ^= 1
    small.write_bytes(raw)
    found = compact(out, code=1)
    assert "damaged" in str(found["left"])
    assert small.exists()
    assert scratch(out) == []


def test_a_run_that_holds_the_output_keeps_it_out(job: str, out: Path) -> None:
    sink = open_sink(str(out))
    with Lease(sink.own, "another", output=sink.address):
        assert "holds the output" in cli("compact", out, code=4).output
    assert len(files(out)) == 6


def test_files_of_other_columns_are_merged_apart(
    job: str, out: Path, tmp_path: Path, ids: list[int]
) -> None:
    for name, first in (("x", 8000), ("y", 8010)):
        write(tmp_path / "lake/day=0", name, first, first + 1, more=pa.array([1.0, None]))
    run(job)
    compact(out)
    assert len(files(out)) == 3
    holds(job, out, sorted([*ids, 8000, 8001, 8010, 8011]), splits=8)


def test_what_is_no_output_is_refused(tmp_path: Path, job: str, out: Path) -> None:
    assert "no annotated files" in cli("compact", tmp_path / "none", code=2).output
    pq.write_table(pa.table({"a": [1]}), out / "foreign.parquet")
    assert "did not write" in cli("compact", out, code=2).output
    (tmp_path / "table/_delta_log").mkdir(parents=True)
    assert "OPTIMIZE" in cli("compact", tmp_path / "table", code=2).output
    assert "no size" in cli("compact", out, "--file-size", "large", code=2).output


def test_the_files_of_a_table_are_left_to_the_table_wherever_it_is_known(
    job: str, out: Path, tmp_path: Path
) -> None:
    # As an Iceberg table has them, whose log is elsewhere.
    (own(out) / "table/20261201T000000Z-abcdef").mkdir(parents=True)
    assert "holds the files of an Iceberg table" in cli("compact", out, code=2).output
    table = parquet_job(tmp_path, output={"format": "delta"})
    assert "output.format is delta" in cli("compact", table, code=2).output
    assert len(files(out)) == 6


def test_files_without_rows_and_of_many_row_groups_are_merged(tmp_path: Path, out: Path) -> None:
    write(tmp_path / "lake", "none")
    pq.write_table(
        pa.table({"id": pa.array([], pa.int64()), "text": pa.array([], pa.string())}),
        tmp_path / "lake/none.parquet",
    )
    pq.write_table(
        pa.table({"id": list(range(40)), "text": ["w"] * 40}),
        tmp_path / "lake/many.parquet",
        row_group_size=3,
    )
    job = parquet_job(tmp_path)
    run(job)
    assert compact(out)["after"] == 1
    holds(job, out, list(range(40)), splits=2)


def test_a_name_that_is_no_utf_8_is_merged_too(tmp_path: Path, out: Path) -> None:
    (tmp_path / "lake").mkdir()
    raw = pa.table({"id": [1], "text": ["a"]})
    pq.write_table(raw, tmp_path / "lake/a.parquet")
    (tmp_path / "lake/a.parquet").rename(os.fsdecode(os.fsencode(tmp_path) + b"/lake/\xff.parquet"))
    pq.write_table(raw.set_column(0, "id", [[2]]), tmp_path / "lake/b.parquet")
    job = parquet_job(tmp_path)
    done = run(job).splits.done
    compact(out)
    assert run(job).splits.done_before == done


def test_a_merged_file_that_can_not_be_got_at_is_no_reason_to_annotate_again(
    job: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compact(out)

    def away(store: LocalStore, path: str) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(LocalStore, "open", away)
    assert "can't be read" in cli("status", job, code=2).output


def test_a_full_run_over_a_merged_file_leaves_each_row_once(
    job: str, out: Path, ids: list[int]
) -> None:
    compact(out)
    assert run(job, Choices(full=True)).splits.done == 6
    holds(job, out, ids)
    assert sorted(pads.dataset(out).to_table()["id"].to_pylist()) == ids
