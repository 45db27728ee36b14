"""The same job night after night: files come, change and go; what is annotated stays annotated."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import own, rows_of

from pipeline.errors import JobError
from pipeline.job.job import Job
from pipeline.lake.sink.footers import read_footer
from pipeline.lake.split import Cut
from pipeline.lake.store.open import open_store
from pipeline.planning import Choices
from pipeline.run import run_job
from pipeline.status import output_status
from pipeline.verify import verify_job

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]

ROWS = 4


@pytest.fixture
def model(tiny_model) -> str:
    return str(tiny_model)


@pytest.fixture
def lake(tmp_path) -> Path:
    return tmp_path / "lake"


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "annotated"


@pytest.fixture
def job(make_job, model, lake):
    """Makes the nightly job, with other options if asked."""

    def make(*, limits: dict | None = None, **options: Any):
        return make_job(
            lake,
            tasks={"sentiment": {"kind": "classify", "model": model, **options}},
            compute={"workers": 1, "cpus_per_worker": 1},
            limits=limits or {},
        )

    return make


def write(lake: Path, name: str, *texts: Any, **options: Any) -> None:
    """A file whose rows carry its name, and a column of each kind that is hard to compare."""
    texts = texts or tuple(f"w{number} of {name}" for number in range(ROWS))
    rows = len(texts)
    (lake / name).parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "id": [f"{name}/{row}" for row in range(rows)],
            "text": pa.array(texts, pa.string()),
            "price": pa.array([float("nan"), None, -0.0, 1e300] * rows, pa.float64())[:rows],
            "shop": pa.array([f"shop {row % 2}" for row in range(rows)]).dictionary_encode(),
            "tags": [[{"tag": "a", "weight": float("nan")}, None]] * rows,
        }
    )
    pq.write_table(table, lake / name, **options)


def outputs(out: Path) -> dict[str, int]:
    """Output files with their times of modification."""
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("*.parquet")}


def inputs_of(out: Path) -> list[str]:
    store = open_store(str(out))
    return sorted(read_footer(store, path)["input"] for path in outputs(out))


def test_new_and_changed_files_are_annotated_and_what_is_gone_is_reported_and_pruned(
    job, lake, out, display
):
    for number in range(4):
        write(lake, f"day={number}/part.parquet")
    summary = run_job(job(), display=display)
    assert (summary.exit_code, summary.splits.done, summary.rows.rows) == (0, 4, 4 * ROWS)
    first = outputs(out)

    for number in range(4, 7):
        write(lake, f"day={number}/part.parquet")
    write(lake, "day=1/part.parquet", "w1 w2", "w3")
    (lake / "day=2/part.parquet").unlink()
    display.notices.clear()
    summary = run_job(job(), display=display)
    assert (summary.state, summary.exit_code) == ("done", 0)
    assert (summary.splits.total, summary.splits.done, summary.splits.done_before) == (6, 4, 2)
    assert summary.rows.rows == 3 * ROWS + 2
    (gone,) = (name for name in first if name.startswith("day=2/"))
    assert summary.vanished_outputs == [gone]
    notice, told = display.notices
    assert " in 4 splits of up to " in told
    assert "1 output files, whose input is gone, stay: --prune removes them" in notice
    assert gone in notice
    second = outputs(out)
    assert inputs_of(out) == [f"day={number}/part.parquet" for number in range(7)]
    untouched = [name for name in first if name.startswith(("day=0/", "day=2/", "day=3/"))]
    assert {name: second[name] for name in untouched} == {name: first[name] for name in untouched}
    (old,) = (name for name in first if name.startswith("day=1/"))
    assert old not in second, "the changed input's old output is gone"
    texts = [row["text"] for row in rows_of(out) if row["id"].startswith("day=1/")]
    assert texts == ["w1 w2", "w3"]

    display.phases.clear()
    summary = run_job(job(), display=display)
    assert (summary.state, summary.exit_code, summary.workers) == ("nothing to do", 0, 0)
    assert summary.vanished_outputs == [gone]
    assert display.phases == [], "no worker was started"
    assert outputs(out) == second

    display.notices.clear()
    summary = run_job(job(), display=display, choices=Choices(prune=True))
    assert (summary.state, summary.exit_code) == ("nothing to do", 0)
    assert summary.vanished_outputs == [gone]
    assert "were removed" in display.notices[0]
    del second[gone]
    assert outputs(out) == second

    summary = run_job(job(), display=display)
    assert (summary.exit_code, summary.vanished_outputs) == (0, [])
    verdict = verify_job(job())
    assert (verdict.problems, verdict.splits) == ([], 6)


def test_a_job_of_other_options_is_refused_until_it_may_supersede_and_can_be_interrupted(
    job, lake, out, display
):
    for number in range(10):
        write(lake, f"part-{number}.parquet")
    run_job(job(), display=display)
    first = outputs(out)

    for _ in range(2):
        with pytest.raises(JobError) as caught:
            run_job(job(top_k=1), display=display)
        assert "tasks.sentiment.top_k was not set, is 1" in str(caught.value)
        assert "--supersede" in str(caught.value)
        assert caught.value.exit_code == 2
    assert outputs(out) == first

    summary = run_job(
        job(top_k=1),
        display=display,
        choices=Choices(supersede=True),
        stop=lambda: int(len(outputs(out).keys() - first.keys()) >= 2),
    )
    assert (summary.state, summary.exit_code) == ("interrupted", 3)
    done = summary.splits.done
    assert 2 <= done < 10
    assert summary.splits.left == 10 - done
    half = outputs(out)
    assert len(half) == 10, "each input has one file: the old one, or the new one"
    assert len(half.keys() - first.keys()) == done
    assert inputs_of(out) == [f"part-{number}.parquet" for number in range(10)]

    for refused in (job(top_k=1), job()):
        with pytest.raises(JobError, match=r"tasks\.sentiment\.top_k was"):
            run_job(refused, display=display)

    summary = run_job(job(top_k=1), display=display, choices=Choices(supersede=True))
    assert (summary.state, summary.exit_code) == ("done", 0)
    assert (summary.splits.done, summary.splits.done_before) == (10 - done, done)
    last = outputs(out)
    assert not last.keys() & first.keys()
    assert {name: last[name] for name in half.keys() & last.keys()} == {
        name: half[name] for name in half.keys() - first.keys()
    }
    rows = rows_of(out)
    assert len(rows) == 10 * ROWS
    assert all(len(row["sentiment"]["scores"]) == 1 for row in rows)
    assert run_job(job(top_k=1), display=display).state == "nothing to do"


def test_a_file_with_bad_rows_is_annotated_again_in_its_place_and_no_other_is_touched(
    job, lake, out, display, model
):
    write(lake, "good.parquet")
    write(lake, "bad.parquet", "w1", "w2 poison", None, "w3")
    allowed = {"bad_rows": 1}
    summary = run_job(job(limits=allowed), display=display)
    assert (summary.exit_code, summary.rows.bad, summary.rows.skipped) == (0, 1, 1)
    first = outputs(out)
    assert run_job(job(limits=allowed), display=display).state == "nothing to do"

    before = rows_of(out)
    summary = run_job(job(limits=allowed), display=display, choices=Choices(retry_bad_rows=True))
    assert (summary.exit_code, summary.splits.done, summary.splits.done_before) == (0, 1, 1)
    assert (summary.rows.rows, summary.rows.annotated, summary.rows.bad) == (4, 2, 1)
    second = outputs(out)
    assert second.keys() == first.keys()
    changed = [name for name in first if first[name] != second[name]]
    (name,) = changed
    assert name.startswith("bad-all-")
    rows = rows_of(out)
    assert str(rows) == str(before)
    (error,) = next(row["errors"] for row in rows if row["errors"])
    assert (error["task"], error["code"]) == ("sentiment", "model_error")
    assert rows[1]["text"] == "w2 poison"
    assert rows[1]["sentiment"] is None
    assert [row["id"] for row in rows if row["sentiment"]] == [
        "bad.parquet/0", "bad.parquet/3", *(f"good.parquet/{row}" for row in range(ROWS)),
    ]  # fmt: skip
    assert not list((own(out) / "scratch").iterdir())


def test_a_bad_file_that_was_mended_is_one_changed_file_to_a_retry(job, lake, out, display):
    write(lake, "good.parquet")
    write(lake, "bad.parquet", "w1", "w2 poison")
    allowed = {"bad_rows": 1}
    run_job(job(limits=allowed), display=display)
    write(lake, "bad.parquet", "w1", "w2 mended")
    summary = run_job(job(limits=allowed), display=display, choices=Choices(retry_bad_rows=True))
    assert (summary.splits.done, summary.splits.done_before, summary.rows.bad) == (1, 1, 0)
    assert len(outputs(out)) == 2
    assert all(row["sentiment"] and row["errors"] is None for row in rows_of(out))


def rewrite(path: Path, change: Any) -> None:
    """Writes an output file again with other rows and the same footer."""
    file = pq.ParquetFile(path)
    footer = {key: file.metadata.metadata[key] for key in (b"shardscribe",)}
    table = change(file.read()).replace_schema_metadata()
    file.close()
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(footer)


def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, name, pa.array(values, table.schema.field(name).type))


def test_status_counts_and_verify_finds_what_is_missing_extra_or_changed(job, lake, out, display):
    for number in range(3):
        write(lake, f"part-{number}.parquet")
    write(lake, "part-3.parquet", "w1", None, "w2 poison", " ")
    write(lake, "part-4.parquet", *[f"w{n % 9}" for n in range(100)], row_group_size=7)
    this = job(limits={"bad_rows": 1})
    summary = run_job(this, display=display)
    assert summary.exit_code == 0
    (lake / "part-5.parquet").write_bytes((lake / "part-0.parquet").read_bytes())
    status = output_status(str(out), job=this)
    assert (status.files, status.total, status.left) == (5, 6, 1)
    assert status.rows.said == {"rows": 116, "annotated": 113, "bad": 1, "skipped": 2}
    assert status.bytes == sum((out / name).stat().st_size for name in outputs(out))
    assert [run.run for run in status.runs] == [summary.run]
    (lake / "part-5.parquet").unlink()
    assert output_status(str(out)).left is None

    verdict = verify_job(this)
    assert (verdict.problems, verdict.splits, verdict.rows) == ([], 5, 116)

    names = sorted(outputs(out))
    kept = {name: (out / name).read_bytes() for name in names}

    def problems() -> list[str]:
        found = verify_job(this).problems
        for name in outputs(out).keys() - kept.keys():
            (out / name).unlink()
        for name in names:
            (out / name).write_bytes(kept[name])
        return found

    (out / names[0]).unlink()
    assert problems() == ["part-0.parquet has no output file"]

    (out / "stray.parquet").write_bytes(kept[names[0]])
    assert problems() == ["stray.parquet belongs to no split of the input"]

    rewrite(out / names[1], lambda table: with_column(table, "text", ["w0", "w1", "w2", "other"]))
    assert problems() == [f"{names[1]}: column `text` differs from part-1.parquet in rows 0 to 3"]

    rewrite(out / names[1], lambda table: with_column(table, "price", [1.0, None, -0.0, 1e300]))
    (problem,) = problems()
    assert "column `price` differs" in problem

    rewrite(out / names[1], lambda table: table.drop_columns("shop"))
    (problem,) = problems()
    assert names[1] in problem
    assert "shop" in problem

    rewrite(out / names[4], lambda table: table.slice(1))
    assert problems() == [f"{names[4]} has 99 rows, part-4.parquet has 100"]

    rewrite(out / names[4], lambda table: table.take([*range(98), 99, 98]))
    (problem,) = problems()
    assert "differs from part-4.parquet" in problem

    (out / names[2]).write_bytes(kept[names[2]][:-50])
    (problem,) = problems()
    assert names[2] in problem

    (out / names[2]).write_bytes(kept[names[3]])
    (problem,) = problems()
    assert problem.startswith(f"{names[2]} says it is of split ")

    assert problems() == []


@pytest.mark.parametrize("by", ["row groups", "rows"])
def test_a_file_cut_into_splits_is_verified_like_a_whole_one(
    job, lake, out, display, monkeypatch, by
):
    texts = [f"w{n % 200} w{n % 7}" for n in range(1000)]
    write(lake, "large.parquet", *texts, row_group_size=100)
    write(lake, "small.parquet")
    size = (lake / "large.parquet").stat().st_size
    cut = Cut(bytes=size // 4) if by == "row groups" else Cut(bytes=None, rows=230)
    monkeypatch.setattr(Job, "cut", cut)
    summary = run_job(job(), display=display)
    assert (summary.exit_code, summary.rows.rows) == (0, 1000 + ROWS)
    large = [name for name in outputs(out) if name.startswith("large-")]
    assert 2 < len(large) == summary.splits.total - 1
    found = rows_of(out)
    assert {row["id"]: row["text"] for row in found if row["id"].startswith("large")} == {
        f"large.parquet/{n}": text for n, text in enumerate(texts)
    }
    verdict = verify_job(job())
    assert (verdict.problems, verdict.rows) == ([], 1000 + ROWS)

    rewrite(out / large[0], lambda table: table.slice(1))
    (problem,) = verify_job(job()).problems
    assert problem.startswith(large[0])
    assert f"large.parquet ({by} " in problem

    # It alone is annotated again; and so is one whose output is lost.
    summary = run_job(job(), display=display, choices=Choices(retry_damaged=True))
    assert (summary.exit_code, summary.splits.done) == (0, 1)
    assert verify_job(job()).problems == []
    (out / large[0]).unlink()
    before = outputs(out)
    summary = run_job(job(), display=display)
    assert (summary.exit_code, summary.splits.done) == (0, 1)
    after = outputs(out)
    assert {name: after[name] for name in before} == before
    assert verify_job(job()).problems == []

    # The whole file changes: all its old outputs go, when all the new ones are there.
    write(lake, "large.parquet", *reversed(texts), row_group_size=100)
    os.utime(lake / "large.parquet", ns=(1, 1))
    summary = run_job(job(), display=display)
    assert summary.splits.done == summary.splits.total - 1
    assert not outputs(out).keys() & set(large)
    assert len(rows_of(out)) == 1000 + ROWS
    assert verify_job(job()).problems == []


def test_a_run_with_a_limit_leaves_the_rest_to_the_same_command_without(job, lake, out, display):
    for number in range(5):
        write(lake, f"{number}.parquet")
    summary = run_job(job(), display=display, choices=Choices(limit=ROWS + 1))
    assert (summary.state, summary.exit_code) == ("limit reached", 0)
    assert (summary.splits.total, summary.splits.done, summary.splits.left) == (5, 2, 3)
    assert summary.rows.rows == 2 * ROWS
    assert inputs_of(out) == ["0.parquet", "1.parquet"]
    status = output_status(str(out), job=job())
    assert (status.left, status.total) == (3, 5)
    first = outputs(out)

    summary = run_job(job(), display=display, choices=Choices(limit=1))
    assert (summary.splits.done_before, summary.splits.done, summary.splits.left) == (2, 1, 2)
    summary = run_job(job(), display=display)
    assert (summary.state, summary.splits.done, summary.splits.left) == ("done", 2, 0)
    assert (len(outputs(out)), outputs(out) | first) == (5, outputs(out))
    assert verify_job(job()).problems == []
