"""Batches of about the same work: texts sorted by length, cut by padded tokens, not by rows.

A batch is padded to its longest text, so what it costs is rows x longest. Sorting puts texts of
one length together; the budget bounds the product, the slack what of it is padding.
"""

from __future__ import annotations

from collections.abc import Sequence


def batches(lengths: Sequence[int], *, budget: int, slack: int | None = None) -> list[list[int]]:
    """Cuts sequences into batches, longest first.

    Longest first, so that a batch that does not fit the device's memory shows at once.

    Args:
        lengths: Tokens of each sequence, special tokens included.
        budget: The most padded tokens in a batch. A sequence longer than that stands alone.
        slack: The most padding in a batch, in tokens: about what starting another batch costs.
            Without it, padding alone never ends a batch.

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
        stop = min(len(order), start + max(1, budget // longest))
        if slack is not None and longest - lengths[order[stop - 1]] > 0:
            padding = longest - lengths[order[start]]
            for at in range(start + 1, stop):
                padding += longest - lengths[order[at]]
                if padding > slack:
                    stop = at
                    break
        out.append(order[start:stop])
        start = stop
    return out


def padded_tokens(lengths: Sequence[int], plan: Sequence[Sequence[int]]) -> int:
    """Tokens that the device sees when each batch of a plan is padded to its longest sequence."""
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in plan if batch)
