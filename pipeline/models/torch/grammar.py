"""Holding what is written to a grammar: scores of tokens that it forbids become minus infinity."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.models.text.grammar import Grammar
from pipeline.models.torch.rules import Live
from pipeline.models.torch.steps import likeliest

# What is added to the scores of eight tokens, by the byte that says which of them may come.
PENALTIES = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), 0, -np.inf
).astype(np.float32)


class GrammarMask:
    """A rule of writing: rows write what follows a grammar.

    Args:
        grammar: That each row follows.
        greedy: Whether nothing but the likeliest token is asked of the scores, by nobody after
            it: masks are then found only where it may not come.
    """

    def __init__(self, grammar: Grammar, *, greedy: bool = False) -> None:
        import torch

        self.greedy = greedy
        self.documents = grammar.documents(threads=torch.get_num_threads())

    def __call__(self, live: Live, scores: Any) -> Any:
        """Scores of shape [live, vocabulary], of which those that are forbidden are changed."""
        begun = live.steps > 0
        self.documents.begin(live.rows[~begun])
        self.documents.take(live.rows[begun], live.last[begun])
        return self.hold(live, scores)

    def hold(self, live: Live, scores: Any) -> Any:
        """The same for documents that have taken what was written."""
        if not self.greedy:
            forbid(scores, self.documents.allowed(live.rows))
            return scores
        certain = self.documents.certain(live.rows, likeliest(scores))
        known = np.flatnonzero(certain >= 0)
        scores[known, certain[known]] = np.inf
        asked = np.flatnonzero(certain < 0)
        if len(asked):
            allowed = self.documents.allowed(live.rows[asked])
            some = scores[asked]
            forbid(some, allowed)
            scores[asked] = some
        return scores


class GrammarRuns:
    """The same for greedy rows that may write several tokens at once: what alone can come.

    Of JSON with a schema that is a good half: names, brackets, all but the start of a choice.

    Args:
        grammar: That each row follows.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._mask = GrammarMask(grammar, greedy=True)

    def __call__(self, live: Live, scores: Any) -> Any:
        """Scores of shape [live, vocabulary], of which those that are forbidden are changed."""
        self._mask.documents.begin(live.rows[live.steps == 0])
        return self._mask.hold(live, scores)

    def ahead(self, live: Live) -> list[list[int]]:
        """What comes behind the last token of each row, whatever the scores will be."""
        self._mask.documents.take(live.rows, live.last)
        most = live.written.shape[1] - live.steps
        return [
            self._mask.documents.take_forced(row, most=left)
            for row, left in zip(live.rows.tolist(), most.tolist(), strict=True)
        ]


def forbid(scores: Any, allowed: np.ndarray) -> None:
    """Makes the scores of tokens that may not come minus infinity.

    Args:
        scores: Float32 tensor of shape [rows, vocabulary]; changed in place.
        allowed: For each row, a bit for each token that may come; without one, it may not.
    """
    known = min(scores.shape[1], 8 * allowed.shape[1])
    scores[:, known:] = -np.inf
    if scores.device.type == "cpu":
        _row_by_row(scores.numpy()[:, :known], allowed)
    else:
        _at_once(scores[:, :known], allowed)


def _row_by_row(scores: np.ndarray, allowed: np.ndarray) -> None:
    # One row stays in the processor's cache: 22 us each, where torch's masked_fill takes 180.
    penalties = np.empty((allowed.shape[1], 8), dtype=np.float32)
    for row, bits in zip(scores, allowed, strict=True):
        np.take(PENALTIES, bits, axis=0, out=penalties, mode="clip")
        row += penalties.reshape(-1)[: len(row)]


def _at_once(scores: Any, allowed: np.ndarray) -> None:
    """For another device, which is sent the bits alone."""
    import torch

    at = torch.from_numpy(allowed).to(scores.device).flatten().int()
    penalties = torch.from_numpy(PENALTIES).to(scores.device).index_select(0, at)
    scores += penalties.view(len(allowed), -1)[:, : scores.shape[1]]
