"""What of a model is text, the same whatever computes it: tokenizer, limits, labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.models.batching import Sequences
from pipeline.models.text.layout import TYPE_BIT, Layout, TokenTypes
from pipeline.models.text.texts import Encoded, TaskInput, Tokenizer
from pipeline.models.text.windows import Cuts, cut_all

# What a model that does not say how much it takes (T5's positions are relative) gets.
FALLBACK_MAX_TOKENS = 512
# How architectures call the number of their positions in config.json.
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")


class TextSide:
    """How a model is given texts, and what its labels are called.

    Args:
        tokenizer: A fast tokenizer of transformers.
        config: The model's configuration, of transformers.
        folder: Where its files are.
        types: Which token types it tells apart.
        first_position: Positions that it has but does not count: RoBERTa's kind counts from
            padding_idx + 1.

    Attributes:
        tokens: The tokenizer, as texts are encoded with it; models with the same one may share it.
        prefix: Special tokens before a text.
        suffix: Special tokens after a text.
        pad_id: The token that fills batches.
        max_tokens: The most tokens that the model takes at once, special tokens included.
        typed: Whether a single text has to come with token types.
    """

    def __init__(
        self,
        tokenizer: Any,
        config: Any,
        *,
        folder: Path,
        types: TokenTypes | None = None,
        first_position: int = 0,
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.folder = folder
        self.types = types or TokenTypes()
        self.tokens = Tokenizer(tokenizer)
        self.prefix, self.suffix = self.tokens.prefix, self.tokens.suffix
        self.pad_id = pad_token(config, tokenizer)
        self.max_tokens = longest_input(config, tokenizer, first_position=first_position)
        layout = Layout.of(tokenizer, texts=1)
        self.typed = self.types.wanted(layout)
        self._text_type = layout.types[0] << TYPE_BIT if self.typed else 0
        self._around: tuple[Sequence[int], Sequence[int]] = (self.prefix, self.suffix)
        if self.typed:
            self._around = layout.runs[0].coded(), layout.runs[1].coded()

    @property
    def room(self) -> int:
        """Content tokens that fit beside the special tokens."""
        return self.max_tokens - len(self.prefix) - len(self.suffix)

    @property
    def labels(self) -> list[str]:
        """The labels of a classifier, by class index."""
        return [str(self.config.id2label[i]) for i in range(self.config.num_labels)]

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Tokenizes texts whole, without special tokens; `TaskInput` are tokenized once for all."""
        if isinstance(texts, TaskInput):
            return texts.encoded(self.tokens)
        return self.tokens.encode(texts)

    def windows(
        self, encoded: Encoded, *, size: int | None = None, overlap: int = 0, first: bool = False
    ) -> tuple[Sequences, Cuts]:
        """Texts -> sequences that the model takes.

        Args:
            encoded: The texts' tokens.
            size: The most content tokens of a window; all that the model takes by default.
            overlap: Tokens shared by neighbouring windows of a text.
            first: Only the first window of each text.
        """
        cuts = cut_all(encoded.starts, size=size or self.room, overlap=overlap, first=first)
        ids = encoded.ids | np.int32(self._text_type) if self._text_type else encoded.ids
        return Sequences(ids, cuts.start, cuts.stop, *self._around, typed=self.typed), cuts


def pad_token(config: Any, tokenizer: Any) -> int:
    """The token that fills batches.

    The config's before the tokenizer's, as it is by the config's that modules find a text's end and
    count positions. Any token serves where there is none, as padding is masked.
    """
    known = own_pad_token(config)
    if known is None:
        known = getattr(tokenizer, "pad_token_id", None)
    return 0 if known is None else int(known)


def own_pad_token(config: Any) -> int | None:
    """The padding token by which the model itself tells padding; None if it has no such token."""
    config = config.get_text_config()
    token = getattr(config, "pad_token_id", None)
    size = getattr(config, "vocab_size", None)
    valid = isinstance(token, int) and token >= 0 and (size is None or token < size)
    return token if valid else None


def longest_input(config: Any, tokenizer: Any, *, first_position: int = 0) -> int:
    """The most tokens a model takes at once, special tokens included."""
    limits = []
    declared = getattr(tokenizer, "model_max_length", None)
    if declared is not None and declared < 10_000_000:  # transformers says 1e30 for "unknown"
        limits.append(int(declared))
    config = config.get_text_config()
    for name in POSITIONS:
        positions = getattr(config, name, None)
        if isinstance(positions, int) and positions > 0:
            limits.append(positions - first_position)
            break
    return min(limits) if limits else FALLBACK_MAX_TOKENS
