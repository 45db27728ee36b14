"""Extractive summaries: the sentences nearest to all the others, without repeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.models.sentence import SentenceEncoder, unit
from pipeline.models.text import passages
from pipeline.models.text.texts import TaskInput
from pipeline.tasks.contract import Annotated

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
        self, encoder: SentenceEncoder, *, sentences: int, language: str, output_type: pa.DataType
    ) -> None:
        self.encoder = encoder
        self.sentences = sentences
        self.language = language
        self.output_type = output_type

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One summary struct per text; a text of few enough sentences is its own summary."""
        split = [split_sentences(text, language=self.language) for text in texts]
        flat = TaskInput([sentence for sentences in split for sentence in sentences])
        counts = np.array([len(sentences) for sentences in split], dtype=np.int64)
        firsts = np.cumsum(counts) - counts
        lengths = self.encoder.text.encode(flat).lengths
        # A text of few enough sentences is its own summary: its sentences need no vectors.
        wanted = np.repeat(counts > self.sentences, counts)
        found = self.encoder.window_vectors(flat, wanted=wanted)
        places = np.flatnonzero(wanted)
        vectors = np.zeros((len(flat), found.values.shape[1]))
        vectors[places] = unit(self.encoder.merge(found, rows=len(places)).astype(np.float64))
        windows = np.zeros(len(flat), dtype=np.int64)
        windows[places] = np.bincount(found.owner, minlength=len(places))
        broken = {int(places[at]): error for at, error in found.failures.items()}
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
            tokens=found.tokens,
            padded_tokens=found.padded_tokens,
        )
