"""Linear layers on a CPU, with weights laid out once for oneDNN.

`torch.nn.Linear` in float32 goes to MKL, which on AMD processors keeps to AVX2: 220 GFLOP/s on 2
cores with AVX-512, where oneDNN reaches 500. In bfloat16 it goes to oneDNN, which lays the weights
out anew at each call. The operation is the one that torch's inductor
compiles frozen models to. Whether layers are exchanged follows from the machine, never from a
timing, so that two runs give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROBE_ROWS = 8
# A linear layer and the activation that transformers' modules put its output through at once.
ACTIVATED = (("dense", "intermediate_act_fn"), ("lin1", "activation"), ("fc1", "activation_fn"))


def _tolerances() -> dict[Any, float]:
    import torch

    return {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def laid_out(linear: Any) -> Any:
    """A faster layer beside one whose weights something else needs, or the layer itself.

    Args:
        linear: Such as a head that is tied to the embeddings; stays as it is.
    """
    import torch

    tolerances = _tolerances()
    if (
        type(linear) is not torch.nn.Linear
        or linear.weight.device.type != "cpu"
        or linear.weight.dtype not in tolerances
        or not _works(linear, tolerances)
    ):
        return linear
    return _layer(linear)


def lay_out(module: Any) -> int:
    """Exchanges the linear layers of a model on a CPU for faster ones.

    Weights that another layer uses too, such as a language model's head that is tied to its
    embeddings, stay as they are.

    Args:
        module: In evaluation mode; changed in place.

    Returns:
        How many layers were exchanged.
    """
    import torch

    tolerances = _tolerances()
    uses: dict[int, int] = {}
    places = []
    for parent in module.modules():
        for name, child in parent.named_children():
            weight = getattr(child, "weight", None)
            if isinstance(weight, torch.nn.Parameter):
                uses[id(weight)] = uses.get(id(weight), 0) + 1
            if type(child) is torch.nn.Linear and child.weight.dtype in tolerances:
                places.append((parent, name, child))
    places = [place for place in places if uses[id(place[2].weight)] == 1]
    if not places or not _works(places[0][2], tolerances):
        return 0
    laid_out = {}
    for parent, name, child in places:
        if id(child) not in laid_out:
            laid_out[id(child)] = _layer(child)
        setattr(parent, name, laid_out[id(child)])
    for parent in module.modules():
        _fuse(parent, set(laid_out.values()))
    return len(places)


def _fuse(parent: Any, laid_out: set[Any]) -> None:
    """Lets a layer compute the GELU that follows it, which saves a pass over the memory."""
    import torch
    from transformers.activations import GELUActivation

    for name, activation in ACTIVATED:
        layer: Any = getattr(parent, name, None)
        after: Any = getattr(parent, activation, None)
        exact = type(after) is GELUActivation and after.act is torch.nn.functional.gelu
        if exact and layer in laid_out:
            layer.after = "gelu"
            setattr(parent, activation, torch.nn.Identity())


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
            self.after = "none"
            # Some models (T5) look at the dtype of a layer's weight before they call it.
            self.weight = torch.empty(0, dtype=weight.dtype)

        def forward(self, x: Any) -> Any:
            return self.then(x, self.after)

        def then(self, x: Any, after: str) -> Any:
            """The layer, and an activation that need not be its own."""
            return torch.ops.mkldnn._linear_pointwise(
                x, self.laid_out, self.bias, after, [], "none"
            )

    return LaidOutLinear(linear.weight, linear.bias).eval()


def _works(linear: Any, tolerances: Mapping[Any, float]) -> bool:
    """Whether this build of torch has the operation and it gives what the layer gives."""
    import torch

    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        with torch.inference_mode():
            x = torch.linspace(-1, 1, PROBE_ROWS * linear.in_features, dtype=linear.weight.dtype)
            x = x.reshape(PROBE_ROWS, linear.in_features)
            near = tolerances[linear.weight.dtype]
            return torch.allclose(linear(x), _layer(linear)(x), atol=near, rtol=near)
    except (RuntimeError, NotImplementedError):
        return False
