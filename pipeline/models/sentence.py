"""Sentence encoders: texts of any length -> vectors, as a model's files or the job say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import JobError, RowError
from pipeline.models.heads import Encoder
from pipeline.models.results import stacked
from pipeline.models.sentence_files import SentenceFiles, known_pooling


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
    """Makes vectors of texts with an encoder.

    Args:
        encoder: A model without a head.
        reference: How the job names it, for messages.
        pooling: ``mean``, ``cls``, ``max``, or ``auto``: as the model's files say.
        normalize: Whether vectors get length 1, or ``auto``.

    Raises:
        JobError: The model's files ask for what is not built here.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        reference: str,
        pooling: str = "auto",
        normalize: bool | str = "auto",
    ) -> None:
        text = encoder.text
        files = SentenceFiles.of(text.folder, reference=reference)
        self.encoder = encoder
        self.text = text
        self.pooling = known_pooling(
            files.pooling if pooling == "auto" else pooling, reference=reference
        )
        self.normalize = files.normalize if normalize == "auto" else bool(normalize)
        self.lower, self.prompt = files.lower, files.prompt
        # Longer windows would fit the positions, but not what the model was trained on.
        most = min(text.max_tokens, files.max_tokens or text.max_tokens)
        self.room = most - len(text.prefix) - len(text.suffix)
        if self.room < 1:
            raise JobError(f"model {reference} leaves no room for a text (max_seq_length)")

    def window_vectors(
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
        encoded = self.text.encode(texts)
        sequences, cuts = self.text.windows(encoded, size=self.room, first=first)
        owner = cuts.owner
        if wanted is not None:
            kept = np.flatnonzero(wanted[owner])
            sequences, owner = sequences.take(kept), (np.cumsum(wanted) - 1)[owner[kept]]
        inference = self.encoder.vectors(sequences, pooling=self.pooling)
        return WindowVectors(
            stacked(inference.results),
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
        return self.scale(values).astype(np.float32, copy=False)

    def scale(self, values: np.ndarray) -> np.ndarray:
        """Vectors of length 1, if the model's are."""
        return unit(values) if self.normalize else values


def unit(values: np.ndarray) -> np.ndarray:
    """Vectors of shape [rows, dim] brought to length 1; a zero vector stays."""
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(norms, 1e-12))
