"""Holding what is written to a grammar: scores of tokens that it forbids become minus infinity."""

from __future__ import annotations

from typing import Any

from pipeline.models.text.grammar import Documents


class GrammarMask:
    """A logits processor for one batch.

    Args:
        documents: One per row.
        start: Tokens that stand before the first one written.
    """

    def __init__(self, documents: Documents, *, start: int) -> None:
        self.documents = documents
        self.start = start

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores of shape [rows, vocabulary] -> the same, without what the grammar forbids."""
        import torch

        if input_ids.shape[1] > self.start:
            self.documents.take(input_ids[:, -1].tolist())
        allowed = torch.from_numpy(self.documents.allowed(scores.shape[1]))
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)
