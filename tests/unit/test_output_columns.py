"""What stands beside the annotations: all of a row, its key, or where it is from."""

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from in_process import loud_job, run_here

from pipeline.errors import JobError
from pipeline.evaluate import evaluate_job
from pipeline.job import check
from pipeline.job.job import Job
from pipeline.lake.source.keyed import KeyedSource
from pipeline.lake.source.open import open_source
from pipeline.lake.split import Split
from pipeline.models.resolve import ModelInfo
from pipeline.preview import Wanted, output_rows, preview_rows
from pipeline.status import output_status
from pipeline.verify import verify_job

pytestmark = pytest.mark.unit

Make = Callable[..., Job]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    lake = tmp_path / "in"
    for place, ids in {"year=2023": range(3), "year=2024/a%20b": range(3, 40)}.items():
        (lake / place).mkdir(parents=True)
        rows = {"id": list(ids), "text": [f"text {n}" for n in ids], "label": ["x"] * len(ids)}
        pq.write_table(pa.table(rows), lake / place / "part.parquet", row_group_size=10)
    return loud_job(monkeypatch, lake)


def files(made: Job) -> list[pa.Table]:
    return [pq.read_table(path, partitioning=None)
            for path in sorted(Path(made.output.path).rglob("*.parquet"))]  # fmt: skip


def test_annotations_alone_say_of_which_row_of_the_source_they_are(make: Make) -> None:
    job = make(output={"columns": "annotations"})
    assert run_here(job).exit_code == 0
    first, second = files(job)
    assert first.column_names == ["source_file", "source_row", "loud", "errors"]
    assert first.to_pylist()[1] == {
        "source_file": "year=2023/part.parquet", "source_row": 1, "loud": "TEXT 1", "errors": None,
    }  # fmt: skip
    assert second["source_row"].to_pylist() == list(range(37))
    assert verify_job(job).problems == []
    assert run_here(job).state == "nothing to do"
    status = output_status(job.output.path, job=job)
    assert (status.left, status.total, status.rows.rows) == (0, 2, 40)


@pytest.mark.parametrize("split", [{"rows": 7}, {"bytes": 1}])
@pytest.mark.parametrize("where", ["id % 3 = 1 OR id > 30", "id > 33", "id > 1"])
def test_they_join_the_source_whatever_is_cut_and_filtered(
    make: Make, where: str, split: dict[str, int]
) -> None:
    import duckdb

    job = make(output={"columns": "annotations"}, split=split, filter=where)
    assert run_here(job).exit_code == 0
    assert verify_job(job).problems == []
    joined = duckdb.sql(f"""
        select id, text, loud
        from read_parquet('{job.input.path}/**/*.parquet', filename=true, file_row_number=true) s
        join read_parquet('{job.output.path}/**/*.parquet') a
        on s.filename = '{job.input.path}/' || a.source_file and s.file_row_number = a.source_row
    """).fetchall()
    wanted = duckdb.sql(
        f"select id from read_parquet('{job.input.path}/**/*.parquet') where {where}"
    ).fetchall()
    assert sorted(row[0] for row in joined) == sorted(row[0] for row in wanted)
    assert all(text.upper() == loud for _, text, loud in joined)


def test_a_key_that_is_named_is_carried_alone(make: Make) -> None:
    job = make(output={"columns": ["id"]})
    run_here(job)
    assert files(job)[0].column_names == ["id", "loud", "errors"]
    assert verify_job(job).problems == []
    # One wish, however it is spelled: what is done stays done.
    assert run_here(make(columns=["id"])).state == "nothing to do"


def test_another_choice_is_another_job(make: Make) -> None:
    run_here(make(output={"columns": "annotations"}))
    with pytest.raises(JobError, match=r"columns was .*source_row.*, is .*id"):
        run_here(make(output={"columns": ["id"]}))


def test_show_preview_and_evaluate_work_without_the_text(make: Make) -> None:
    job = make(output={"columns": "annotations"})
    shown = preview_rows(job, Wanted(2))
    assert shown.columns == ("source_file", "source_row", "loud", "errors")
    assert shown.tables[0]["source_row"].to_pylist() == [0, 1]
    run_here(job)
    assert output_rows(job.output.path, Wanted(1), job=job).columns == shown.columns
    assert output_rows(job.output.path, Wanted(1)).rows == 1
    picked = output_rows(job.output.path, Wanted(9, "source_row > 30"))
    assert picked.rows == 6


def test_evaluate_reads_gold_from_the_source_and_says_that_the_output_has_none(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"id2label": {"0": "x"}, "architectures": ["BertForTokenClassification"]}
    monkeypatch.setattr(check, "look_up", lambda name, **_: ModelInfo(name, config, commit="c"))
    job = make(output={"columns": "annotations"})
    with pytest.raises(JobError, match="--gold"):  # found in the source, and no list of spans
        evaluate_job(job, gold="label")
    run_here(job)
    with pytest.raises(JobError, match="--gold: there is no column `label`; there are source_file"):
        evaluate_job(job, gold="label", output=True)


def test_a_source_that_has_such_a_column_is_refused_before_the_start(make: Make) -> None:
    job = make(output={"columns": "annotations"})
    pq.write_table(
        pa.table({"text": ["a"], "source_row": [1]}), Path(str(job.input.path)) / "0.parquet"
    )
    for path in Path(str(job.input.path)).rglob("part.parquet"):
        path.unlink()
    with pytest.raises(JobError, match=r"has a column `source_row`.*\[source_row\]"):
        run_here(job)


@pytest.mark.parametrize(
    ("output", "given", "said"),
    [
        ({"columns": "id"}, {}, "write all, annotations, or a list of columns"),
        ({"columns": ["id", "id"]}, {}, "`id` stands twice"),
        ({"columns": ["id"]}, {"columns": ["id"]}, "both say what is carried: write one"),
        ({"columns": "annotations"}, {"columns": ["id"]}, "both say what is carried: write one"),
        ({"columns": ["loud"]}, {}, "it would overwrite the input column of that name"),
    ],
)
def test_a_wrong_choice_is_told_with_the_job(
    make: Make, output: dict[str, Any], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        make(output=output, **given)


def test_a_key_that_is_not_there_is_named_with_its_field(make: Make) -> None:
    with pytest.raises(JobError, match=r"no column `idd`.*Name `id`.* in output.col"):
        run_here(make(output={"columns": ["idd"]}))


def test_keys_of_a_file_whose_name_is_no_text_are_text(make: Make) -> None:
    source = open_source(str(make().input.path))

    class Store:
        def open(self, split: Split) -> Any:
            return source.open(replace(split, path="year=2023/part.parquet"))

        def where(self, path: str) -> str:
            return path

    split = Split("0" * 16, os.fsdecode(b"\xff.parquet"), 1, "")
    with closing(KeyedSource(Store()).open(split)) as opened:  # type: ignore[arg-type]
        (table,) = opened.batches(["source_file"])
    assert table["source_file"].to_pylist() == ["\ufffd.parquet"] * 3


def test_pandas_and_datasets_read_what_they_wrote_without_its_columns(make: Make) -> None:
    import pandas
    from datasets import load_dataset

    job = make(output={"columns": "annotations"})
    lake = Path(str(job.input.path))
    frame = pandas.DataFrame({"text": ["a", "b"]}, index=pandas.Index([5, 6], name="at"))
    frame.to_parquet(lake / "year=2023/pandas.parquet")
    run_here(job)
    read = pandas.read_parquet(job.output.path)
    assert read["loud"].tolist().count("B") == 1
    found = load_dataset(job.output.path, cache_dir=f"{job.output.path}-cache")["train"]
    assert len(found) == 42
    assert {"source_file", "source_row", "loud"} <= {*found.column_names}
