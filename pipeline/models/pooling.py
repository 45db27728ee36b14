"""Token vectors -> one vector per text, as the model's sentence-transformers files say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Pool = Callable[[Any, Any], Any]


def pooling_of(folder: Path) -> str:
    """How a model was trained to be pooled: ``mean``, ``cls`` or ``max``; mean if it says nothing.

    Args:
        folder: A model folder; sentence-transformers writes ``1_Pooling/config.json`` there.
    """
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    config = json.loads(path.read_text(encoding="utf-8"))
    named = config.get("pooling_mode")
    if isinstance(named, str):
        return named if named in ("mean", "cls", "max") else "mean"
    for mode in ("cls", "max"):
        key = "pooling_mode_cls_token" if mode == "cls" else "pooling_mode_max_tokens"
        if config.get(key):
            return mode
    return "mean"


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
