"""Extractive summaries: the sentences nearest to all the others, without repeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.models import passages
from pipeline.models.model import Model
from pipeline.models.packed import Packed, PackedEncoder
from pipeline.models.pooling import pool, pooling_of
from pipeline.tasks.task import Annotated

if TYPE_CHECKING:
    import pyarrow as pa

# How much centrality counts against repetition; 1 would allow near-duplicates side by side.
CENTRALITY_SHARE = 0.7
# Two sentences this close (cosine) say the same: the second is never taken.
SAME = 0.95


def split_sentences(text: str, *, language: str) -> list[str]:
    """Cuts a text into its sentences, white space stripped, empty ones dropped."""
    return [part.strip() for part in passages.sentences(text, language=language) if part.strip()]


def choose(vectors: np.ndarray, *, count: int) -> list[int]:
    """Picks the most central sentences that do not repeat each other.

    Centrality is the mean cosine to all sentences of the text, as degree centrality in LexRank
    (Erkan and Radev, 2004); repeats are held down by maximal marginal relevance (Carbonell and
    Goldstein, 1998).

    Args:
        vectors: Unit vectors of shape [sentences, dim], in text order.
        count: The most sentences to pick.

    Returns:
        Indices in text order; fewer than `count` when the rest only repeats.
    """
    # Of each sentence with each other there would be more than memory holds: 4 MB may have 10^6.
    central = vectors @ vectors.mean(axis=0)
    picked: list[int] = []
    nearest = np.full(len(vectors), -1.0, dtype=np.float64)
    while len(picked) < min(count, len(vectors)):
        score = CENTRALITY_SHARE * central
        if picked:
            score = score - (1 - CENTRALITY_SHARE) * nearest
        score = np.where(nearest >= SAME, -np.inf, score)
        # Rounded, so that a tie falls to the earlier sentence whatever the batch it ran in.
        best = int(np.argmax(np.round(score, 5)))
        if not np.isfinite(score[best]):
            break
        picked.append(best)
        nearest = np.maximum(nearest, vectors @ vectors[best])
        nearest[best] = np.inf
    return sorted(picked)


class Extractive:
    """Picks each text's most central sentences with a loaded encoder."""

    def __init__(
        self, model: Model, *, sentences: int, language: str, output_type: pa.DataType
    ) -> None:
        self.model = model
        self.sentences = sentences
        self.language = language
        self.output_type = output_type
        self.pooling = pooling_of(model.folder)

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One summary struct per text; a text of few enough sentences is its own summary."""
        split = [split_sentences(text, language=self.language) for text in texts]
        flat = [sentence for sentences in split for sentence in sentences]
        counts = np.array([len(sentences) for sentences in split], dtype=np.int64)
        firsts = np.cumsum(counts) - counts
        encoded = self.model.encode(flat)
        lengths = encoded.lengths
        sequences, cuts = self.model.windows(encoded)
        # A text of few enough sentences is its own summary: its sentences need no vectors.
        wanted = np.flatnonzero(np.repeat(counts > self.sentences, counts)[cuts.owner])
        sequences, owners = sequences.take(wanted), cuts.owner[wanted]
        inference = self.model.infer(sequences, self._forward, packed=self._packed)
        vectors = self._sentence_vectors(inference.results, owners, cuts.weights[wanted], len(flat))
        windows = np.bincount(owners, minlength=len(flat))
        broken = {int(owners[index]): error for index, error in inference.failures.items()}
        rows: list[dict[str, Any] | None] = []
        failures = {}
        for row, sentences in enumerate(split):
            first, stop = int(firsts[row]), int(firsts[row]) + len(sentences)
            reason = next((broken[i] for i in range(first, stop) if i in broken), None)
            if reason is not None:
                failures[row] = reason
                rows.append(None)
                continue
            chosen = list(range(len(sentences)))
            if len(sentences) > self.sentences:
                chosen = choose(vectors[first:stop], count=self.sentences)
            rows.append(
                {
                    "text": " ".join(sentences[i] for i in chosen),
                    "input_tokens": int(lengths[first:stop].sum()),
                    "output_tokens": int(sum(lengths[first + i] for i in chosen)),
                    "windows": int(windows[first:stop].sum()),
                    "truncated": False,
                }
            )
        import pyarrow as pa

        return Annotated(
            pa.array(rows, self.output_type),
            failures,
            tokens=inference.tokens,
            padded_tokens=inference.padded_tokens,
        )

    def _forward(self, ids: Any, mask: Any) -> Any:
        hidden = self.model.module(input_ids=ids, attention_mask=mask).last_hidden_state
        return pool(hidden, mask, how=self.pooling).cpu().numpy()

    def _packed(self, encoder: PackedEncoder, batch: Packed) -> Any:
        return encoder.pooled(batch, how=self.pooling).cpu().numpy()

    def _sentence_vectors(
        self, results: Sequence[Any], owners: np.ndarray, weights: np.ndarray, sentences: int
    ) -> np.ndarray:
        """Unit vectors of shape [sentences, dim]; one of several windows is their mean by length.

        Sentences without a result stay zero.
        """
        good = [at for at, result in enumerate(results) if result is not None]
        if not good:
            return np.zeros((sentences, 1))
        parts = np.stack([results[at] for at in good]).astype(np.float64) * weights[good, None]
        total = np.zeros((sentences, parts.shape[1]))
        np.add.at(total, owners[good], parts)
        norms = np.linalg.norm(total, axis=1, keepdims=True)
        return np.asarray(total / np.maximum(norms, 1e-12))
