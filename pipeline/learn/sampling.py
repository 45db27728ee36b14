"""Rows drawn with known probabilities, a batch after the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
# Of the draws, by how unsure the model is; the others evenly, so that no weight is above twice
# the even one, however sure the model is of what is wrong.
BY_DOUBT = 0.5


def doubt(sure: Floats, at: int | None) -> Floats:
    """How far a row's gold may be from what the annotations say of it, as a standard deviation.

    Args:
        sure: How likely each label is, of shape [rows, labels].
        at: Which label is asked for; all of them by default.
    """
    if at is not None:
        likely = sure[:, at].clip(0, 1) if at < sure.shape[1] else np.zeros(len(sure))
        return np.asarray(np.sqrt(likely * (1 - likely)))
    return np.asarray(np.sqrt((1 - (sure**2).sum(axis=1)).clip(0, 1)))


def chances(doubts: Floats, *, wanted: int, rows: int, total: float) -> Floats:
    """The probability with which each row is drawn.

    Args:
        doubts: From `doubt`.
        wanted: How many rows are to be drawn.
        rows: How many there are in all batches.
        total: Of the doubts of all batches.
    """
    even = 1 / rows
    share = doubts / total if total > 0 else even
    return np.asarray(np.minimum(wanted * (BY_DOUBT * share + (1 - BY_DOUBT) * even), 1.0))


class Systematic:
    """Draws so many rows as their probabilities add up to, spread over the lake.

    Args:
        start: Drawn evenly from 0 to 1.
    """

    def __init__(self, start: float) -> None:
        self._start = start
        self._passed = 0.0

    def draw(self, probabilities: Floats) -> npt.NDArray[np.intp]:
        """The drawn rows of a batch.

        Args:
            probabilities: Of shape [rows], at most 1.
        """
        ends = self._passed + probabilities.cumsum()
        steps = np.floor(np.concatenate([[self._passed], ends]) - self._start)
        if len(ends):
            self._passed = float(ends[-1])
        return np.flatnonzero(np.diff(steps) > 0)
