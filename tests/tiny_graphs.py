"""ONNX models of some numbers, as model folders: each token has a row of a table, and a text the
mean of its tokens' rows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(60)), "poison"]
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
KINDS = {
    "logits": "BertForSequenceClassification",
    "tags": "BertForTokenClassification",
    "last_hidden_state": "BertModel",
    "sentence_embedding": "BertModel",
}


def table(width: int) -> np.ndarray:
    """The row of each word; `poison` has none."""
    rows = len(WORDS) - 1
    return np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)


def folder(
    path: Path,
    gives: str = "logits",
    *,
    takes: Sequence[str] = (IDS, MASK, TYPES),
    width: int = 3,
    file: str = "onnx/model.onnx",
    kind: int = TensorProto.INT64,
    shape: Sequence[Any] = ("rows", "tokens"),
    named: str = "",
    said: Any = "right",
    quantized: bool = False,
    **config: Any,
) -> Path:
    """A model folder with an ONNX file and no other weights.

    Args:
        path: Where it goes.
        gives: A key of `KINDS`: the mean of a text's rows, or each token's.
        takes: Its inputs.
        width: Numbers in a row.
        file: Where the graph goes.
        kind: The element type of its inputs.
        shape: Of its inputs.
        named: What the output is called; as `gives` by default.
        said: The output's shape as the graph says it.
        quantized: Whether rows go through whole numbers that are scaled by the batch's largest.
        config: More for ``config.json``.
    """
    path.mkdir(parents=True, exist_ok=True)
    labels = {"id2label": {str(i): f"B-L{i}" for i in range(width)}}
    content = {
        "architectures": [KINDS[gives]],
        "model_type": "bert",
        "vocab_size": len(WORDS),
        "hidden_size": width,
        "max_position_embeddings": 32,
        "pad_token_id": 0,
        **(labels if gives in ("logits", "tags") else {}),
        **config,
    }
    (path / "config.json").write_text(json.dumps(content))
    tokenizer(path)
    output = named or {"tags": "logits"}.get(gives, gives)
    inputs = [helper.make_tensor_value_info(name, kind, list(shape)) for name in takes]
    dims: Any = [None, width] if gives in ("logits", "sentence_embedding") else [None, None, width]
    dims = dims if said == "right" else said
    graph = helper.make_graph(
        _nodes(gives, takes, output, quantized=quantized),
        "g",
        inputs,
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, dims)],
        initializer=[
            numpy_helper.from_array(table(width), "table"),
            numpy_helper.from_array(np.arange(2 * width, dtype=np.float32).reshape(2, -1), "kinds"),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "one"),
            numpy_helper.from_array(np.array([2], dtype=np.int64), "two"),
        ],
    )
    (path / file).parent.mkdir(exist_ok=True)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path / file)
    return path


def _nodes(gives: str, takes: Sequence[str], output: str, *, quantized: bool) -> list[Any]:
    whole = gives in ("logits", "sentence_embedding")
    node = helper.make_node
    out = [node("Gather", ["table", IDS], ["rows"])]
    if TYPES in takes:
        out += [node("Gather", ["kinds", TYPES], ["k"]), node("Add", ["rows", "k"], ["typed"])]
    else:
        out += [node("Identity", ["rows"], ["typed"])]
    if quantized:
        out += [
            node("DynamicQuantizeLinear", ["typed"], ["q", "scale", "zero"]),
            node("DequantizeLinear", ["q", "scale", "zero"], ["each"]),
        ]
    else:
        out += [node("Identity", ["typed"], ["each"])]
    if not whole:
        return [*out, node("Identity", ["each"], [output])]
    if MASK not in takes:
        return [*out, node("ReduceMean", ["each"], [output], axes=[1], keepdims=0)]
    return [
        *out,
        node("Cast", [MASK], ["m"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["m", "two"], ["mask"]),
        node("Mul", ["each", "mask"], ["inside"]),
        node("ReduceSum", ["inside", "one"], ["sum"], keepdims=0),
        node("ReduceSum", ["mask", "one"], ["count"], keepdims=0),
        node("Div", ["sum", "count"], [output]),
    ]


def tokenizer(path: Path) -> None:
    """One token for a word, [CLS] before and [SEP] behind, the second of two texts of type 1."""
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    backend.save(str(path / "tokenizer.json"))
    said: Mapping[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "model_max_length": 32,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(said))
