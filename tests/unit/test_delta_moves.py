"""Rows of a Delta table that another program has only moved are not annotated again."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from deltalake import DeltaTable, write_deltalake
from table_jobs import delete_by_vector, ids, log, run, write_job

from pipeline.job.file import load_job
from pipeline.planning import Choices
from pipeline.status import output_status
from pipeline.verify import verify_job

pytestmark = pytest.mark.unit


def rows(*numbers: int, **columns: Any) -> pa.Table:
    return pa.table({"id": list(numbers), "text": [f"w{n}" for n in numbers], **columns})


def append(table: Path, *numbers: int, **columns: Any) -> None:
    write_deltalake(table, rows(*numbers, **columns), mode="append", schema_mode="merge")


def optimize(table: Path) -> None:
    assert DeltaTable(table).optimize.compact()["numFilesAdded"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "lake"
    write_deltalake(path, rows(1, 2), configuration={"delta.enableDeletionVectors": "true"})
    append(path, 3)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def job(table: Path, tmp_path: Path) -> str:
    job = write_job(tmp_path, output={"format": "parquet"})
    assert run(job).splits.done == 2
    return job


def annotated(out: Path) -> list[int]:
    return sorted(pads.dataset(out, format="parquet").to_table().column("id").to_pylist())


def in_line(job: str, out: Path, wanted: list[int]) -> None:
    """Nothing is left, all is right, and each row is there once."""
    assert run(job).state == "nothing to do"
    assert annotated(out) == wanted
    status = output_status(str(out), job=load_job(job))
    assert (status.left, status.rows.rows) == (0, len(wanted))
    assert verify_job(load_job(job)).problems == []


def test_a_compaction_leaves_nothing_to_do_and_verify_still_compares(
    job: str, table: Path, out: Path
) -> None:
    optimize(table)
    in_line(job, out, [1, 2, 3])
    verdict = verify_job(load_job(job))
    assert (verdict.splits, verdict.rows, verdict.merged) == (2, 3, 0)


def test_what_came_before_the_compaction_and_after_the_last_night_is_annotated_alone(
    job: str, table: Path, out: Path
) -> None:
    append(table, 4, 5)
    optimize(table)
    append(table, 6)
    summary = run(job)
    assert (summary.splits.done, summary.splits.done_before, summary.rows.rows) == (2, 2, 3)
    in_line(job, out, [1, 2, 3, 4, 5, 6])


def test_several_compactions_in_one_another_are_gone_back_over(
    job: str, table: Path, out: Path
) -> None:
    optimize(table)
    append(table, 4)
    optimize(table)
    append(table, 5)
    optimize(table)
    assert run(job).rows.rows == 2
    in_line(job, out, [1, 2, 3, 4, 5])
    append(table, 6)
    optimize(table)
    assert run(job).rows.rows == 1
    in_line(job, out, [1, 2, 3, 4, 5, 6])


def test_rows_that_change_in_a_compacted_file_are_annotated_with_the_rest_of_it(
    job: str, table: Path, out: Path
) -> None:
    optimize(table)
    DeltaTable(table).update(updates={"text": "'new'"}, predicate="id = 2")
    assert run(job).rows.rows == 3
    in_line(job, out, [1, 2, 3])
    assert sorted(pads.dataset(out).to_table()["text"].to_pylist()) == ["new", "w1", "w3"]


def test_rows_deleted_before_the_compaction_or_after_it_are_not_there(
    job: str, table: Path, out: Path
) -> None:
    first = next(a["add"]["path"] for a in log(table) if "add" in a)
    delete_by_vector(table, first, 0)
    assert run(job).rows.rows == 1
    append(table, 4)
    optimize(table)
    assert run(job).rows.rows == 1
    in_line(job, out, [2, 3, 4])
    now = [a["add"]["path"] for a in log(table) if "add" in a][-1]
    delete_by_vector(table, now, 0)
    assert run(job).rows.rows == 2
    assert len(annotated(out)) == 2


def test_files_that_are_vacuumed_stay_done_and_can_not_be_compared(
    job: str, table: Path, out: Path
) -> None:
    optimize(table)
    DeltaTable(table).vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert run(job).state == "nothing to do"
    verdict = verify_job(load_job(job))
    assert (verdict.problems, verdict.merged, verdict.splits) == ([], 2, 0)
    append(table, 4)
    assert run(job).rows.rows == 1
    assert annotated(out) == [1, 2, 3, 4]


def test_where_what_was_not_annotated_is_vacuumed_the_compacted_file_is_annotated(
    job: str, table: Path, out: Path
) -> None:
    append(table, 4)
    optimize(table)
    DeltaTable(table).vacuum(0, dry_run=False, enforce_retention_duration=False)
    summary = run(job)
    assert (summary.splits.done, summary.rows.rows) == (1, 4)
    in_line(job, out, [1, 2, 3, 4])


def test_a_log_that_is_forgotten_has_the_compacted_file_annotated(
    job: str, table: Path, out: Path
) -> None:
    optimize(table)
    DeltaTable(table).create_checkpoint()
    for path in (table / "_delta_log").glob("*.json"):
        path.unlink()
    assert run(job).rows.rows == 3
    in_line(job, out, [1, 2, 3])


def test_an_output_of_which_a_file_is_lost_has_that_file_annotated_again(
    job: str, table: Path, out: Path
) -> None:
    optimize(table)
    min(out.glob("*.parquet")).unlink()
    assert run(job).splits.done == 1
    in_line(job, out, [1, 2, 3])


def test_a_new_column_has_all_annotated_that_was_moved_before_it(
    job: str, table: Path, out: Path
) -> None:
    optimize(table)
    append(table, 4, more=["x"])
    assert run(job).rows.rows == 4
    assert annotated(out) == [1, 2, 3, 4]


def test_files_and_rows_as_keys_are_those_of_the_table_as_it_is(
    table: Path, tmp_path: Path, out: Path
) -> None:
    job = write_job(tmp_path, output={"format": "parquet", "columns": "annotations"})
    run(job)
    optimize(table)
    assert run(job).splits.done == 1
    named = {*pads.dataset(out).to_table()["source_file"].to_pylist()}
    assert len(named) == 1
    assert (table / named.pop()).name in str(DeltaTable(table).file_uris())


def test_from_table_to_table_a_compaction_of_the_input_makes_no_transaction(
    table: Path, tmp_path: Path, out: Path
) -> None:
    job = write_job(tmp_path)
    run(job)
    optimize(table)
    append(table, 4)
    run(job)
    assert (ids(out), DeltaTable(out).version()) == ([1, 2, 3, 4], 1)


def test_a_retry_of_moved_rows_reads_what_held_them(job: str, table: Path, out: Path) -> None:
    optimize(table)
    damaged = min(out.glob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert run(job, Choices(retry_damaged=True)).splits.done == 1
    in_line(job, out, [1, 2, 3])
