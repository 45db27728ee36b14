"""What is asked of tokens' scores, made on the device: three numbers come back, not one a label."""

from __future__ import annotations

from typing import Any


def strongest(scores: Any) -> Any:
    """As `pipeline.models.results.strongest`, of a tensor of shape [..., labels]."""
    import torch

    best = scores.argmax(dim=-1, keepdim=True)
    parts = [best.to(scores.dtype), scores.gather(-1, best)]
    if scores.shape[-1] > 1:
        parts.append(scores.scatter(-1, best, -1.0).amax(dim=-1, keepdim=True))
    return torch.cat(parts, dim=-1)
