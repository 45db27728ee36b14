"""Heads: what a task may ask of a model. Sequences go in, numpy comes out.

An engine is what computes them: a folder beside this file. A task knows its heads and nothing of
the engine, of its device or of how it makes batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self

import numpy as np

from pipeline.models.batching import Sequences
from pipeline.models.device import Device
from pipeline.models.inference import Inference
from pipeline.models.resolve import ModelInfo
from pipeline.models.text.side import TextSide

# What a model is loaded as, in words that messages use too.
HeadName = Literal[
    "sequence-classification",
    "token-classification",
    "question-answering",
    "encoder",
    "seq2seq",
    "causal",
]
Pooling = Literal["mean", "cls", "max"]


class Head(Protocol):
    """What all heads have in common."""

    @property
    def text(self) -> TextSide:
        """How the model is given texts: its tokenizer, what fits, its labels."""
        ...


class Classifier(Head, Protocol):
    """Says of a whole sequence how well each label fits."""

    def logits(self, sequences: Sequences) -> Inference[np.ndarray]:
        """Float32 of shape [labels] for each sequence."""
        ...


class TokenClassifier(Head, Protocol):
    """Says of each token how well each label fits."""

    def scores(self, sequences: Sequences) -> Inference[np.ndarray]:
        """Float32 of shape [tokens, labels] for each sequence, special tokens included.

        The scores of a token add up to 1.
        """
        ...


class SpanScorer(Head, Protocol):
    """Says of each token how well a span, such as an answer, starts or ends with it."""

    def logits(self, sequences: Sequences) -> Inference[np.ndarray]:
        """Float32 of shape [2, tokens] for each sequence, special tokens included.

        The first row is about the span's first token, the second about its last.
        """
        ...


class Encoder(Head, Protocol):
    """Makes vectors of sequences."""

    def vectors(self, sequences: Sequences, *, pooling: Pooling) -> Inference[np.ndarray]:
        """Float32 of shape [dim] for each sequence, not normalised.

        Args:
            sequences: What is encoded.
            pooling: How the vectors of tokens become one: ``mean``, ``cls`` (the first token's) or
                ``max`` per dimension.
        """
        ...


class Models(Protocol):
    """The models of one worker, as an engine holds them: each is loaded once per head.

    Every method raises `JobError` for a model that can't be loaded with that head.
    """

    @property
    def infos(self) -> Mapping[str, ModelInfo]:
        """By reference, every model that the job names."""
        ...

    @property
    def device(self) -> Device:
        """Where they are."""
        ...

    def with_adapter(self, adapter: str | None) -> Self:
        """The same models with an adapter's weights merged into each that is got from here."""
        ...

    def classifier(self, reference: str) -> Classifier:
        """A model with a sequence-classification head."""
        ...

    def token_classifier(self, reference: str) -> TokenClassifier:
        """A model with a token-classification head."""
        ...

    def span_scorer(self, reference: str) -> SpanScorer:
        """A model with a question-answering head."""
        ...

    def encoder(self, reference: str) -> Encoder:
        """A model without a head."""
        ...

    def get(self, reference: str, *, head: HeadName) -> Any:
        """The engine's own model, for what has no head here yet."""
        ...
