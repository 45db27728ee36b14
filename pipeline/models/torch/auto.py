"""Which class of transformers loads a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models.folder import SCRATCH
from pipeline.models.heads import HeadName
from pipeline.models.resolve import ModelInfo

# The transformers class that loads a model with a head.
AUTO_CLASSES: Mapping[HeadName, str] = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "encoder": "AutoModel",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "causal": "AutoModelForCausalLM",
}


def auto_class(info: ModelInfo, head: HeadName) -> Any:
    """The class that loads a model with a head; it knows what is trained from scratch here, too."""
    import transformers

    if info.config.get("model_type") == SCRATCH:
        register()
    return getattr(transformers, AUTO_CLASSES[head])


def register() -> None:
    """Lets transformers load a folder of what was trained from scratch as any other."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    from pipeline.models.torch.scratch import ScratchConfig, ScratchForConditionalGeneration

    AutoConfig.register(SCRATCH, ScratchConfig, exist_ok=True)
    AutoModelForSeq2SeqLM.register(ScratchConfig, ScratchForConditionalGeneration, exist_ok=True)
