"""LoRA adapters: merged when a model is loaded, and part of what pins the results."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from pipeline.errors import JobError
from pipeline.job.check import check, check_models
from pipeline.job.job import Job
from pipeline.models.adapters import with_adapter
from pipeline.models.device import Device
from pipeline.models.resolve import ModelInfo, look_up
from pipeline.models.torch.load import TorchModels
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
    models = TorchModels(infos, device=Device("cpu")).with_adapter(options.adapter)
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
    models = TorchModels(infos, device=Device("cpu"))
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
    models = TorchModels(check_models(made), device=Device("cpu")).with_adapter(str(lora))
    with pytest.raises(JobError, match="can't be merged"):
        models.get(str(other), head="sequence-classification")


# Adapters that bring their own head along, for models that have none


@pytest.fixture
def encoder(base: Path, tmp_path: Path) -> Path:
    """A BERT without a head, as encoders are published."""
    folder = tmp_path / "encoder"
    transformers.AutoModel.from_pretrained(base).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    for name in ("id2label", "label2id"):
        config.pop(name)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def with_head(
    encoder: Path, folder: Path, *, labels: int = 3, kind: str = "SEQ_CLS", **config: Any
) -> tuple[Any, Path]:
    """The reference, and the adapter that peft saves of it."""
    torch.manual_seed(labels)
    heads = {"SEQ_CLS": "SequenceClassification", "TOKEN_CLS": "TokenClassification"}
    auto = getattr(transformers, f"AutoModelFor{heads[kind]}")
    module = auto.from_pretrained(encoder, num_labels=labels, ignore_mismatched_sizes=True)
    lora = LoraConfig(
        r=4, target_modules=["query", "value"], init_lora_weights=False, task_type=kind, **config
    )
    made = get_peft_model(module, lora)
    made.save_pretrained(folder)
    return made.eval(), folder


def reference_scores(module: Any, encoder: Path) -> list[list[float]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    with torch.inference_mode():
        return [
            module(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1).tolist()
            for text in TEXTS
        ]


def test_an_adapter_that_brings_a_head_makes_a_classifier_of_an_encoder(
    encoder: Path, tmp_path: Path
) -> None:
    module, lora = with_head(encoder, tmp_path / "lora")
    found = scores(job(encoder, lora, tmp_path))
    for row, expected in zip(found, reference_scores(module, encoder), strict=True):
        named = {f"LABEL_{at}": score for at, score in enumerate(expected)}
        assert row == pytest.approx(named, abs=1e-5)
    with pytest.raises(JobError, match="is a BertModel; classify needs"):
        check_models(job(encoder, None, tmp_path))


def test_labels_are_called_as_a_configuration_beside_the_adapter_says(
    encoder: Path, tmp_path: Path
) -> None:
    _, lora = with_head(encoder, tmp_path / "lora")
    named = {"id2label": {"2": "c", "0": "a", "1": "b"}, "model_type": "bert"}
    (lora / "config.json").write_text(json.dumps(named))
    assert set(scores(job(encoder, lora, tmp_path))[0]) == {"a", "b", "c"}
    named["id2label"] = {"0": "a", "1": "b"}
    (lora / "config.json").write_text(json.dumps(named))
    assert set(scores(job(encoder, lora, tmp_path))[0]) == {"LABEL_0", "LABEL_1", "LABEL_2"}


def test_a_head_that_an_adapter_brings_takes_the_place_of_one_of_another_size(
    base: Path, tmp_path: Path
) -> None:
    module, lora = with_head(base, tmp_path / "lora", labels=5)
    found = scores(job(base, lora, tmp_path))
    for row, expected in zip(found, reference_scores(module, base), strict=True):
        assert sorted(row.values()) == pytest.approx(sorted(expected), abs=1e-5)
    _, same = with_head(base, tmp_path / "same", labels=2)
    assert set(scores(job(base, same, tmp_path))[0]) == {"no", "yes"}


def test_an_adapter_for_tags_serves_ner_and_not_classify(encoder: Path, tmp_path: Path) -> None:
    _, lora = with_head(encoder, tmp_path / "lora", kind="TOKEN_CLS", labels=4)
    made = job(encoder, lora, tmp_path)
    with pytest.raises(JobError, match="is a BertForTokenClassification; classify needs"):
        check_models(made)
    task = {"kind": "ner", "model": str(encoder), "adapter": str(lora)}
    tags = Job.model_validate(made.model_dump(exclude_unset=True) | {"tasks": {"tags": task}})
    models = TorchModels(check_models(tags), device=Device("cpu")).with_adapter(str(lora))
    ner = TASKS["ner"](tags.options["tags"]).load(models)
    assert len(ner.annotate(TEXTS).column) == len(TEXTS)


def test_a_head_with_layers_of_its_own_is_brought_whole(base: Path, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=70,
    )
    encoder = tmp_path / "roberta"
    transformers.RobertaModel(config, add_pooling_layer=False).save_pretrained(encoder)
    tokenizer.save_pretrained(encoder)
    module, lora = with_head(encoder, tmp_path / "lora", labels=6)
    found = scores(job(encoder, lora, tmp_path))
    for row, expected in zip(found, reference_scores(module, encoder), strict=True):
        assert list(row) == sorted(row, key=row.__getitem__, reverse=True)
        assert [row[f"LABEL_{at}"] for at in range(6)] == pytest.approx(expected, abs=1e-5)


def test_a_head_that_was_not_saved_is_not_made_up(encoder: Path, tmp_path: Path) -> None:
    _, lora = with_head(encoder, tmp_path / "lora")
    path = lora / "adapter_model.safetensors"
    kept = {name: value for name, value in load_file(path).items() if "classifier" not in name}
    save_file(kept, path)
    with pytest.raises(JobError, match=r"lacks weights for .* \(classifier\.bias and 1 more\)"):
        scores(job(encoder, lora, tmp_path))


def test_an_adapter_whose_updates_find_no_place_is_refused(
    base: Path, encoder: Path, tmp_path: Path
) -> None:
    bare = transformers.AutoModel.from_pretrained(encoder)
    lora = LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False)
    get_peft_model(bare, lora).save_pretrained(tmp_path / "lora")
    with pytest.raises(JobError, match="can't be merged: it does not fit the model's layers"):
        scores(job(base, tmp_path / "lora", tmp_path))


@pytest.mark.parametrize(
    "setting", [{"r": "x"}, {"lora_dropout": {}}, {"target_modules": "["}, {"use_bdlora": 1}]
)
def test_a_strange_setting_of_an_adapter_is_told_as_the_adapters(
    encoder: Path, tmp_path: Path, setting: dict[str, Any]
) -> None:
    _, lora = with_head(encoder, tmp_path / "lora")
    path = lora / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | setting))
    with pytest.raises(JobError, match="can't be merged"):
        scores(job(encoder, lora, tmp_path))


def test_what_an_adapter_of_the_hub_makes_of_a_model_is_known_before_it_is_fetched() -> None:
    config = {"architectures": ["BertForMaskedLM"], "id2label": {0: "LABEL_0", 1: "LABEL_1"}}
    said = {"peft_type": "LORA", "task_type": "SEQ_CLS", "modules_to_save": ["classifier"]}
    model = ModelInfo("org/base", config, commit="c0ffee")
    made = with_adapter(model, ModelInfo("org/lora", said, commit="c0ffee"))
    assert made.architectures == ("BertForSequenceClassification",)
    assert "id2label" not in made.config
    plain = with_adapter(model, ModelInfo("org/lora", said | {"modules_to_save": None}))
    assert plain.config == config
