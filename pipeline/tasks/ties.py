"""How near labels are to a tie, where a small error of the scores would change them."""

from __future__ import annotations

import numpy as np

# Scores are no nearer to 0 and 1, so that their odds are numbers.
LEAST = 1e-7


def gaps(scores: np.ndarray, *, each: bool = False) -> np.ndarray:
    """How far rows are from another best label, in log odds: float64 of shape [rows].

    Errors of a model's logits are about as large for sure rows as for others, those of scores are
    not.

    Args:
        scores: Between 0 and 1, of shape [rows, labels].
        each: Whether each label holds or not, for itself; then its distance from 0.5 counts, too.
    """
    odds = np.log(np.clip(scores.astype(np.float64), LEAST, 1 - LEAST))
    if each:
        odds -= np.log1p(-np.exp(odds))
    found = np.full(len(odds), np.inf)
    if odds.shape[1] > 1:
        second, first = np.partition(odds, -2, axis=1)[:, -2:].T
        found = first - second
    if each and odds.shape[1]:
        found = np.minimum(found, np.abs(odds).min(axis=1))
    # What is no number is as near as can be.
    return np.where(np.isnan(found), 0.0, found)
