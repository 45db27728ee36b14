"""Means over many rows that a model has annotated, right although the model errs.

Prediction-powered inference with power tuning (PPI++, arXiv:2311.01453): what the annotations say
of all rows, corrected by how far they are off on the few rows with gold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

# Below these an interval by the normal distribution is too narrow more often than it says.
FEWEST_GOLD = 10
FEWEST_EACH = 5
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """What a mean needs to know of the annotations of all rows.

    Attributes:
        rows: How many there are.
        mean: Of their numbers.
        variance: Of their numbers, divided by `rows`.
    """

    rows: int
    mean: float
    variance: float

    @classmethod
    def of(cls, rows: int, total: float, squares: float) -> Moments:
        """From sums, which add up over batches."""
        mean = total / rows
        return cls(rows, mean, max(squares / rows - mean * mean, 0.0))


def powered_mean(
    gold: Floats,
    found: Floats,
    lake: Moments,
    *,
    weights: Floats | None = None,
    confidence: float = 0.95,
) -> dict[str, float]:
    """A mean over all rows, with its interval.

    Args:
        gold: The right numbers of the rows with gold, of shape [rows].
        found: What the annotations say of the same rows.
        lake: Of what the annotations say of all rows.
        weights: Inverse inclusion probabilities of the rows with gold, up to a factor; all alike by
            default.
        confidence: Of the interval.

    Returns:
        ``value``, ``low``, ``high``, and ``power``: how much the annotations counted, from 0, as if
        there were none, to 1.
    """
    rows = len(gold)
    each = np.ones(rows) if weights is None else weights / weights.sum() * rows
    start = lake.mean + float((each * (gold - found)).mean())
    power = _power(each * (gold - start), each * (found - start), lake, start)
    off = gold - power * found
    middle = float((each * off).mean())
    # Of a ratio: weights that are themselves drawn do not widen it where `off` does not vary.
    spread = each * (off - middle) if weights is not None else off
    error = math.sqrt(power**2 * lake.variance / lake.rows + float(spread.var()) / rows)
    value = power * lake.mean + middle
    return {**_around(value, error, confidence), "power": power}


def gold_mean(
    gold: Floats, *, weights: Floats | None = None, confidence: float = 0.95
) -> dict[str, float]:
    """The mean by the rows with gold alone, with its interval; arguments as of `powered_mean`."""
    none = Moments(1, 0.0, 0.0)
    whole = powered_mean(gold, np.zeros(len(gold)), none, weights=weights, confidence=confidence)
    return {name: whole[name] for name in ("value", "low", "high")}


def why_no_interval(gold: Floats, *, share: bool) -> str | None:
    """Why an interval could not be trusted, in words; None if it can.

    Args:
        gold: The right numbers of the rows with gold.
        share: Whether they are 0 and 1.
    """
    if len(gold) < FEWEST_GOLD:
        return f"{len(gold)} gold rows, at least {FEWEST_GOLD} are needed"
    if share and (few := int(min((gold == 1).sum(), (gold == 0).sum()))) < FEWEST_EACH:
        which = "with" if (gold == 1).sum() == few else "without"
        return f"{few} gold rows {which} the label, at least {FEWEST_EACH} are needed"
    if not share and gold.var() == 0:
        return "all gold rows have the same number"
    return None


def _power(gold: Floats, found: Floats, lake: Moments, start: float) -> float:
    """By which factor of the annotations the interval is narrowest, from 0 to 1."""
    rows, every = len(gold), len(gold) + lake.rows
    # The variance of both together, from the moments of each.
    shift = float(found.mean()) - (lake.mean - start)
    squares = float(found.var()) * rows + lake.variance * lake.rows
    both = (squares + shift**2 * rows * lake.rows / every) / (every - 1)
    shared = float(((gold - gold.mean()) * (found - found.mean())).mean())
    least = both * (1 + rows / lake.rows)
    return min(max(shared / least, 0.0), 1.0) if least > 0 else 0.0


def _around(value: float, error: float, confidence: float) -> dict[str, Any]:
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return {"value": value, "low": value - reach, "high": value + reach}
