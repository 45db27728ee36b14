"""Families of models that can be asked about labels that they have not seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pipeline.errors import JobError
from pipeline.models.resolve import ModelInfo

Family = Literal["nli", "encoder", "chat"]
FAMILIES: Mapping[Family, str] = {
    "nli": "a natural language inference model",
    "encoder": "an encoder",
    "chat": "a chat model",
}


def family(model: ModelInfo) -> Family:
    """How a model can be asked about labels that it has not seen.

    Raises:
        JobError: It can't.
    """
    architectures = model.architectures
    if any(name.endswith("ForSequenceClassification") for name in architectures):
        names = [
            *(model.config.get("label2id") or {}),
            *(model.config.get("id2label") or {}).values(),
        ]
        if any(str(name).lower().startswith("entail") for name in names):
            return "nli"
        known = ", ".join(sorted({str(name) for name in names})) or "none that are named"
        raise JobError(
            f"model {model.reference} is a classifier of its own labels ({known}), without one for "
            "entailment",
            hint="Use kind: classify with it, or name an NLI model, an encoder or a chat model",
        )
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        if not model.chat_template:
            raise JobError(
                f"model {model.reference} has no chat template, so it can't be asked",
                hint="Name an instruction-tuned model",
            )
        return "chat"
    if model.is_encoder_decoder:
        raise JobError(
            f"model {model.reference} is a {' / '.join(architectures)}; zero_shot needs an NLI "
            "model, an encoder or a chat model",
            hint="Name a model such as starter/minilm or starter/smollm2",
        )
    return "encoder"
