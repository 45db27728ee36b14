"""Batches of about the same work: texts sorted by length, cut by padded tokens, not by rows.

A batch is padded to its longest text, so what it costs is rows x longest. Sorting puts texts of
one length together; the budget bounds the product.
"""

from __future__ import annotations

from collections.abc import Sequence


def batches(lengths: Sequence[int], *, budget: int) -> list[list[int]]:
    """Cuts sequences into batches, longest first.

    Longest first, so that a batch that does not fit the device's memory shows at once.

    Args:
        lengths: Tokens of each sequence, special tokens included.
        budget: The most padded tokens in a batch. A sequence longer than that stands alone.

    Returns:
        Indices into `lengths`: each exactly once, within a batch by falling length.
    """
    if budget < 1:
        raise ValueError(f"the budget must be at least 1 token, not {budget}")
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    out: list[list[int]] = []
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        stop = start + max(1, budget // longest)
        out.append(order[start:stop])
        start = stop
    return out


def padded_tokens(lengths: Sequence[int], plan: Sequence[Sequence[int]]) -> int:
    """Tokens that the device sees when each batch of a plan is padded to its longest sequence."""
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in plan if batch)
