"""LoRA adapters: merged when a model is loaded, and part of what pins the results."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

from pipeline.check import check, check_models
from pipeline.errors import JobError
from pipeline.job import Job
from pipeline.models.device import Device
from pipeline.models.load import Models
from pipeline.models.resolve import look_up
from pipeline.tasks import TASKS

pytestmark = pytest.mark.integration

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8"]


@pytest.fixture
def base(tiny_model: Path) -> Path:
    return tiny_model


def adapter(base: Path, folder: Path, *, seed: int, **config: Any) -> Path:
    torch.manual_seed(seed)
    module = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    lora = LoraConfig(
        r=4, target_modules=["query", "value"], init_lora_weights=False, task_type="SEQ_CLS"
    )
    get_peft_model(module, lora).save_pretrained(folder)
    return folder


def job(base: Path, lora: Path | None, tmp_path: Path) -> Job:
    task = {"kind": "classify", "model": str(base)} | ({"adapter": str(lora)} if lora else {})
    return Job.model_validate(
        {
            "name": "lora",
            "input": {"path": str(tmp_path / "in")},
            "output": {"path": str(tmp_path / "out")},
            "tasks": {"mood": task},
        }
    )


def scores(made: Job) -> list[dict[str, float]]:
    infos = check_models(made)
    (options,) = made.options.values()
    models = Models(infos, device=Device("cpu")).with_adapter(options.adapter)
    answer = TASKS["classify"](options).load(models).annotate(TEXTS)
    rows = answer.column.to_pylist()
    return [{s["label"]: s["score"] for s in row["scores"]} for row in rows]


def test_a_merged_adapter_gives_what_peft_gives(base: Path, tmp_path: Path) -> None:
    lora = adapter(base, tmp_path / "lora", seed=1)
    found = scores(job(base, lora, tmp_path))
    module = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    reference = PeftModel.from_pretrained(module, lora).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    for text, row in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            logits = reference(**tokenizer(text, return_tensors="pt")).logits[0]
        expected = logits.softmax(-1).tolist()
        labels = [module.config.id2label[at] for at in range(len(expected))]
        assert row == pytest.approx(dict(zip(labels, expected, strict=True)), abs=1e-5)
    assert found != scores(job(base, None, tmp_path))


def test_another_adapter_is_another_job(base: Path, tmp_path: Path) -> None:
    parts = []
    for seed in (1, 2, 2):
        lora = adapter(base, tmp_path / "lora", seed=seed)
        made = job(base, lora, tmp_path)
        infos = check_models(made)
        parts.append(made.fingerprint_parts({ref: info.revision() for ref, info in infos.items()}))
    assert parts[0] != parts[1]
    assert parts[1] == parts[2]


def test_models_with_and_without_an_adapter_are_loaded_apart(base: Path, tmp_path: Path) -> None:
    lora = adapter(base, tmp_path / "lora", seed=1)
    infos = {str(base): look_up(str(base)), str(lora): look_up(str(lora))}
    models = Models(infos, device=Device("cpu"))
    view = models.with_adapter(str(lora))
    plain = models.get(str(base), head="sequence-classification")
    assert view.get(str(base), head="sequence-classification") is not plain
    assert models.get(str(base), head="sequence-classification") is plain
    assert models.with_adapter(None) is models


def test_a_model_as_adapter_and_an_adapter_as_model_are_refused(base: Path, tmp_path: Path) -> None:
    lora = adapter(base, tmp_path / "lora", seed=1)
    with pytest.raises(JobError, match=r"tasks\.mood: .* is a model, not an adapter"):
        check_models(job(base, base, tmp_path))
    with pytest.raises(JobError, match="is an adapter, not a model"):
        check_models(job(lora, None, tmp_path))
    with pytest.raises(JobError, match="does not exist"):
        check(job(base, tmp_path / "nowhere", tmp_path))


def test_an_adapter_of_another_model_is_refused_with_the_reason(base: Path, tmp_path: Path) -> None:
    lora = adapter(base, tmp_path / "lora", seed=1)
    other = tmp_path / "other"
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer), dim=32, n_layers=1, n_heads=2, hidden_dim=32
    )
    transformers.DistilBertForSequenceClassification(config).save_pretrained(other)
    tokenizer.save_pretrained(other)
    made = job(other, lora, tmp_path)
    models = Models(check_models(made), device=Device("cpu")).with_adapter(str(lora))
    with pytest.raises(JobError, match="can't be merged"):
        models.get(str(other), head="sequence-classification")
