"""A job's tasks are configured once, whoever asks for them."""

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import hollow_model

from pipeline.engine.messages import WorkPlan
from pipeline.job.check import check, pin
from pipeline.job.job import Job
from pipeline.models.resolve import ModelInfo
from pipeline.preview import Wanted, _without_rows
from pipeline.tasks import TASKS, Task

pytestmark = pytest.mark.unit


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Three tasks over a lake of nine files; nothing of it can be loaded."""
    (tmp_path / "lake").mkdir()
    for name in range(9):
        pq.write_table(pa.table({"text": ["a"], "more": ["b"]}), tmp_path / f"lake/{name}.parquet")
    tags = hollow_model(tmp_path / "tags", "BertForTokenClassification")
    encoder = hollow_model(tmp_path / "encoder", "BertModel", hidden_size=8)
    return Job.model_validate(
        {
            "name": "once",
            "input": {"path": str(tmp_path / "lake")},
            "output": {"path": str(tmp_path / "out")},
            "tasks": {
                "names": {"kind": "ner", "model": str(tags)},
                "clean": {"kind": "redact", "model": str(tags)},
                "vector": {"kind": "embed", "model": str(encoder), "input": "clean"},
            },
        }
    )


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each kind of task was made."""
    counts: Counter[str] = Counter()
    plain = Task.__init__

    def counted(self: Any, options: Any) -> None:
        counts[options.kind] += 1
        plain(self, options)

    monkeypatch.setattr(Task, "__init__", counted)
    return counts


def test_the_start_of_a_run_makes_each_task_once(job: Job, made: Counter[str]) -> None:
    checked = check(job, at_most=4)
    pinned = pin(checked)
    pinned = replace(pinned, checked=pinned.checked.listed())
    pinned.splits()
    assert made == {"ner": 1, "redact": 1, "embed": 1}
    plan = WorkPlan.of(pinned, device="cpu", threads=1)
    types = [task.output_type() for task in plan.job.bind(plan.infos).values()]
    assert types[-1] == pa.list_(pa.float32(), 8)
    assert made.total() == 3


def test_a_worker_of_another_process_makes_none(job: Job, made: Counter[str]) -> None:
    sent = pickle.dumps(WorkPlan.of(pin(check(job)), device="cpu", threads=1))
    made.clear()
    plan = pickle.loads(sent)
    assert list(plan.job.bind(plan.infos)) == ["names", "clean", "vector"]
    assert (plan.job.reads, plan.job.texts_read) == (["text"], ["text"])
    assert made.total() == 0


def test_a_condition_on_shown_rows_is_tried_with_the_tasks_that_are_there(
    job: Job, made: Counter[str]
) -> None:
    checked = check(job)
    table = _without_rows(checked, pa.schema([("text", pa.string())]), ["clean", "vector"])
    assert Wanted(where="clean.spans > 1").pick(table).num_rows == 0
    assert made.total() == 3


def test_a_copy_with_other_tasks_or_another_text_column_knows_nothing_of_the_first(
    job: Job, made: Counter[str]
) -> None:
    assert job.reads == ["text"]
    elsewhere = job.model_copy(update={"output": job.output.model_copy(update={"path": "x"})})
    assert elsewhere.configured is job.configured
    other = job.model_copy(update={"input": job.input.model_copy(update={"text": "more"})})
    assert other.reads == other.texts_read == ["more"]
    names = {"names": job.tasks["names"].model_copy(update={"template": "{more}"})}
    fewer = job.model_copy(update={"tasks": names})
    assert list(fewer.configured) == ["names"]
    assert (fewer.reads, fewer.texts_read) == (["more"], [])
    assert job.model_copy(deep=True).configured is not job.configured


CHAT = ModelInfo("m", {"architectures": ["LlamaForCausalLM"]}, chat_template=True)
ENCODER = ModelInfo("m", {"architectures": ["BertModel"]})


@pytest.mark.parametrize(
    ("kind", "model", "writes"),
    [
        ("generate", CHAT, True),
        ("answer", CHAT, True),
        ("zero_shot", CHAT, True),
        ("zero_shot", ENCODER, False),
        ("summarize", ENCODER, False),
        ("keywords", ENCODER, False),
    ],
)
def test_whether_a_task_has_a_model_that_writes_is_known_once_it_has_a_model(
    kind: str, model: ModelInfo, writes: bool
) -> None:
    task = TASKS[kind]
    options = {"kind": kind, "model": "m", **task.examples[0].options}
    made = task(task.Options.model_validate(options))
    with pytest.raises(ValueError, match="once its model is"):
        _ = made.writes
    made.bind(model)
    assert made.writes is writes
