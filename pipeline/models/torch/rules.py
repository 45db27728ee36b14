"""What decides which token a row goes on with, for rows that are at different steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class Live:
    """The rows that a step is about, in the order of its scores.

    Attributes:
        rows: Which prompt of the call each goes on with, of shape [live].
        steps: How many tokens each has written so far.
        written: Of shape [live, most new tokens]: row i wrote ``written[i, :steps[i]]``.
    """

    rows: np.ndarray
    steps: np.ndarray
    written: np.ndarray

    @property
    def last(self) -> np.ndarray:
        """What each wrote last; of no meaning where it wrote nothing."""
        return np.asarray(self.written[np.arange(len(self.rows)), np.maximum(self.steps - 1, 0)])


class Rule(Protocol):
    """Changes the scores of what may come next.

    A row at step 0 begins, or begins anew: it may have been given back for want of memory. From
    there on it comes once a step, until it has ended.
    """

    def __call__(self, live: Live, scores: Any) -> Any:
        """Float32 scores of shape [live, vocabulary] -> the same, changed; in place if need be."""
        ...


@runtime_checkable
class Foreseeing(Protocol):
    """A rule that may know what rows write, whatever the scores will be."""

    def ahead(self, live: Live) -> list[list[int]]:
        """For rows that go on, once a step: the tokens that come next, as far as they are known.

        The rule is not asked about scores for these; a row that ends with one is gone.
        """
        ...


class Forced:
    """Each row writes a given token first."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, live: Live, scores: Any) -> Any:
        """All else becomes minus infinity where nothing is written yet."""
        import torch

        first = torch.from_numpy(np.flatnonzero(live.steps == 0)).to(scores.device)
        if len(first):
            scores[first] = -torch.inf
            scores[first, self.token] = 0.0
        return scores


class Warper:
    """A logits processor of transformers that looks at nothing but the scores."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, live: Live, scores: Any) -> Any:
        """What the processor makes of the scores."""
        return self.processor(None, scores)


class AsProcessor:
    """Rules as a logits processor of transformers' `generate`, whose rows are all at one step.

    Rows that have ended go on with padding there.

    Args:
        rules: Called one after the other.
        start: Tokens that stand before the first one written.
    """

    def __init__(self, rules: Sequence[Rule], *, start: int) -> None:
        self.rules = rules
        self.start = start

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores of shape [rows, vocabulary] -> the same by the rules."""
        written = input_ids[:, self.start :].cpu().numpy()
        count = len(written)
        steps = np.full(count, written.shape[1])
        if not written.shape[1]:
            written = np.zeros((count, 1), dtype=np.int64)
        live = Live(np.arange(count), steps, written)
        for rule in self.rules:
            scores = rule(live, scores)
        return scores
