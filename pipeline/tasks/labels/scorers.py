"""How well labels fit the windows of texts, by entailment or by embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pipeline.errors import JobError, RowError
from pipeline.models.heads import Classifier, Encoder
from pipeline.models.results import stacked
from pipeline.models.sentence import SentenceEncoder, unit
from pipeline.models.text.pairs import Pairs
from pipeline.models.text.windows import Cuts, cut_all
from pipeline.tasks.labels.classify import activate


@dataclass
class LabelScores:
    """Scores of some texts' windows, in text order.

    Attributes:
        scores: Float32 of shape [windows, labels].
        owner: The text of each window, rising; each text has at least one.
        weights: Float32 of shape [windows]: tokens of each.
        failures: Why, by text.
        tokens: Tokens given to the model.
        padded_tokens: The same with padding.
    """

    scores: np.ndarray
    owner: np.ndarray
    weights: np.ndarray
    failures: dict[int, RowError] = field(default_factory=dict)
    tokens: int = 0
    padded_tokens: int = 0


class Scorer(Protocol):
    """Scores labels with a loaded model."""

    def score(self, texts: Sequence[str]) -> LabelScores:
        """Scores for each window of each text."""
        ...


class NliScorer:
    """Scores by whether a text entails that it is of a label.

    As transformers' ``ZeroShotClassificationPipeline``: the text is the premise, a sentence about
    the label the hypothesis. One label of several: softmax over the entailment logits of all.
    Each for itself, or only one: entailment against contradiction.

    Args:
        classifier: That has an entailment label.
        hypotheses: One per label.
        multi_label: Whether each label stands for itself.
        first: Only the first window of each text.

    Raises:
        JobError: A hypothesis leaves no room for a text.
    """

    def __init__(
        self,
        classifier: Classifier,
        hypotheses: Sequence[str],
        *,
        multi_label: bool,
        first: bool,
    ) -> None:
        text = classifier.text
        self.classifier = classifier
        self.text = text
        self.first = first
        self.alone = multi_label or len(hypotheses) == 1
        self.pairs = Pairs(text)
        self.hypotheses = [
            self.pairs.code(text.tokens.ids(hypothesis), second=True).tolist()
            for hypothesis in hypotheses
        ]
        self.entailment, self.contradiction = _nli_labels(text.config.label2id)
        self.room = min(map(self._room, self.hypotheses))
        if self.room < 1:
            raise JobError(
                f"the longest hypothesis leaves no room for a text: the model takes "
                f"{text.max_tokens} tokens",
                hint="Shorten the labels or the template",
            )

    def score(self, texts: Sequence[str]) -> LabelScores:
        """Every window with every hypothesis."""
        encoded = self.text.encode(texts)
        ids = self.pairs.code(encoded.ids, second=False)
        cuts = cut_all(encoded.starts, size=self.room, first=self.first)
        logits = np.zeros((len(cuts), len(self.hypotheses), 2), dtype=np.float32)
        out = LabelScores(logits[..., 0], cuts.owner, cuts.weights)
        for label, hypothesis in enumerate(self.hypotheses):
            stops = self._stops(encoded.starts, cuts, hypothesis)
            inference = self.classifier.logits(
                self.pairs.beside(ids, cuts.start, stops, hypothesis)
            )
            found = stacked(inference.results, width=len(self.text.labels))
            logits[:, label] = found[:, [self.contradiction, self.entailment]]
            for at, error in inference.failures.items():
                out.failures.setdefault(int(cuts.owner[at]), error)
            out.tokens += inference.tokens
            out.padded_tokens += inference.padded_tokens
        if self.alone:
            flat = activate(logits.reshape(-1, 2), "softmax")[:, 1]
            out.scores = flat.reshape(len(cuts), len(self.hypotheses))
        else:
            out.scores = activate(logits[..., 1], "softmax")
        return out

    def _stops(self, starts: np.ndarray, cuts: Cuts, hypothesis: Sequence[int]) -> np.ndarray:
        if not self.first:
            return cuts.stop
        # The pipeline cuts each premise to what its own hypothesis leaves.
        return np.asarray(np.minimum(starts[1:], starts[:-1] + self._room(hypothesis)))

    def _room(self, hypothesis: Sequence[int]) -> int:
        return self.text.max_tokens - self.pairs.specials - len(hypothesis)


def _nli_labels(label2id: dict[str, int]) -> tuple[int, int]:
    """The class indices of entailment and contradiction, as the pipeline finds them."""
    entailment = next(i for name, i in label2id.items() if name.lower().startswith("entail"))
    return entailment, -1 if entailment == 0 else 0


class EncoderScorer:
    """Scores by the cosine between a text and the words for a label.

    Args:
        encoder: A model without a head.
        words: For each label.
        reference: How the job names the model, for messages.
        temperature: Cosines are divided by it and become shares of one by softmax; None: each
            cosine is its label's score, 0 where it is negative.
        first: Only the first window of each text.

    Raises:
        JobError: The encoder can't embed the words.
    """

    def __init__(
        self,
        encoder: Encoder,
        words: Sequence[str],
        *,
        reference: str,
        temperature: float | None,
        first: bool,
    ) -> None:
        self.encoder = SentenceEncoder(encoder, reference=reference)
        self.temperature = temperature
        self.first = first
        found = self.encoder.window_vectors(words)
        if found.failures:
            at, error = next(iter(found.failures.items()))
            raise JobError(f"the label {words[at]!r} can't be embedded: {error.message}")
        self.labels = unit(self.encoder.merge(found, rows=len(words)))

    def score(self, texts: Sequence[str]) -> LabelScores:
        """Every window against every label."""
        found = self.encoder.window_vectors(texts, first=self.first)
        out = LabelScores(
            np.zeros((len(found.owner), len(self.labels)), dtype=np.float32),
            found.owner,
            found.weights.astype(np.float32),
            found.failures,
            found.tokens,
            found.padded_tokens,
        )
        if found.values.shape[1]:
            cosines = unit(found.values) @ self.labels.T
            if self.temperature is None:
                out.scores = np.clip(cosines, 0.0, 1.0)
            else:
                out.scores = activate(cosines / np.float32(self.temperature), "softmax")
        return out
