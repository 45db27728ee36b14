"""onnxruntime as an engine: heads right to the row, and one clear line for what does not fit."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_graphs
import yaml
from click.testing import CliRunner
from onnx import TensorProto
from tiny_graphs import IDS, MASK, TYPES

from pipeline.cli.main import main
from pipeline.errors import JobError
from pipeline.job.compute import Compute
from pipeline.job.file import load_job
from pipeline.models.device import Device
from pipeline.models.engines import ENGINES
from pipeline.models.heads import HeadName
from pipeline.models.onnx import engine as engine_module
from pipeline.models.onnx.heads import OnnxHead, pool
from pipeline.models.onnx.session import Session
from pipeline.models.resolve import look_up
from pipeline.models.text.texts import TaskInput
from pipeline.tasks import TASKS

pytestmark = pytest.mark.unit

ENGINE = ENGINES["onnxruntime"]
HEADS: dict[str, HeadName] = {
    "logits": "sequence-classification",
    "tags": "token-classification",
    "last_hidden_state": "encoder",
    "sentence_embedding": "encoder",
}
TEXTS = ["w1 w2", "w3", " ".join(f"w{i}" for i in range(25)), "w9 w9 w9 w9", "w59"]


def opened(folder: Path, gives: str, *, budget: int | None = None) -> Any:
    """A head of a folder, checked as a job's is."""
    reference = str(folder)
    info = look_up(reference, weights=ENGINE.weights)
    ENGINE.check(info, head=HEADS[gives], adapter=None)
    models = ENGINE.open({reference: info}, device=Device("cpu"), budget=budget)
    if gives == "logits":
        return models.classifier(reference)
    return models.token_classifier(reference) if gives == "tags" else models.encoder(reference)


def inferred(head: OnnxHead, texts: list[str], **how: Any) -> Any:
    sequences, _ = head.text.windows(head.text.encode(texts))
    ask = next(n for n in ("logits", "scores", "vectors") if hasattr(head, n))
    return getattr(head, ask)(sequences, **how)


def by_hand(text: str, width: int = 3, *, typed: bool = True) -> np.ndarray:
    """The row of each token of a text, special tokens included."""
    ids = [2, *(tiny_graphs.WORDS.index(word) for word in text.split()), 3]
    kinds = np.arange(width, dtype=np.float32) if typed else 0
    return tiny_graphs.table(width)[ids] + kinds


def softmax(rows: np.ndarray) -> np.ndarray:
    exp = np.exp(rows - rows.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


@pytest.mark.parametrize("budget", [1, 40, 4096])
def test_a_classifier_gives_each_row_the_same_in_any_batch(tmp_path: Path, budget: int) -> None:
    found = inferred(opened(tiny_graphs.folder(tmp_path), "logits", budget=budget), TEXTS)
    assert found.failures == {}
    for text, row in zip(TEXTS, found.results, strict=True):
        assert row == pytest.approx(by_hand(text).mean(0), abs=1e-5)
    assert found.tokens == sum(len(text.split()) + 2 for text in TEXTS)


def test_a_token_classifier_gives_each_token_its_scores(tmp_path: Path) -> None:
    found = inferred(opened(tiny_graphs.folder(tmp_path, "tags"), "tags"), TEXTS)
    for text, rows in zip(TEXTS, found.results, strict=True):
        assert rows.shape == (len(text.split()) + 2, 3)
        assert rows == pytest.approx(softmax(by_hand(text)), abs=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_an_encoder_pools_the_vectors_of_tokens_as_torch_does(tmp_path: Path, pooling: Any) -> None:
    import torch

    from pipeline.models.torch.pooling import pool as torch_pool

    folder = tiny_graphs.folder(tmp_path, "last_hidden_state")
    found = inferred(opened(folder, "last_hidden_state"), TEXTS, pooling=pooling)
    of = {"mean": lambda rows: rows.mean(0), "cls": lambda rows: rows[0],
          "max": lambda rows: rows.max(0)}  # fmt: skip
    for text, vector in zip(TEXTS, found.results, strict=True):
        assert vector == pytest.approx(of[pooling](by_hand(text)), abs=1e-5)
    hidden = np.random.default_rng(1).normal(size=(3, 5, 4)).astype(np.float32)
    mask = (np.arange(5) < np.array([[5], [2], [1]])).astype(np.int64)
    for given in (None, mask):
        theirs = torch_pool(
            torch.from_numpy(hidden),
            None if given is None else torch.from_numpy(given),
            how=pooling,
        )
        assert pool(hidden, given, how=pooling) == pytest.approx(theirs.numpy(), abs=1e-6)


def test_vectors_that_are_pooled_in_the_graph_are_taken_as_they_are_and_no_other_way(
    tmp_path: Path,
) -> None:
    head = opened(tiny_graphs.folder(tmp_path, "sentence_embedding"), "sentence_embedding")
    found = inferred(head, TEXTS, pooling="mean")
    for text, vector in zip(TEXTS, found.results, strict=True):
        assert vector == pytest.approx(by_hand(text).mean(0), abs=1e-5)
    with pytest.raises(JobError, match="can't be pooled by max"):
        inferred(head, TEXTS, pooling="max")


@pytest.mark.parametrize(
    "how",
    [
        {"takes": (IDS, MASK)},
        {"takes": (IDS, MASK, TYPES, "position_ids")},
        {"kind": TensorProto.INT32},
        {"shape": (None, None)},
        {"said": None},
        {"named": "output_0"},
        {"file": "model.onnx"},
        {"file": "onnx/model_quantized.onnx"},
    ],
)
def test_a_graph_is_fed_by_the_names_and_types_of_its_own_inputs(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    found = inferred(opened(tiny_graphs.folder(tmp_path, **how), "logits"), TEXTS)
    typed = TYPES in how.get("takes", (TYPES,))
    for text, row in zip(TEXTS, found.results, strict=True):
        assert row == pytest.approx(by_hand(text, typed=typed).mean(0), abs=1e-5)


def unimportable(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime is installed, and can't be imported."""
    monkeypatch.setattr(engine_module, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


def refusal(folder: Path, gives: str = "logits") -> str:
    with pytest.raises(JobError) as caught:
        opened(folder, gives)
    said = str(caught.value)
    assert "\n" not in said
    assert caught.value.hint
    assert str(folder) in said
    assert "onnx/model.onnx" in said
    return said


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"takes": (IDS, MASK, "past_key_values.0.key")}, "wants an input 'past_key_values.0.key'"),
        ({"kind": TensorProto.FLOAT}, "not of whole numbers"),
        ({"shape": (1, 128)}, "batches of one shape only ('input_ids': 1 x 128)"),
        ({"shape": ("rows", 128)}, "batches of one shape only ('input_ids': any x 128)"),
        ({"shape": ("a", "b", "c")}, "batches of one shape only"),
        ({"width": 5, "id2label": {"0": "a", "1": "b"}}, "gives 5 labels, and config.json says 2"),
        ({"id2label": {}, "num_labels": "x"}, "gives 3 labels, and config.json says 'x'"),
        ({"id2label": None}, "gives 3 labels, and config.json says 2"),
        ({"said": [None, None, 3]}, "of 3 dimensions, and not 2"),
        ({"takes": (IDS, "position_ids"), "model_type": "roberta"}, "wants position_ids, which"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused_without_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], said: str
) -> None:
    folder = tiny_graphs.folder(tmp_path, **how)
    unimportable(monkeypatch)
    assert said in refusal(folder)


def test_a_graph_that_takes_no_tokens_is_refused(tmp_path: Path) -> None:
    import onnx

    folder = tiny_graphs.folder(tmp_path)
    made = onnx.load(folder / "onnx/model.onnx")
    made.graph.input[0].name = "token_type_ids"
    onnx.save(made, folder / "onnx/model.onnx")
    assert "has no input called input_ids" in refusal(folder)


def test_a_graph_of_another_head_is_refused_by_what_it_gives(tmp_path: Path) -> None:
    folder = tiny_graphs.folder(tmp_path / "a", "sentence_embedding", said=[None, 7])
    assert "gives 7 numbers for a token, and config.json says 3" in refusal(
        folder, "sentence_embedding"
    )
    import onnx

    folder = tiny_graphs.folder(tmp_path / "b", "logits")
    made = onnx.load(folder / "onnx/model.onnx")
    made.graph.output.add().CopyFrom(made.graph.output[0])
    made.graph.output[0].name, made.graph.output[1].name = "sum", "count"
    onnx.save(made, folder / "onnx/model.onnx")
    assert "gives 'count', 'sum', and for encoder there has to be last_hidden_state" in refusal(
        folder, "last_hidden_state"
    )


@pytest.mark.parametrize(
    ("gives", "how", "said"),
    [
        ("logits", {"width": 5, "said": None, "id2label": {"0": "a"}}, "gives 5 labels"),
        ("tags", {"width": 5, "said": None, "id2label": {"0": "a"}}, "gives 5 labels"),
    ],
)
def test_what_a_graph_does_not_say_shows_when_it_is_loaded(
    tmp_path: Path, gives: str, how: dict[str, Any], said: str
) -> None:
    assert said in refusal(tiny_graphs.folder(tmp_path, gives, **how), gives)


def test_what_onnxruntime_makes_of_a_broken_graph_is_one_line(tmp_path: Path, capfd: Any) -> None:
    import onnx

    folder = tiny_graphs.folder(tmp_path)
    made = onnx.load(folder / "onnx/model.onnx")
    made.graph.node[0].op_type = "NoSuchThing"
    onnx.save(made, folder / "onnx/model.onnx")
    assert "can't be loaded for sequence-classification from onnx/model.onnx" in refusal(folder)
    assert capfd.readouterr().err == ""


def test_a_row_that_makes_the_graph_raise_stands_alone(tmp_path: Path, capfd: Any) -> None:
    head = opened(tiny_graphs.folder(tmp_path), "logits")
    texts = [*TEXTS, "w1 poison", *TEXTS]
    found = inferred(head, texts)
    assert list(found.failures) == [len(TEXTS)]
    assert found.failures[len(TEXTS)].code == "model_error"
    for at, text in enumerate(texts):
        if at != len(TEXTS):
            assert found.results[at] == pytest.approx(by_hand(text).mean(0), abs=1e-5)
    assert capfd.readouterr().err == ""


def test_a_batch_that_does_not_fit_the_memory_is_made_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = opened(tiny_graphs.folder(tmp_path), "logits", budget=512)
    real = head.session._session

    class Full:
        def run(self, names: Any, feed: dict[str, np.ndarray], options: Any) -> Any:
            if feed[IDS].size > 100:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 1")
            return real.run(names, feed, options)

    monkeypatch.setattr(head.session, "_session", Full())
    found = inferred(head, TEXTS * 8)
    assert found.failures == {}
    assert head.runner.budget <= 256
    assert found.results[0] == pytest.approx(by_hand(TEXTS[0]).mean(0), abs=1e-5)


def test_a_graph_that_overlooks_its_mask_computes_rows_of_one_length_together(
    tmp_path: Path,
) -> None:
    head = opened(tiny_graphs.folder(tmp_path, takes=(IDS, TYPES)), "logits", budget=4096)
    seen: list[tuple[int, ...]] = []
    real = head.session.run

    def run(ids: np.ndarray, mask: Any, *, typed: bool) -> np.ndarray:
        seen.append(ids.shape)
        return real(ids, mask, typed=typed)

    head.session.run = run
    texts = [*TEXTS, "w7 w8"]
    for text, row in zip(texts, inferred(head, texts).results, strict=True):
        assert row == pytest.approx(by_hand(text).mean(0), abs=1e-5)
    assert sorted(seen) == [(1, 6), (1, 27), (2, 3), (2, 4)]


@pytest.mark.parametrize("file", ["model.onnx", "onnx/model.onnx"])
def test_what_is_called_like_an_onnx_file_and_is_a_folder_is_refused(
    tmp_path: Path, file: str
) -> None:
    folder = tiny_graphs.folder(tmp_path, file=file)
    (folder / file).unlink()
    (folder / file).mkdir()
    with pytest.raises(JobError, match=f"model {folder}: {file} is no file"):
        look_up(str(folder), weights=ENGINE.weights)


def test_rows_that_would_share_a_scale_are_computed_one_by_one(tmp_path: Path) -> None:
    head = opened(tiny_graphs.folder(tmp_path, quantized=True), "logits", budget=4096)
    together = inferred(head, TEXTS).results
    alone = [inferred(head, [text]).results[0] for text in TEXTS]
    assert [row.tolist() for row in together] == [row.tolist() for row in alone]


def test_how_far_an_inference_is_is_reported(tmp_path: Path) -> None:
    head = opened(tiny_graphs.folder(tmp_path), "logits", budget=32)
    heard: list[float] = []
    with head.runner.device.reporting(heard.append):
        inferred(head, TEXTS * 4)
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(1.0)
    assert len(heard) > 4
    assert head.runner.device.tokens > 0


@pytest.fixture
def pairs() -> Callable[[Path], Any]:
    """Loads `classify` of pairs from a folder and annotates one pair."""

    def annotate(folder: Path) -> Any:
        reference = str(folder)
        info = look_up(reference, weights=ENGINE.weights)
        kind = TASKS["classify"]
        options = {"kind": "classify", "model": reference, "pair": "second", "activation": "none"}
        task = kind(kind.Options.model_validate(options))
        loaded = task.load(ENGINE.open({reference: info}, device=Device("cpu")))
        return loaded.annotate(TaskInput(["w1 w2"], {"second": ["w3"]})).column.to_pylist()[0]

    return annotate


def test_the_second_text_of_a_pair_has_the_type_of_its_own(
    tmp_path: Path, pairs: Callable[[Path], Any]
) -> None:
    row = pairs(tiny_graphs.folder(tmp_path))
    ids = [2, 5, 6, 3, 7, 3]
    kinds = np.arange(6, dtype=np.float32).reshape(2, 3)[[0, 0, 0, 0, 1, 1]]
    wanted = (tiny_graphs.table(3)[ids] + kinds).mean(0)
    scores = {one["label"]: one["score"] for one in row["scores"]}
    assert [scores[f"B-L{i}"] for i in range(3)] == pytest.approx(wanted.tolist(), abs=1e-5)


def test_pairs_that_a_graph_can_not_tell_apart_are_refused(
    tmp_path: Path, pairs: Callable[[Path], Any]
) -> None:
    with pytest.raises(JobError, match="takes no token_type_ids"):
        pairs(tiny_graphs.folder(tmp_path, takes=(IDS, MASK)))


def test_a_family_that_reads_the_types_of_a_single_text_needs_a_graph_that_takes_them(
    tmp_path: Path,
) -> None:
    folder = tiny_graphs.folder(tmp_path, takes=(IDS, MASK), model_type="funnel")
    assert "takes no token_type_ids, without which it reads texts wrongly" in refusal(folder)


# What a job says


def job_file(tmp_path: Path, folder: Path, *, compute: Any = None, **task: Any) -> Path:
    content = {
        "name": "test",
        "input": {"path": str(tmp_path / "in")},
        "output": {"path": str(tmp_path / "out")},
        "tasks": {"label": {"kind": "classify", "model": str(folder), **task}},
        "compute": {"engine": "onnxruntime"} if compute is None else compute,
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def validated(path: Path) -> str:
    done = CliRunner().invoke(main, ["validate", str(path)])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_validate_names_the_task_whose_model_has_no_onnx_file(tmp_path: Path) -> None:
    folder = tiny_graphs.folder(tmp_path / "m")
    (folder / "onnx/model.onnx").rename(folder / "onnx/model.ort")
    said = validated(job_file(tmp_path, folder))
    assert said.startswith(f"Error: tasks.label: model {folder} has no ONNX file")
    assert "or leave compute.engine at torch" in said


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"kind": "answer", "question": "Who?"}, "does not compute models for question-answering"),
        ({"kind": "generate", "instruction": "Say it."}, "does not compute models for causal"),
    ],
)
def test_validate_refuses_what_the_engine_has_no_head_for(
    tmp_path: Path, task: dict[str, Any], said: str
) -> None:
    archs = {"answer": "BertForQuestionAnswering", "generate": "LlamaForCausalLM"}
    folder = tiny_graphs.folder(
        tmp_path / "m",
        architectures=[archs[task["kind"]]],
        model_type="llama" if task["kind"] == "generate" else "bert",
    )
    if task["kind"] == "generate":
        said_of = json.loads((folder / "tokenizer_config.json").read_text())
        template = said_of | {"chat_template": "{{ messages }}"}
        (folder / "tokenizer_config.json").write_text(json.dumps(template))
    assert said in validated(job_file(tmp_path, folder, **task))


def test_validate_says_how_onnxruntime_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "find_spec", lambda name: None)
    said = validated(job_file(tmp_path, tiny_graphs.folder(tmp_path / "m")))
    assert "needs the onnxruntime package, which is not installed" in said
    assert "pip install 'shardscribe[onnx]'" in said


def test_a_worker_that_can_not_import_onnxruntime_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_graphs.folder(tmp_path)
    unimportable(monkeypatch)
    with pytest.raises(JobError, match=r"can't be imported here .*pip install"):
        opened(folder, "logits")


def test_a_gpu_that_onnxruntime_was_not_built_for_is_refused(tmp_path: Path) -> None:
    folder = tiny_graphs.folder(tmp_path)
    device: Any = SimpleNamespace(name="cuda")
    with pytest.raises(JobError, match=r"compute\.device is cuda, but onnxruntime .* CPU only"):
        Session(folder / "onnx/model.onnx", None, device=device)  # type: ignore[arg-type]


def test_an_adapter_is_refused_with_its_name(tmp_path: Path) -> None:
    folder = tiny_graphs.folder(tmp_path)
    info = look_up(str(folder), weights=ENGINE.weights)
    with pytest.raises(JobError, match="can't be merged into an ONNX file"):
        ENGINE.check(info, head="sequence-classification", adapter=info)
    with pytest.raises(JobError, match="can't be merged"):
        ENGINE.open({}, device=Device("cpu")).with_adapter("lora")


@pytest.mark.parametrize(
    ("said", "became"),
    [
        ({}, ("cpu", "float32")),
        ({"device": "auto", "dtype": "auto"}, ("cpu", "float32")),
        ({"device": "cuda"}, ("cuda", "float32")),
        ({"dtype": "float32"}, ("cpu", "float32")),
    ],
)
def test_with_onnxruntime_nothing_is_left_to_the_machine(
    said: dict[str, str], became: tuple[str, str]
) -> None:
    compute = Compute.model_validate({"engine": "onnxruntime", **said})
    assert (compute.device, compute.dtype) == became


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        ({"engine": "onnxruntime", "dtype": "bfloat16"}, "the ONNX file decides the arithmetic"),
        ({"engine": "onnx"}, "compute.engine"),
        ({"engine": None}, "compute.engine"),
        ({"engine": ["torch"]}, "compute.engine"),
    ],
)
def test_a_wrong_engine_or_dtype_is_a_mistake_of_the_job(
    tmp_path: Path, compute: dict[str, Any], said: str
) -> None:
    assert said in validated(job_file(tmp_path, tmp_path, compute=compute))


def test_the_engine_is_part_of_the_fingerprint_only_where_it_is_not_torch(tmp_path: Path) -> None:
    path = job_file(tmp_path, tmp_path, compute={})
    plain = load_job(path).on("cpu").fingerprint_parts({str(tmp_path): "r"})
    for said in ("torch", "onnxruntime"):
        job = load_job(path, overrides=[f"compute.engine={said}"]).on("cuda")
        parts = job.on("cpu").fingerprint_parts({str(tmp_path): "r"})
        if said == "torch":
            assert "engine" not in parts
        else:
            assert parts == {**plain, "engine": "onnxruntime"}
