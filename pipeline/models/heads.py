"""Heads: what a task may ask of a model. Sequences go in, numpy comes out.

An engine is what computes them: a folder beside this file. A task knows its heads and nothing of
the engine, of its device or of how it makes batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np

from pipeline.models.batching import Sequences
from pipeline.models.decoding import Decoding
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
# Those of models that write.
WRITING_HEADS: tuple[HeadName, ...] = ("seq2seq", "causal")
Pooling = Literal["mean", "cls", "max"]


def writing_head(model: ModelInfo) -> HeadName:
    """What a model that writes is loaded as."""
    return "seq2seq" if model.is_encoder_decoder else "causal"


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

    def strongest(self, sequences: Sequences) -> Inference[np.ndarray]:
        """Of those scores what `results.strongest` gives: of shape [tokens, 3]."""
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


@dataclass(frozen=True)
class Generation:
    """What a model wrote for one prompt.

    Attributes:
        text: White space around it is stripped, as is all from the first stop string on.
        ids: The tokens that it wrote, without the end token and a forced first one.
        complete: Whether it ended by itself or at a stop string, not at the limit of tokens.
    """

    text: str
    ids: tuple[int, ...]
    complete: bool

    @property
    def tokens(self) -> int:
        """How many tokens it wrote."""
        return len(self.ids)


# One per prompt; `tokens` counts those that were written, too.
Generations = Inference[Generation]


class AnswerScorer(Head, Protocol):
    """Weighs given answers after prompts: nothing is written."""

    def log_likelihoods(
        self, prompts: Sequences, answers: Sequence[Sequence[int]]
    ) -> Inference[np.ndarray]:
        """Float32 of shape [answers] for each prompt: how likely the model goes on with each.

        Args:
            prompts: Each leaves room for an answer.
            answers: Token ids of each, at least one; weighed one after the other.
        """
        ...


class Generator(Head, Protocol):
    """Goes on with prompts."""

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether it reads the prompt and writes apart from it, as T5 and BART do.

        Of a decoder, the prompt and what it writes share the places that it has.
        """
        ...

    @property
    def most_new_tokens(self) -> int | None:
        """How many tokens it can write for any prompt; None where nothing limits it."""
        ...

    @property
    def start_token(self) -> int | None:
        """What an encoder-decoder starts to write from by itself."""
        ...

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end what it writes."""
        ...

    def generate(self, prompts: Sequence[np.ndarray], decoding: Decoding) -> Generations:
        """Writes once per prompt.

        Args:
            prompts: Token ids of each, special tokens included.
            decoding: How to go on with them.
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

    def answer_scorer(self, reference: str) -> AnswerScorer:
        """A decoder that weighs answers."""
        ...

    def generator(self, reference: str) -> Generator:
        """A model that writes."""
        ...


@runtime_checkable
class Int8Models(Models, Protocol):
    """Models in float32 that have a twin in int8."""

    def measured(self, infer: Callable[[], None]) -> dict[str, Any]:
        """What the twins need to be known of the models, as JSON takes it.

        Args:
            infer: Takes texts of the job through all of them.
        """
        ...

    def in_int8(self, measured: Mapping[str, Any]) -> Self:
        """The twins.

        Args:
            measured: Of `measured`, here or on another machine.

        Raises:
            ValueError: It is not.
        """
        ...
