"""Training: what is frozen stays, what comes out is a model, what can't be learned is refused."""

import json
import math

import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file as load_weights
from tiny_lessons import job, lessons, write

from pipeline.cli.main import main
from pipeline.errors import JobError, OutputBusy, RunError, SplitError
from pipeline.job.file import load_file, load_job
from pipeline.learn.train import run
from pipeline.learn.train.data import read_rows
from pipeline.learn.train.job import TrainData, TrainJob
from pipeline.learn.train.run import train_job
from pipeline.learn.train.trainer import WHOLE, HouseTrainer, LikeLengths, last_checkpoint
from pipeline.models.resolve import look_up
from pipeline.preview import Wanted, preview_rows

pytestmark = pytest.mark.unit


def trained(wanted: TrainJob, said: list[str] | None = None) -> dict:
    lines = said if said is not None else []
    return train_job(wanted, command="shardscribe train job.yaml", say=lines.append)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("lessons") / "rows.parquet", lessons(120))


@pytest.fixture(scope="module")
def once(tiny_model, data, tmp_path_factory):
    """A job, what was said, its record and its folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    wanted = job(tiny_model, data, folder, train={"epochs": 4, "freeze": {"all_but_last": 1}})
    said = []
    return wanted, said, trained(wanted, said), folder


def test_what_comes_out_is_a_model_that_a_job_names_and_its_figures_are_what_the_job_gets(
    once, tmp_path
):
    wanted, _, record, folder = once
    rows = read_rows(wanted.data, seed=0)
    write(tmp_path / "in/test.parquet", [{"text": r.text, "gold": r.labels[0]} for r in rows.test])
    (tmp_path / "job.yaml").write_text(
        f"name: j\ninput: {{path: {tmp_path}/in}}\noutput: {{path: {tmp_path}/out}}\n"
        f"tasks: {{mood: {{kind: classify, model: {folder}}}}}\n"
    )
    found = preview_rows(load_job(tmp_path / "job.yaml"), Wanted(rows=1000))
    got = [row for table in found.tables for row in table.to_pylist()]
    right = sum(row["mood"]["label"] == row["gold"] for row in got) / len(got)
    assert record["figures"]["metrics"]["accuracy"]["value"] == pytest.approx(right)
    assert right > 0.8


def test_frozen_parameters_are_byte_equal_and_the_others_are_not(once, tiny_model):
    *_, record, folder = once
    before, after = (load_weights(f / "model.safetensors") for f in (tiny_model, folder))
    same = {name for name in before if torch.equal(before[name], after[name])}
    layers = len([1 for name in before if name.endswith("attention.self.query.weight")])
    frozen = ("bert.embeddings.", *(f"bert.encoder.layer.{i}." for i in range(layers - 1)))
    assert same == {name for name in before if name.startswith(frozen)}
    assert record["trained"] == sum(v.numel() for n, v in after.items() if n not in same)


def test_the_card_tells_data_figures_and_how_to_make_it_again(once):
    *_, record, folder = once
    text = (folder / "README.md").read_text()
    figure = record["figures"]["metrics"]["accuracy"]
    assert (
        f"| accuracy | {figure['value']:.3f} | {figure['low']:.3f} | {figure['high']:.3f} |" in text
    )
    for part in ("seed 0", "All layers frozen but the last 1", "`shardscribe train job.yaml`"):
        assert part in text
    assert json.loads((folder / "training.json").read_text()) == record


def test_progress_says_step_loss_speed_and_what_is_left(once):
    _, said, record, _ = once
    steps = [line for line in said if " left" in line]
    assert f"step {record['steps']}/{record['steps']}" in steps[-1]
    assert all(" loss " in line and "rows/s" in line for line in steps)
    assert any("validation loss" in line for line in said)


def test_the_same_command_again_trains_nothing_and_another_job_is_refused(once):
    wanted, *_, folder = once
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert trained(wanted)["was_there"] is True
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    other = wanted.train.model_copy(update={"seed": 3})
    with pytest.raises(JobError, match="other rows"):
        trained(wanted.model_copy(update={"train": other}))


def test_the_same_job_gives_the_same_losses(once, tmp_path):
    wanted, _, record, _ = once
    output = wanted.output.model_copy(update={"path": str(tmp_path / "again")})
    again = trained(wanted.model_copy(update={"output": output}))
    assert again["losses"] == [pytest.approx(line, abs=1e-4) for line in record["losses"]]


def test_nothing_is_left_beside_a_finished_model(once):
    *_, folder = once
    assert [path.name for path in (folder.parent / ".shardscribe/tiny").iterdir()] == ["train.lock"]


def test_a_model_of_the_same_labels_keeps_its_head_and_one_of_others_gets_a_new_one(once, tmp_path):
    *_, folder = once
    head = "classifier.weight"
    was = load_weights(folder / "model.safetensors")[head]
    data = write(tmp_path / "same.parquet", lessons(60, seed=1))
    slow = {"learning_rate": 1e-9, "epochs": 1}
    record = trained(job(folder, data, tmp_path / "kept", train=slow))
    assert record["head_kept"] is True
    kept = load_weights(tmp_path / "kept/model.safetensors")[head]
    assert torch.allclose(was, kept, atol=1e-6)
    data = write(tmp_path / "other.parquet", lessons(60, labels=("no", "maybe")))
    record = trained(job(folder, data, tmp_path / "anew", train=slow))
    assert record["head_kept"] is False
    assert not torch.allclose(
        was, load_weights(tmp_path / "anew/model.safetensors")[head], atol=1e-3
    )
    assert look_up(str(tmp_path / "anew")).config["id2label"] == {"0": "maybe", "1": "no"}


def test_rows_may_have_any_number_of_labels(tiny_model, tmp_path):
    some = lessons(90)
    rows = [{"text": f"{a['text']} {b['text']}", "label": sorted({a["label"], b["label"]})}
            for a, b in zip(some, some[1:] + some[:1], strict=True)]  # fmt: skip
    rows += [{"text": row["text"], "label": [row["label"]]} for row in lessons(30, seed=2)]
    rows[-1]["label"] = []
    data = write(tmp_path / "several.parquet", rows)
    record = trained(job(tiny_model, data, tmp_path / "model", train={"epochs": 4}))
    config = look_up(str(tmp_path / "model")).config
    assert config["problem_type"] == "multi_label_classification"
    assert record["figures"]["metrics"]["micro_f1"]["value"] > 0.6


def test_early_stopping_ends_when_nothing_gets_better(tiny_model, data, tmp_path):
    wanted = {"epochs": 50, "early_stopping": 1, "learning_rate": 1e-12, "checks": 1}
    record = trained(job(tiny_model, data, tmp_path / "model", train=wanted))
    assert record["steps"] < 50 * math.ceil(record["rows"]["train"] / 16)


def test_patterns_freeze_by_name(tiny_model, data, tmp_path):
    wanted = job(tiny_model, data, tmp_path / "m", train={"freeze": ["bert.embeddings.*"]})
    trained(wanted)
    before, after = (load_weights(f / "model.safetensors") for f in (tiny_model, tmp_path / "m"))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith("bert.embeddings.")}


WRONG = {
    "one label": (lessons(40, labels=("no",)), {}, "nothing to tell apart"),
    "no label": ([{"text": "w1", "label": None}] * 9, {}, None),
    "numbers as labels": ([{"text": "w1", "label": 1}], {}, "int64.*must be text"),
    "no such column": (lessons(40), {"data": {"label": "lable"}}, "no column `lable`.*`label`"),
    "a text column of numbers": (lessons(40), {"data": {"text": "n"}}, "no column `n`"),
    "ids as labels": (
        [{"text": f"w{i}", "label": f"id{i}"} for i in range(40)], {}, "two rows of each"),
    "a label that is rare": (
        [*lessons(40), {"text": "w9 w9", "label": "odd"}], {"train": {"seed": 3}},
        r"no row to train on has the label 'odd', of which there is 1 in (test|validation)"),
    "too few for a test": (lessons(6), {}, "no row is left for it"),
    "no layer of that number": (
        lessons(60), {"train": {"freeze": {"all_but_last": 9}}}, "has [0-9]+ layers"),
    "a pattern of nothing": (lessons(60), {"train": {"freeze": ["*.embed"]}}, "matches none of"),
    "everything frozen": (lessons(60), {"train": {"freeze": ["*"]}}, "nothing to learn"),
    "weights of no label": (
        lessons(60), {"train": {"class_weights": {"yess": 2.0}}}, "no label `yess`"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_nothing_can_be_learned_from_is_refused_with_the_mend(name, tiny_model, tmp_path):
    rows, parts, said = WRONG[name]
    data = write(tmp_path / "rows.parquet", rows)
    with pytest.raises(JobError, match=said) as wrong:
        trained(job(tiny_model, data, tmp_path / "out/model", **parts))
    assert wrong.value.exit_code == 2
    assert wrong.value.hint
    assert not (tmp_path / "out/model").exists()


def test_rows_without_text_or_label_are_counted_and_left_out(tiny_model, tmp_path):
    some = [(row["text"].encode(), row["label"]) for row in lessons(40)]
    some += [(None, "no"), (b" ", "no"), (b"w1", None), (b"w1 w2", " "), (b"\xff\xfe", "yes")]
    texts = pa.array([text for text, _ in some], pa.binary()).view(pa.string())
    table = pa.table({"text": texts, "label": [label for _, label in some]})
    data = write(tmp_path / "rows.parquet", table)
    rows = read_rows(TrainData(path=str(data), validation=0.0, test=0.0), seed=0)
    assert len(rows.train) == 40
    assert rows.left_out == {
        "without a text": 2, "without a label": 2, "text that is not UTF-8": 1
    }  # fmt: skip


def test_a_text_that_is_in_training_too_is_counted_and_dropped_from_the_test(tmp_path):
    train = write(tmp_path / "train.parquet", lessons(40))
    test = write(tmp_path / "test.parquet", [*lessons(5), {"text": "w1 w1 w1", "label": "no"}])
    given = TrainData(path=str(train), validation=0.0, test=str(test))
    rows = read_rows(given, seed=0)
    assert [row.text for row in rows.test] == ["w1 w1 w1"]
    assert rows.left_out == {"in test and in training": 5}
    with pytest.raises(JobError, match=r"data\.test: no row is left for it"):
        read_rows(TrainData(path=str(train), validation=0.0, test=str(train)), seed=0)


def test_copies_of_a_text_are_in_one_part_and_more_rows_move_none(tmp_path):
    few = lessons(200)
    data = write(tmp_path / "few.parquet", [*few, *few])
    parts = read_rows(TrainData(path=str(data)), seed=0)
    assert not {r.text for r in parts.train} & {r.text for r in parts.test}
    more = write(tmp_path / "more.parquet", [*lessons(200, seed=5), *few])
    grown = read_rows(TrainData(path=str(more)), seed=0)
    assert {r.text for r in parts.test} <= {r.text for r in grown.test}


def test_a_broken_file_is_named(tiny_model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(SplitError, match=r"bad\.parquet"):
        trained(job(tiny_model, tmp_path / "in", tmp_path / "model"))


def test_training_that_comes_apart_says_the_step_and_what_to_lower(tiny_model, data, tmp_path):
    wanted = job(
        tiny_model, data, tmp_path / "model", train={"learning_rate": 1e30, "warm_up": 0.0}
    )
    with pytest.raises(RunError, match=r"loss is nan at step \d+ .*Lower train\.learning_rate"):
        trained(wanted)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("content", [{"a.txt": "mine"}, {"training.json": "[]"}])
def test_a_directory_that_holds_something_else_is_left_alone(content, tiny_model, data, tmp_path):
    (tmp_path / "model").mkdir()
    for name, text in content.items():
        (tmp_path / "model" / name).write_text(text)
    with pytest.raises(JobError, match="no training job made"):
        trained(job(tiny_model, data, tmp_path / "model"))
    assert {p.name: p.read_text() for p in (tmp_path / "model").iterdir()} == content


def test_a_second_run_of_one_output_is_kept_out(tiny_model, data, tmp_path):
    with run._alone(tmp_path / ".shardscribe/model/train"), pytest.raises(OutputBusy):
        trained(job(tiny_model, data, tmp_path / "model"))


def test_a_disk_without_room_is_told_before_the_start(tiny_model, data, tmp_path, monkeypatch):
    full = run.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: full)
    with pytest.raises(JobError, match="MB free"):
        trained(job(tiny_model, data, tmp_path / "model"))


def test_a_checkpoint_that_is_not_whole_is_removed_and_the_one_before_taken(tmp_path):
    for step, size in ((5, 3), (9, 3), (12, 4), (15, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"abc")
        if size is not None:
            (folder / WHOLE).write_text(json.dumps({"model.safetensors": size}))
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5", "checkpoint-9"]


def test_the_order_of_rows_follows_from_seed_and_epoch_and_has_each_row_once():
    lengths = [at % 37 for at in range(500)]
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        sampler = LikeLengths(lengths, batch=8, seed=seed)
        sampler.set_epoch(epoch)
        assert list(sampler) == list(sampler)
        orders.append(list(sampler))
    assert all(sorted(order) == list(range(500)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("several", [False, True])
def test_weights_count_as_torch_has_them(several):
    trainer = HouseTrainer.__new__(HouseTrainer)
    trainer.weights = torch.tensor([1.0, 3.0])
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    if several:
        labels = torch.eye(2)[labels]
        theirs = torch.nn.BCEWithLogitsLoss(weight=trainer.weights)(logits, labels)
    else:
        theirs = torch.nn.CrossEntropyLoss(weight=trainer.weights)(logits, labels)
    assert torch.equal(trainer._loss({"logits": logits}, labels), theirs)


def test_the_ready_job_is_right_and_a_wrong_one_names_line_field_and_mend(tmp_path):
    assert load_file("jobs/train_ner.yaml", TrainJob).task.kind == "ner"
    ready = "jobs/train_sentiment.yaml"
    assert load_file(ready, TrainJob).train.learning_rate == 2e-4
    done = CliRunner().invoke(main, ["train", ready, "--set", "train.freez=1"])
    assert done.exit_code == 2
    assert "Known here: epochs, batch_size" in done.output
    for override, said in {
        "data.validation=1.0": "less than 1",
        "data.test=0.95": "leave nothing to train on",
        "output.path=s3://bucket/model": "directory of this machine",
        "train.learning_rate=fast": "must be a number",
        "train.class_weights={spam: 0}": "more than 0",
        "train.freeze=[]": "at least 1",
    }.items():
        done = CliRunner().invoke(main, ["train", ready, "--set", override])
        assert (done.exit_code, said in done.output) == (2, True), done.output
    done = CliRunner().invoke(main, ["train", ready, "--set", "data.validation=0",
                                     "--set", "train.early_stopping=2"])  # fmt: skip
    assert "set data.validation" in done.output
