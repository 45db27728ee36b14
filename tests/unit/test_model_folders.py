"""A model that can't be loaded, or whose texts would mean nothing, is refused before a start."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from helpers import PATIENCE, hollow_model, hollow_weights, tiny_classifier

from pipeline.cli.main import main
from pipeline.errors import JobError
from pipeline.models.device import Device
from pipeline.models.resolve import fetch, look_up
from pipeline.models.torch.load import TorchModels

pytestmark = pytest.mark.unit

BERT = "BertForSequenceClassification"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return hollow_model(tmp_path / "model", BERT)


def refusal(folder: Path) -> str:
    with pytest.raises(JobError) as caught:
        look_up(str(folder))
    said = str(caught.value)
    assert "\n" not in said
    assert caught.value.hint
    assert str(folder) in said
    return said


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# Tokenizers


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"tokenizer_config.json": '{"tokenizer_class": "BertTokenizer"}'},
        {"special_tokens_map.json": "{}", "added_tokens.json": "{}"},
        {"vocab.json": "{}", "tokenizer_config.json": '{"tokenizer_class": "RobertaTokenizer"}'},
    ],
)
def test_a_model_without_a_tokenizer_is_refused(folder: Path, files: dict[str, str]) -> None:
    (folder / "tokenizer.json").unlink()
    for name, content in files.items():
        (folder / name).write_text(content)
    said = refusal(folder)
    assert "no tokenizer" in said
    assert "AutoTokenizer.from_pretrained(...).save_pretrained(" in said


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b'{"model": {"type": "WordLevel", "vocab": {"a": 0}',
        b'{"version": "1.0", "model": {"type": "WordLevel", "vocab": {}, "unk_token": "a"}}',
        b'{"version": "1.0", "model": {"type": "Sorcery", "vocab": {"a": 0}}}',
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
)
def test_a_broken_tokenizer_is_refused(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    assert "tokenizer.json" in refusal(folder)


@pytest.mark.parametrize(
    "added",
    [
        {"added_tokens_decoder": {"9": {"content": "<new>"}}},
        {"added_tokens_decoder": {"x": {"content": "<new>"}}},
        {"added_tokens_decoder": {"1": "<new>"}},
        {"added_tokens_decoder": {"1": {"text": "<new>"}}},
        {"added_tokens_decoder": [1]},
    ],
)
def test_added_tokens_that_contradict_the_tokenizer_are_refused(
    folder: Path, added: dict[str, Any]
) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(added))
    refusal(folder)


@pytest.mark.parametrize(
    ("family", "kind", "files"),
    [
        ("bert", "BertTokenizer", ("vocab.txt",)),
        ("distilbert", None, ("vocab.txt",)),
        ("roberta", "RobertaTokenizerFast", ("vocab.json", "merges.txt")),
        ("gpt_neo", None, ("vocab.json", "merges.txt")),
    ],
)
def test_older_files_serve_where_transformers_still_reads_them_right(
    folder: Path, family: str, kind: str | None, files: tuple[str, ...]
) -> None:
    (folder / "tokenizer.json").unlink()
    change(folder / "config.json", model_type=family)
    if kind:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    for name in files:
        (folder / name).write_text("a\n")
    assert look_up(str(folder)).config["model_type"] == family
    (folder / files[-1]).write_text("")
    assert f"{files[-1]} is empty" in refusal(folder)


@pytest.mark.parametrize(
    ("family", "kind", "file"),
    [
        ("albert", None, "spiece.model"),
        ("bert", "BertJapaneseTokenizer", "vocab.txt"),
        ("deberta", "DebertaTokenizer", "merges.txt"),
        ("deberta-v2", "DebertaV2TokenizerFast", "spm.model"),
        ("marian", "MarianTokenizer", "source.spm"),
        ("m2m_100", "NllbTokenizer", "sentencepiece.bpe.model"),
        ("roberta", "BertweetTokenizer", "bpe.codes"),
        ("xlnet", None, "spiece.model"),
    ],
)
def test_older_files_that_would_be_read_otherwise_are_refused_by_name(
    folder: Path, family: str, kind: str | None, file: str
) -> None:
    (folder / "tokenizer.json").unlink()
    change(folder / "config.json", model_type=family)
    if kind:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    (folder / file).write_text("a\n")
    said = refusal(folder)
    assert f"no tokenizer.json, and from {file} transformers makes another" in said
    assert "transformers 4.57" in said


# Weights


def weights(header: bytes, body: bytes = b"", *, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + body


GOOD = hollow_weights("w", "b")
ONE = b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234",
        GOOD[:20],
        GOOD[:-1],
        GOOD + b"more",
        weights(b"{}", length=1 << 40),
        weights(b"{}", length=(1 << 64) - 1),
        weights(b"{}", length=0),
        weights(b'{"w": ', b"1234"),
        weights(b"\xff\xff"),
        weights(b"[]"),
        weights(b'{"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}', bytes(8)),
        weights(b'{"w": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}', bytes(8)),
        weights(b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}', bytes(8)),
        weights(b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [99, 107]}}', bytes(8)),
        weights(ONE, bytes(4)),
    ],
)
def test_broken_or_cut_weights_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert "model.safetensors is broken or cut short" in refusal(folder)


def test_whole_weights_pass(folder: Path) -> None:
    for content in (GOOD, weights(ONE, bytes(8)), weights(b"{}")):
        (folder / "model.safetensors").write_bytes(content)
        look_up(str(folder))


def test_a_git_lfs_pointer_is_told_with_the_command_that_fetches_the_file(folder: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / "model.safetensors").write_bytes(pointer)
    assert "git lfs pull" in refusal(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"w": "a.safetensors", "b": "gone.safetensors"}}, "gone.safetensors"),
        ({"weight_map": {"w": "a.safetensors", "v": "a.safetensors"}}, "a.safetensors lacks 'v'"),
        ({"weight_map": {"w": "../a.safetensors"}}, "which is not there"),
        ({"weight_map": {"w": 3}}, "which is not there"),
        ({"weight_map": {}}, "no weight_map"),
        ({}, "no weight_map"),
        ([], "not a JSON object"),
        ("", "not a JSON object"),
    ],
)
def test_an_index_of_weights_that_are_not_there_is_refused(
    folder: Path, index: Any, message: str
) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "a.safetensors").write_bytes(GOOD)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert message in refusal(folder)
    good = {"weight_map": {"w": "a.safetensors", "b": "a.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(good))
    look_up(str(folder))
    (folder / "a.safetensors").write_bytes(GOOD[:-2])
    assert "a.safetensors is broken" in refusal(folder)


def test_weights_of_another_name_are_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    assert "no weights (model.safetensors), only consolidated.safetensors" in refusal(folder)


def test_a_layer_of_sentence_transformers_that_is_cut_short_is_refused(folder: Path) -> None:
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense/model.safetensors").write_bytes(GOOD[:-1])
    assert "broken or cut short" in refusal(folder)


# Configurations


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "config.json is not JSON"),
        (b"{'model_type': 'bert'}", "config.json is not JSON"),
        (b"\xff", "config.json is not JSON"),
        (b"[1]", "config.json is not a JSON object"),
        (b"[" * 100_000, "config.json is"),
        (b"{}", "config.json has no model_type"),
        (b'{"model_type": 3}', "config.json has no model_type"),
        (b'{"model_type": "bert", "architectures": "BertModel"}', "architectures"),
        (b'{"model_type": "bert", "id2label": ["a"]}', "id2label"),
        (b'{"model_type": "bert", "architectures": [{"a": 1}]}', "architectures"),
        (b'{"model_type": "sorcery"}', "is a 'sorcery', which transformers"),
    ],
)
def test_a_configuration_that_is_none_is_refused(
    folder: Path, content: bytes, message: str
) -> None:
    (folder / "config.json").write_bytes(content)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pad_token", True),
        ("cls_token", {"text": "[CLS]"}),
        ("sep_token", ["[SEP]"]),
        ("unk_token", 3),
        ("model_max_length", "many"),
        ("model_max_length", 0),
        ("model_max_length", -1),
        ("model_max_length", [512]),
    ],
)
def test_a_tokenizer_setting_of_another_kind_is_refused(
    folder: Path, name: str, value: Any
) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({name: value}))
    assert f"{name} in tokenizer_config.json is {value!r}" in refusal(folder)
    for longest in ("1e30", "null", "512"):
        path.write_text(f'{{"pad_token": {{"content": "a"}}, "model_max_length": {longest}}}')
        look_up(str(folder))


@pytest.mark.parametrize(
    "name",
    ["tokenizer_config.json", "generation_config.json", "special_tokens_map.json"],
)
def test_a_file_beside_the_configuration_that_is_not_json_is_refused(
    folder: Path, name: str
) -> None:
    (folder / name).write_text("{")
    assert f"{name} is not JSON" in refusal(folder)


def test_no_model_runs_code_of_its_own(folder: Path) -> None:
    change(folder / "config.json", auto_map={"AutoModel": "modeling_mine.MyModel"})
    look_up(str(folder))  # transformers has grown the class that the model once brought along
    change(folder / "config.json", architectures=["MyBertForSequenceClassification"])
    assert "needs code of its own (auto_map in config.json), and no model runs" in refusal(folder)
    change(folder / "config.json", model_type="mine")
    assert "needs code of its own" in refusal(folder)
    change(folder / "config.json", architectures=None)
    assert "needs code of its own" in refusal(folder)


@pytest.mark.parametrize("named", [["tokenization_mine.MyTokenizer", None], {"AutoTokenizer": []}])
def test_no_tokenizer_runs_code_of_its_own(folder: Path, named: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": named}))
    assert "(auto_map in tokenizer_config.json)" in refusal(folder)


def test_a_file_that_can_not_be_opened_is_told(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    refusal(folder)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("config.json", {"hidden_act": {"a": 1}}),
        ("config.json", {"is_decoder": "x"}),
        ("config.json", {"hidden_size": 10**30}),
        ("tokenizer_config.json", {"model_max_length": 2}),
    ],
)
def test_a_setting_that_only_loading_finds_wrong_is_told_as_the_models(
    tmp_path: Path, name: str, fields: dict[str, Any]
) -> None:
    folder = tiny_classifier(tmp_path / "tiny")
    change(folder / name, **fields)
    models = TorchModels({"m": look_up(str(folder))}, device=Device("cpu"), budget=64)
    with pytest.raises(JobError, match="can't be loaded for sequence-classification"):
        models.get("m", head="sequence-classification")


# Where models come from


def test_a_snapshot_of_the_hub_is_looked_at_like_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    kept = tmp_path / "models--org--name"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text("c0ffee")
    snapshot = hollow_model(kept / "snapshots/c0ffee", BERT)
    info = look_up("org/name")
    assert (info.commit, info.folder) == ("c0ffee", snapshot)
    (snapshot / "tokenizer.json").unlink()
    with pytest.raises(JobError, match="model org/name has no tokenizer"):
        look_up("org/name")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a folder what the hub has for every name."""
    import huggingface_hub

    def serve(folder: Path) -> None:
        names = [SimpleNamespace(rfilename=path.name) for path in folder.iterdir()]
        info = SimpleNamespace(siblings=names, sha="c0ffee")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
        monkeypatch.setattr(
            huggingface_hub, "hf_hub_download", lambda _, name, **__: str(folder / name)
        )
        monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))

    return serve


def test_a_model_of_the_hub_is_refused_by_the_names_of_its_files(
    folder: Path, hub: Callable[[Path], None]
) -> None:
    hub(folder)
    info = look_up("org/name")
    assert (info.folder, info.commit) == (None, "c0ffee")
    (folder / "model.safetensors").write_bytes(GOOD[:-1])
    with pytest.raises(JobError, match=r"model org/name: model\.safetensors is broken"):
        fetch(info)
    (folder / "tokenizer.json").unlink()
    hub(folder)
    with pytest.raises(JobError, match="model org/name has no tokenizer"):
        look_up("org/name")


def test_an_adapter_needs_no_tokenizer_but_its_model_does(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (lora / "adapter_model.safetensors").write_bytes(GOOD)
    assert look_up(str(lora)).is_adapter
    for saved in ("classifier", 5, [5], {"classifier": 1}):
        change(lora / "adapter_config.json", modules_to_save=saved)
        assert "modules_to_save" in refusal(lora)
    change(lora / "adapter_config.json", modules_to_save=["classifier"])
    change(lora / "adapter_config.json", megatron_config={"a": 1}, megatron_core="antigravity")
    assert "no model runs code here" in refusal(lora)
    change(lora / "adapter_config.json", megatron_config=None)
    (lora / "config.json").write_text('{"model_type": "bert", "id2label": {"0": "no"}}')
    assert look_up(str(lora)).is_adapter
    (lora / "adapter_model.safetensors").write_bytes(GOOD[:-1])
    assert "adapter_model.safetensors is broken or cut short" in refusal(lora)
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    (lora / "config.json").unlink()
    assert "only pickled weights (adapter_model.bin)" in refusal(lora)
    (lora / "adapter_config.json").write_text("{}")
    assert "adapter_config.json has no peft_type" in refusal(lora)


def validated(tmp_path: Path, folder: Path) -> Any:
    job = {
        "name": "test",
        "input": {"path": str(tmp_path / "in")},
        "output": {"path": str(tmp_path / "out")},
        "tasks": {"label": {"kind": "classify", "model": str(folder)}},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return CliRunner().invoke(main, ["validate", str(path)])


def test_validate_says_it_in_one_line_with_the_task(tmp_path: Path, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    done = validated(tmp_path, folder)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: tasks.label: model {folder} has no tokenizer")
    assert len(done.stderr.splitlines()) == 1


def test_looking_at_a_model_loads_nothing_heavy(folder: Path) -> None:
    code = (
        f"import sys; from pipeline.models.resolve import look_up; look_up({str(folder)!r});"
        "print(*{'torch', 'transformers', 'ray', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout.split() == []
