"""Cascades and chains as whole jobs: the costly model on few rows, one task on another's text."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from helpers import CLASSIFY, GIST, NER, rows_of

from pipeline.cli.display import summary_lines
from pipeline.cli.main import main
from pipeline.errors import JobError
from pipeline.models.device import Device
from pipeline.models.resolve import look_up
from pipeline.models.torch.load import TorchModels
from pipeline.run import run_job
from pipeline.starter.reviews import load_reviews
from pipeline.tasks import TASKS

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]

UNSURE = "sentiment.score < 0.7"


@pytest.fixture(scope="module")
def six_hundred(tmp_path_factory):
    """600 real reviews of a line each."""
    parts = load_reviews()
    texts = [review.text for review in parts.train if review.source != "imdb"][:600]
    directory = tmp_path_factory.mktemp("lines")
    for number in range(4):
        part = texts[number::4]
        pq.write_table(pa.table({"text": part}), directory / f"{number}.parquet")
    return directory


def test_a_cascade_runs_the_second_model_on_few_rows_and_says_how_many(
    six_hundred, make_job, display, tmp_path
):
    job = make_job(six_hundred, tasks={"sentiment": CLASSIFY, "pii": {**NER, "when": UNSURE}})
    summary = run_job(job, display=display)
    assert summary.exit_code == 0
    rows = rows_of(tmp_path / "annotated")
    unsure = [row for row in rows if row["sentiment"]["score"] < 0.7]
    assert 0 < len(unsure) < 300
    assert summary.tasks["sentiment"].annotated == 600
    assert summary.tasks["pii"].said == {
        "rows": 600, "annotated": len(unsure), "bad": 0, "skipped": 600 - len(unsure),
    }  # fmt: skip
    assert summary.rows.annotated == 600
    for row in rows:
        assert (row["pii"] is None) == (row["sentiment"]["score"] >= 0.7)
        assert row["errors"] is None
    told = "\n".join(summary_lines(summary, command="again"))
    assert f"pii: {len(unsure):,} annotated, 0 bad, {600 - len(unsure):,} skipped" in told


def test_a_chained_job_gives_the_same_as_two_jobs_one_after_another(
    reviews, make_job, display, tmp_path
):
    chained = {"gist": GIST, "mood": {**CLASSIFY, "input": "gist"}}
    assert run_job(make_job(reviews, tasks=chained), display=display).exit_code == 0
    first = make_job(reviews, tasks={"gist": GIST}, output="first")
    assert run_job(first, display=display).exit_code == 0
    (tmp_path / "between").mkdir()
    for path in sorted((tmp_path / "first").glob("*.parquet")):
        table = pq.read_table(path)
        gists = pa.array([row["text"] for row in table["gist"].to_pylist()])
        pq.write_table(
            table.select(["id"]).append_column("text", gists), tmp_path / "between" / path.name
        )
    second = make_job(tmp_path / "between", tasks={"mood": CLASSIFY}, output="second")
    assert run_job(second, display=display).exit_code == 0
    one, two = (
        {row["id"]: row["mood"] for row in rows_of(tmp_path / name)}
        for name in ("annotated", "second")
    )
    assert one.keys() == two.keys()
    for key, mood in one.items():
        assert mood["label"] == two[key]["label"]
        assert mood["score"] == pytest.approx(two[key]["score"], abs=1e-5)


def test_several_columns_and_templates_are_read_whether_they_are_carried_or_not(
    make_job, display, tmp_path
):
    (tmp_path / "in").mkdir()
    table = pa.table({"id": [1, 2], "title": ["Dull", None], "body": ["A bore.", "Great fun!"]})
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    job = make_job(
        tmp_path / "in",
        tasks={
            "both": {**CLASSIFY, "input": ["title", "body"]},
            "told": {**CLASSIFY, "template": "{title}: {body} ({id})"},
            "late": {**CLASSIFY, "input": "body", "when": "id > 1"},
        },
        input={"path": str(tmp_path / "in"), "columns": ["id"]},
    )
    assert run_job(job, display=display).exit_code == 0
    rows = rows_of(tmp_path / "annotated")
    assert [set(row) for row in rows] == [{"id", "both", "told", "late", "errors"}] * 2
    assert [row["late"] is None for row in rows] == [True, False]
    assert all(row["both"] and row["told"] for row in rows)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ({"a": {**CLASSIFY, "input": "b"}, "b": {**GIST, "input": "a"}}, "in a circle"),
        ({"a": CLASSIFY, "b": {**GIST, "input": "a"}}, "reads task a, which makes no text"),
        ({"a": {**CLASSIFY, "input": "nowhere"}}, "no column or task `nowhere`"),
        ({"a": {**CLASSIFY, "template": "{nowhere}"}}, "no column or task `nowhere`"),
        ({"a": {**CLASSIFY, "when": "nowhere = 1"}}, "nowhere"),
        ({"a": CLASSIFY, "b": {**NER, "when": "a.nope > 1"}}, "nope"),
        ({"a": {**CLASSIFY, "input": "id"}}, "is int64, not text"),
    ],
)
def test_a_chain_that_can_not_work_is_a_job_error_before_anything_starts(
    reviews, make_job, display, tmp_path, tasks, said
):
    with pytest.raises(JobError, match=said):
        run_job(make_job(reviews, tasks=tasks), display=display)
    assert not (tmp_path / "annotated").exists()


def test_validate_tells_a_wrong_condition(reviews, make_job, tmp_path):
    make_job(reviews, tasks={"a": {**CLASSIFY, "when": "text ="}})
    result = CliRunner().invoke(main, ["validate", str(tmp_path / "job.yaml")])
    assert result.exit_code == 2
    assert "tasks.a" in result.output
    assert "SQL condition" in result.output


def test_bfloat16_keeps_labels_and_scores_near_those_of_float32():
    try:
        half = Device("cpu", dtype="bfloat16")
    except JobError as error:
        pytest.skip(str(error))
    texts = [review.text for review in load_reviews().test if len(review.text) < 1200][:400]
    found = []
    for device in (Device("cpu"), half):
        models = TorchModels({"starter/sentiment": look_up("starter/sentiment")}, device=device)
        task = TASKS["classify"](TASKS["classify"].Options(**CLASSIFY))
        rows = task.load(models).annotate(texts).column.to_pylist()
        found.append([{s["label"]: s["score"] for s in row["scores"]} for row in rows])
    one, two = (np.array([row["positive"] for row in rows]) for rows in found)
    assert np.mean((one > 0.5) == (two > 0.5)) >= 0.995
    assert np.abs(one - two).max() < 2e-2
