"""What sentence-transformers would make of a model's token vectors, from the files it has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pipeline.errors import JobError
from pipeline.models.heads import Pooling
from pipeline.models.resolve import ModelInfo

WRITING = ("ForConditionalGeneration", "ForCausalLM", "LMHeadModel")
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
# Modules that need no weights of their own; dropout does nothing outside of training.
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize", "Dropout")
# How architectures call the width of their token vectors in config.json.
WIDTHS = ("hidden_size", "d_model", "dim", "n_embd", "emb_dim")
OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class SentenceFiles:
    """What sentence-transformers would do with a model, from the files it has for that.

    A model without any is pooled by its mean and not normalised, as sentence-transformers does.

    Attributes:
        pooling: ``mean``, ``cls``, ``max``, or what else the file names.
        normalize: Whether vectors are brought to length 1.
        max_tokens: Tokens that the model was made for, special tokens included; None if unsaid.
        lower: Whether texts are lowercased before the tokenizer sees them.
        prompt: What goes before every text.
    """

    pooling: str = "mean"
    normalize: bool = False
    max_tokens: int | None = None
    lower: bool = False
    prompt: str = ""

    @classmethod
    def of(cls, folder: Path, *, reference: str) -> SentenceFiles:
        """Reads them.

        Args:
            folder: The model's.
            reference: How the job names the model, for messages.

        Raises:
            JobError: The model has a part that is not built here, such as a dense layer.
        """
        modules = _json(folder / "modules.json", [])
        kinds = {str(part.get("type", "")).rpartition(".")[2]: part for part in modules}
        strange = [kind for kind in kinds if kind not in KNOWN_MODULES]
        if strange:
            raise JobError(
                f"model {reference} has a {strange[0]} module after its transformer "
                "(modules.json), which would be left out",
                hint="Name a sentence encoder of Transformer, Pooling and Normalize only",
            )
        pooling = _json(folder / kinds.get("Pooling", {}).get("path", "1_Pooling") / "config.json")
        limits = _json(folder / "sentence_bert_config.json")
        prompts = _json(folder / "config_sentence_transformers.json")
        prompt = (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name") or "", "")
        if prompt and not pooling.get("include_prompt", True):
            raise JobError(
                f"model {reference} leaves its prompt out of the pooling (include_prompt: false), "
                "which is not built here",
                hint="Name another sentence encoder",
            )
        return cls(
            _mode(pooling),
            "Normalize" in kinds,
            limits.get("max_seq_length"),
            bool(limits.get("do_lower_case")),
            prompt or "",
        )


def _json(path: Path, default: Any = None) -> Any:
    if not path.is_file():
        return {} if default is None else default
    return json.loads(path.read_text(encoding="utf-8"))


def _mode(config: Mapping[str, Any]) -> str:
    """The pooling of a ``1_Pooling/config.json``, in its form of today or the one before 2026."""
    named = config.get("pooling_mode")
    if named is None:
        named = [mode for key, mode in OLD_MODES.items() if config.get(key)] or "mean"
    return named if isinstance(named, str) else "+".join(named)


def known_pooling(pooling: str, *, reference: str) -> Pooling:
    """A pooling that encoders can be asked for.

    Raises:
        JobError: It is another.
    """
    for known in POOLINGS:
        if pooling == known:
            return known
    raise JobError(
        f"model {reference} pools by {pooling}, which is not built here",
        hint=f"Name an encoder that pools by one of {', '.join(POOLINGS)}, or for embed set "
        "pooling to one of them",
    )


def width(config: Mapping[str, Any], *, reference: str) -> int:
    """The dimension of a model's vectors, from its ``config.json`` alone.

    Raises:
        JobError: The file does not say.
    """
    for name in WIDTHS:
        if isinstance(config.get(name), int):
            return int(config[name])
    raise JobError(
        f"model {reference}: config.json does not say how wide the model is ({', '.join(WIDTHS)})",
        hint="Name a text encoder",
    )


def check_encodes(model: ModelInfo, *, kind: str, pooling: str = "auto") -> None:
    """Refuses a model that has no one vector per token, or a part that is not built here.

    Args:
        model: As it was looked up.
        kind: Of task, for messages.
        pooling: As the job says it; ``auto``: as the model's files say.

    Raises:
        JobError: The model writes text, or its files ask for more than pooling.
    """
    if model.is_encoder_decoder or any(a.endswith(WRITING) for a in model.architectures):
        raise JobError(
            f"model {model.reference} is a {' / '.join(model.architectures)}; {kind} needs an "
            "encoder",
            hint="Name an encoder such as starter/minilm",
        )
    if model.folder is not None:
        files = SentenceFiles.of(model.folder, reference=model.reference)
        named = files.pooling if pooling == "auto" else pooling
        known_pooling(named, reference=model.reference)
