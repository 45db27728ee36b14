"""Token vectors -> one vector per text, as the model's sentence-transformers files say."""

from __future__ import annotations

from typing import Any


def pool(hidden: Any, mask: Any, *, how: str) -> Any:
    """Pools token vectors.

    Args:
        hidden: Tensor of shape [rows, longest, dim].
        mask: Int64 tensor of shape [rows, longest], 0 on padding; None when there is none.
        how: ``mean`` over tokens, ``cls`` (the first token) or ``max`` per dimension.

    Returns:
        Float32 tensor of shape [rows, dim].
    """
    hidden = hidden.float()
    if how == "cls":
        return hidden[:, 0]
    if mask is None:
        return hidden.mean(dim=1) if how == "mean" else hidden.amax(dim=1)
    if how == "max":
        return hidden.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)
    weights = mask.unsqueeze(-1).float()
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
