"""How sure a figure is: bootstrap intervals over rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 1_000
CONFIDENCE = 0.95


def interval(
    statistic: Callable[[npt.NDArray[np.intp]], float],
    rows: int,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, float | None]:
    """A figure over all rows, with its 95 % percentile interval over rows drawn anew.

    Args:
        statistic: Gives the figure of some rows, by their indices; of shape [rows].
        rows: How many there are.
        seed: Of the draws.
        resamples: How many draws.

    Returns:
        ``value``, ``low`` and ``high``; the last two are None where there is but one row.
    """
    from scipy.stats import bootstrap

    indices = np.arange(rows)
    value = float(statistic(indices))
    if rows < 2:
        return {"value": value, "low": None, "high": None}
    found: Any = bootstrap(
        (indices,), statistic, n_resamples=resamples, confidence_level=CONFIDENCE,
        method="percentile", vectorized=False, rng=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = (float(end) for end in found.confidence_interval)
    return {"value": value, "low": low, "high": high}
