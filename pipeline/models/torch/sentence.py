"""Sentence encoders: texts -> vectors, as a model's sentence-transformers files say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import JobError, RowError
from pipeline.models.torch.model import Model
from pipeline.models.torch.packed import Packed, PackedEncoder
from pipeline.models.torch.pooling import pool

POOLINGS = ("mean", "cls", "max")
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


def check_pooling(pooling: str, reference: str) -> None:
    """Refuses what `pipeline.models.torch.pooling.pool` does not know.

    Raises:
        JobError: As said.
    """
    if pooling not in POOLINGS:
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


@dataclass(frozen=True)
class WindowVectors:
    """The vectors of some texts' windows, in text order.

    Attributes:
        values: Float32 of shape [windows, dim]; zero where inference failed.
        owner: The text of each window, rising; each text has at least one.
        weights: Float64 of shape [windows]: tokens that the vector is pooled from.
        failures: Why, by text.
        tokens: Tokens given to the model.
        padded_tokens: The same with padding.
    """

    values: np.ndarray
    owner: np.ndarray
    weights: np.ndarray
    failures: dict[int, RowError]
    tokens: int
    padded_tokens: int


class SentenceEncoder:
    """Makes vectors with a loaded encoder.

    Args:
        model: The encoder.
        reference: How the job names it, for messages.
        pooling: ``mean``, ``cls``, ``max``, or ``auto``: as the model's files say.
        normalize: Whether vectors get length 1, or ``auto``.

    Raises:
        JobError: The model's files ask for what is not built here.
    """

    def __init__(
        self,
        model: Model,
        *,
        reference: str,
        pooling: str = "auto",
        normalize: bool | str = "auto",
    ) -> None:
        files = SentenceFiles.of(model.folder, reference=reference)
        self.model = model
        self.pooling = files.pooling if pooling == "auto" else pooling
        check_pooling(self.pooling, reference)
        self.normalize = files.normalize if normalize == "auto" else bool(normalize)
        self.lower, self.prompt = files.lower, files.prompt
        self.specials = len(model.prefix) + len(model.suffix)
        # Longer windows would fit the positions, but not what the model was trained on.
        self.room = min(model.max_tokens, files.max_tokens or model.max_tokens) - self.specials
        if self.room < 1:
            raise JobError(f"model {reference} leaves no room for a text (max_seq_length)")

    def windows(
        self, texts: Sequence[str], *, first: bool = False, wanted: np.ndarray | None = None
    ) -> WindowVectors:
        """A vector for each window of each text, not normalised yet.

        Args:
            texts: Of any length.
            first: Only the first window of each text.
            wanted: Bools of shape [texts]: those that are computed, and that what comes back is
                about; all by default.
        """
        if self.prompt or self.lower:
            given = [self.prompt + text for text in texts]
            texts = [text.lower() for text in given] if self.lower else given
        encoded = self.model.encode(texts)
        sequences, cuts = self.model.windows(encoded, size=self.room, first=first)
        owner = cuts.owner
        if wanted is not None:
            kept = np.flatnonzero(wanted[owner])
            sequences, owner = sequences.take(kept), (np.cumsum(wanted) - 1)[owner[kept]]
        inference = self.model.infer(sequences, self._forward, packed=self._packed)
        some = next((vector for vector in inference.results if vector is not None), None)
        values = np.zeros((len(owner), 0 if some is None else len(some)), dtype=np.float32)
        for at, vector in enumerate(inference.results):
            if vector is not None:
                values[at] = vector
        return WindowVectors(
            values,
            owner,
            sequences.lengths.astype(np.float64),
            {int(owner[at]): error for at, error in inference.failures.items()},
            inference.tokens,
            inference.padded_tokens,
        )

    def merge(self, found: WindowVectors, *, rows: int) -> np.ndarray:
        """One vector per text, of shape [rows, dim], normalised if the model is.

        With mean pooling it is the mean over all tokens of all windows, with max the maximum,
        with cls the mean of the windows' vectors by their tokens.
        """
        values = found.values
        if len(values) > rows:
            starts = np.searchsorted(found.owner, np.arange(rows))
            if self.pooling == "max":
                values = np.maximum.reduceat(values, starts, axis=0)
            else:
                total = np.add.reduceat(values * found.weights[:, None], starts, axis=0)
                values = total / np.add.reduceat(found.weights, starts)[:, None]
        return self.scale(values).astype(np.float32)

    def scale(self, values: np.ndarray) -> np.ndarray:
        """Vectors of length 1, if the model's are."""
        return unit(values) if self.normalize else values

    def _forward(self, ids: Any, mask: Any) -> Any:
        hidden = self.model.compute(ids, mask).last_hidden_state
        return pool(hidden, mask, how=self.pooling).cpu().numpy()

    def _packed(self, encoder: PackedEncoder, batch: Packed) -> Any:
        return encoder.pooled(batch, how=self.pooling).cpu().numpy()


def unit(values: np.ndarray) -> np.ndarray:
    """Vectors of shape [rows, dim] brought to length 1; a zero vector stays."""
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(norms, 1e-12))
