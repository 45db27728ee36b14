"""Linear layers on a CPU, with weights laid out once for oneDNN.

`torch.nn.Linear` in float32 goes to MKL, which on AMD processors keeps to AVX2: 220 GFLOP/s on 2
cores with AVX-512, where oneDNN reaches 500. On processors where both are as fast, nothing is
exchanged. The operation is the one that torch's inductor compiles frozen models to.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

# Less gain than this is noise, and not worth a second copy of weights that are shared.
WORTH = 1.1
PROBE_ROWS = 512
PROBE_ROUNDS = 5


def lay_out(module: Any) -> int:
    """Exchanges the linear layers of a float32 model on a CPU for faster ones, if they are.

    Weights that another layer uses too, such as a language model's head that is tied to its
    embeddings, stay as they are.

    Args:
        module: In evaluation mode; changed in place.

    Returns:
        How many layers were exchanged.
    """
    import torch

    uses: dict[int, int] = {}
    places = []
    for parent in module.modules():
        for name, child in parent.named_children():
            weight = getattr(child, "weight", None)
            if isinstance(weight, torch.nn.Parameter):
                uses[id(weight)] = uses.get(id(weight), 0) + 1
            if type(child) is torch.nn.Linear and child.weight.dtype is torch.float32:
                places.append((parent, name, child))
    places = [place for place in places if uses[id(place[2].weight)] == 1]
    if not places or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return 0
    largest = max((child for _, _, child in places), key=lambda child: child.weight.numel())
    if _gain(largest) < WORTH:
        return 0
    laid_out = {}
    for parent, name, child in places:
        if id(child) not in laid_out:
            laid_out[id(child)] = _layer(child)
        setattr(parent, name, laid_out[id(child)])
    return len(places)


def _layer(linear: Any) -> Any:
    """A layer that computes what `linear` does."""
    import torch

    class LaidOutLinear(torch.nn.Module):
        def __init__(self, weight: Any, bias: Any) -> None:
            super().__init__()
            self.out_features, self.in_features = weight.shape
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
            self.register_buffer("laid_out", weight, persistent=False)
            self.bias = bias

        def forward(self, x: Any) -> Any:
            return torch.ops.mkldnn._linear_pointwise(x, self.laid_out, self.bias, "none", [], "")

    return LaidOutLinear(linear.weight, linear.bias).eval()


def _gain(linear: Any) -> float:
    """How many times as fast the other layer is; 0 where it can't be had or differs."""
    import torch

    try:
        with torch.inference_mode():
            other = _layer(linear)
            x = torch.randn(PROBE_ROWS, linear.in_features)
            if not torch.allclose(linear(x), other(x), atol=1e-4, rtol=1e-4):
                return 0.0
            theirs, ours = [], []
            for _ in range(PROBE_ROUNDS):
                theirs.append(_seconds(lambda: linear(x)))
                ours.append(_seconds(lambda: other(x)))
    except (RuntimeError, NotImplementedError):
        return 0.0
    return statistics.median(theirs) / statistics.median(ours)


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
