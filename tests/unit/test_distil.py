"""Distilling: the sample is fair, every step is done once, and the figures are the libraries'."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from helpers import QuietDisplay
from in_process import annotate
from tiny_lessons import job as train_job_of
from tiny_lessons import lessons, named, write

from pipeline import run as running
from pipeline.cli.main import main
from pipeline.distil import distil
from pipeline.errors import JobError, RunError
from pipeline.job.file import load_job
from pipeline.learn.lesson import Lesson, training
from pipeline.learn.sampled import sample_texts
from pipeline.learn.train.data import read_rows
from pipeline.learn.train.run import train_job

pytestmark = pytest.mark.unit

FAST = {"epochs": 4, "learning_rate": 0.01, "checks": 1, "max_tokens": 64}
KINDS = {"classify": (lessons, "label", {}), "ner": (named, "spans", {"task": {"kind": "ner"}})}


@pytest.fixture(scope="module", params=KINDS)
def taught(request, tiny_model, tmp_path_factory):
    """A kind, a teacher that knows it, and a lake of texts with gold."""
    place = tmp_path_factory.mktemp("teacher")
    made, label, parts = KINDS[request.param]
    data = write(place / "rows.parquet", made(300, seed=3))
    wanted = train_job_of(
        tiny_model, data, place / "model", train={"epochs": 4}, data={"label": label}, **parts
    )
    train_job(wanted, command="c", say=lambda line: None)
    rows = [
        {"text": row["text"], "gold": row[label], "text_length": len(row["text"])}
        for row in made(160, seed=4)
    ]
    write(place / "lake/a.parquet", rows[:100])
    write(place / "lake/b.parquet", rows[100:])
    return request.param, place


@pytest.fixture
def here(monkeypatch):
    """Runs are in this process."""
    monkeypatch.setattr(running, "_annotate", annotate)


def lesson(taught, base, place, **options) -> Lesson:
    kind, at = taught
    place.mkdir(parents=True, exist_ok=True)
    file = place / "job.yaml"
    file.write_text(
        f"name: j\ninput: {{path: {at}/lake}}\noutput: {{path: {at}/out}}\n"
        f"tasks: {{found: {{kind: {kind}, model: {at}/model}}}}\n"
    )
    given = {"rows": 150, "base": str(base), "gold": "gold", "train": FAST, **options}
    return Lesson(load_job(file), "found", place / "made", **given)


def distilled(wanted, said=None):
    lines = said if said is not None else []
    return distil(wanted, display=QuietDisplay(), say=lines.append, command="shardscribe distil")


def test_a_student_is_compared_on_rows_it_has_not_seen_and_each_step_is_done_once(
    taught, tiny_model, tmp_path, here
):
    wanted = lesson(taught, tiny_model, tmp_path)
    report = distilled(wanted)
    kind, _ = taught
    figure = {"classify": "accuracy", "ner": "strict_f1"}[kind]
    assert report["agreement"][figure]["value"] > 0.7
    assert report["gold"]["teacher"][figure]["value"] > 0.7
    assert json.loads((wanted.place / "report.json").read_text()) == report
    labelled = pq.read_table(wanted.place / "labelled/rows.parquet")
    teacher = pq.read_table(wanted.place / "teacher")
    assert sorted(labelled["text"].to_pylist()) == sorted(teacher["text"].to_pylist())
    assert 0.1 < report["rows"]["test"] / report["rows"]["sample"] < 0.3
    if kind == "classify":
        answers = {r["text"]: (r["gold"], r["found"]["label"]) for r in teacher.to_pylist()}
        student = {r["text"]: r["found"]["label"]
                   for r in pq.read_table(wanted.place / "annotated").to_pylist()}  # fmt: skip
        rows = read_rows(training(wanted).data, seed=0)
        texts = [row.text for row in rows.test]
        assert report["rows"]["test"] == len(texts)
        agree = sum(answers[t][1] == student[t] for t in texts) / len(texts)
        assert report["agreement"]["accuracy"]["value"] == pytest.approx(agree)
        less = sum((student[t] == answers[t][0]) - (answers[t][1] == answers[t][0]) for t in texts)
        assert report["gold"]["student_less_teacher"]["value"] == pytest.approx(less / len(texts))
    made = [path for path in wanted.place.rglob("*.parquet") if ".shardscribe" not in str(path)]
    before = {path: path.stat().st_mtime_ns for path in made}
    said = []
    again = distilled(wanted, said)
    assert said == []
    assert again == report
    assert {path: path.stat().st_mtime_ns for path in before} == before
    student_job = load_job(wanted.place / "job.yaml")
    assert student_job.input == wanted.job.input
    assert student_job.options["found"].model == str(wanted.place / "student")


def test_the_sample_is_uniform_and_the_same_however_rows_are_cut():
    texts = [f"w{at}" for at in range(4000)]
    one = [pa.table({"text": texts})]
    many = [pa.table({"text": texts[at : at + 7][::-1]}) for at in range(0, 4000, 7)][::-1]
    found = [sample_texts(some, ["text"], rows=400, seed=1) for some in (one, many, [*one, *one])]
    assert found[0] == found[1] == found[2]
    assert len({row["text"] for row in found[0]}) == 400
    # By quarters of the lake: within four standard deviations of 100.
    quarters = [sum(int(row["text"][1:]) // 1000 == at for row in found[0]) for at in range(4)]
    assert all(66 < count < 134 for count in quarters)
    assert sample_texts(one, ["text"], rows=400, seed=2) != found[0]


def test_blank_texts_are_no_part_of_a_sample():
    table = pa.table({"text": ["a", None, " ", "b", "a"], "gold": [1, 2, 3, 4, 5]})
    found = sample_texts([table], ["text", "gold"], rows=9, seed=0)
    assert sorted(row["text"] for row in found) == ["a", "b"]


def test_a_run_that_is_stopped_says_so_and_the_same_command_goes_on(
    taught, tiny_model, tmp_path, here, monkeypatch
):
    wanted = lesson(taught, tiny_model, tmp_path, rows=60)

    def fails(pinned, plan, tally, summary, **_):
        for split in plan.todo:
            tally.failed(split, "the disk is on fire", final=True)

    monkeypatch.setattr(running, "_annotate", fails)
    with pytest.raises(RunError, match="some splits failed"):
        distilled(wanted)
    monkeypatch.setattr(running, "_annotate", annotate)
    assert distilled(wanted)["rows"]["sample"] == 60


def test_another_distillation_in_the_same_folder_is_refused(taught, tiny_model, tmp_path, here):
    wanted = lesson(taught, tiny_model, tmp_path, rows=60)
    distilled(wanted)
    with pytest.raises(JobError, match="a distillation with another rows"):
        distilled(lesson(taught, tiny_model, tmp_path, rows=61))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.txt").write_text("mine")
    with pytest.raises(JobError, match="no distillation made"):
        distilled(Lesson(wanted.job, "found", tmp_path / "mine", base=str(tiny_model)))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["a.txt"]


WRONG = {
    "no such task": ({"task": "fund"}, "no task `fund`"),
    "no such gold": ({"gold": "golt"}, "no column `golt`"),
    "gold of another type": ({"gold": "text_length"}, "it must be"),
    "no such option": ({"train": {"epoch": 2}}, "--train epoch"),
    "no such base": ({"base": "starter/nothing"}, "no starter model"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_before_the_teacher_starts(
    name, taught, tiny_model, tmp_path, monkeypatch
):
    options, said = WRONG[name]
    wanted = replace(lesson(taught, tiny_model, tmp_path), **options)
    monkeypatch.setattr(running, "_annotate", lambda *a, **k: pytest.fail("the teacher started"))
    with pytest.raises(JobError, match=said) as wrong:
        distilled(wanted)
    assert wrong.value.exit_code == 2


def test_several_tasks_ask_which_and_kinds_without_labels_are_refused(tmp_path):
    job = "jobs/movie_reviews.yaml"
    done = CliRunner().invoke(main, ["distil", job, str(tmp_path / "d")])
    assert (done.exit_code, "Say which one with --task" in done.output) == (2, True)
    done = CliRunner().invoke(main, ["distil", job, str(tmp_path / "d"), "--task", "gist"])
    assert (done.exit_code, "summarize can't be distilled" in done.output) == (2, True)
    assert not Path(tmp_path / "d").exists()
