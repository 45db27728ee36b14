"""Model folders with the ONNX file of their own weights, as exporters write it."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
CLASSES = {
    "classify": ("AutoModelForSequenceClassification", "logits"),
    "ner": ("AutoModelForTokenClassification", "logits"),
    "embed": ("AutoModel", "last_hidden_state"),
}


class _Plain(torch.nn.Module):
    """A model from its three inputs to its one output.

    The mask goes in as attention adds it: made by the model itself, what is traced of it holds for
    one length only.
    """

    def __init__(self, module: Any, output: str) -> None:
        super().__init__()
        self.module = module
        self.output = output

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        hidden = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        mask = hidden.expand(-1, -1, input_ids.shape[1], -1)
        types = token_type_ids if self.module.config.type_vocab_size > 1 else input_ids * 0
        return self.module(input_ids=input_ids, attention_mask=mask, token_type_ids=types)[
            self.output
        ]


def exported(source: Path, destination: Path, *, kind: str) -> Path:
    """A copy of a model folder whose weights are an ONNX file.

    Args:
        source: A folder with safetensors.
        destination: Made.
        kind: Of the task that the model is for, a key of `CLASSES`.
    """
    shutil.copytree(source, destination, ignore=shutil.ignore_patterns("*.safetensors", "*.onnx"))
    auto, output = CLASSES[kind]
    transformers.utils.logging.disable_progress_bar()
    module = getattr(transformers, auto).from_pretrained(source, attn_implementation="eager")
    ids = torch.tensor([[5, 6, 7], [8, 9, 1]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    open_dims = {0: "rows", 1: "tokens"}
    with warnings.catch_warnings():
        # Of the exporter: that there is a newer one, which needs another package; and of tracing.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Plain(module, output).eval(),
            (ids, mask, torch.zeros_like(ids)),
            str(destination / "model.onnx"),
            input_names=list(INPUTS),
            output_names=[output],
            dynamic_axes=dict.fromkeys(INPUTS, open_dims),
            opset_version=17,
            dynamo=False,
        )
    return destination
