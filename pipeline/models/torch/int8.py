"""Linear layers in int8 on a CPU: weights per output channel, activations per token.

A token's scale is its own, so that a row's result does not depend on what stands beside it. Sums
are exact in int32: activations have 8 bits and weights 7, since a processor without VNNI adds
pairs of products in 16 bits and would cut what does not fit (255 · 63 · 2 does). So all processors
give the same bits here.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

MOST_WEIGHT = 63
MOST_ACTIVATION = 127
# What a token's largest number is at least, so that a token of zeros has a scale.
LEAST = 1e-12
# Rows that are quantized, multiplied and scaled while they are in the processor's cache.
CHUNK_ROWS = 1024
# Of its weights' scales, what is tried for each output channel: clipping a few weights may leave
# the others nearer.
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8)


def has_int8() -> bool:
    """Whether this build of torch multiplies int8 on this processor, and gives what it should."""
    import torch

    try:
        weight = torch.linspace(-1, 1, 64 * 64).reshape(64, 64)
        x = torch.linspace(-2, 2, 8 * 64).reshape(8, 64)
        with torch.inference_mode():
            found = Int8Weights.of(weight, None).apply(*quantize(x))
        return torch.allclose(found, x @ weight.T, atol=0.2, rtol=0.05)
    except (RuntimeError, NotImplementedError, AttributeError):
        return False


@dataclass
class Int8Weights:
    """The weights of a linear layer.

    Attributes:
        packed: Laid out for the operation.
        scales: Float32 of shape [out].
        zeros: Int64 of shape [out], all 0.
        bias: Float32 of shape [out], or None.
        shape: [out, in].
    """

    packed: Any
    scales: Any
    zeros: Any
    bias: Any
    shape: tuple[int, int]

    @classmethod
    def of(cls, weight: Any, bias: Any) -> Int8Weights:
        """Quantizes float32 weights of shape [out, in], per output channel."""
        import torch

        weight = weight.detach().float()
        most = weight.abs().amax(1, keepdim=True).clamp_min(LEAST)
        best, error = most / MOST_WEIGHT, None
        for clip in CLIPS:
            scale = most * (clip / MOST_WEIGHT)
            off = ((weight / scale).round().clamp(-MOST_WEIGHT, MOST_WEIGHT) * scale - weight) ** 2
            total = off.sum(1, keepdim=True)
            better = (
                total < error if error is not None else torch.ones_like(total, dtype=torch.bool)
            )
            best = torch.where(better, scale, best)
            error = total if error is None else torch.minimum(total, error)
        whole = (weight / best).round().clamp(-MOST_WEIGHT, MOST_WEIGHT).to(torch.int8)
        out, into = weight.shape
        return cls(
            torch.ops.onednn.qlinear_prepack(whole, [CHUNK_ROWS, into]),
            best.flatten().contiguous(),
            torch.zeros(out, dtype=torch.int64),
            None if bias is None else bias.detach().float(),
            (out, into),
        )

    def corrected(self, off: Any) -> Int8Weights:
        """The same, less what it is off on average.

        Raises:
            ValueError: That is of another layer.
        """
        if len(off) != self.shape[0]:
            raise ValueError(f"{len(off)} corrections for {self.shape[0]} numbers")
        return replace(self, bias=-off if self.bias is None else self.bias - off)

    def apply(self, whole: Any, scale: Any) -> Any:
        """What the layer gives, float32 of shape [tokens, out].

        Args:
            whole: Int8 of shape [tokens, in], from `quantize`.
            scale: Float32 of shape [tokens, 1].
        """
        import torch

        found = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, 0, self.packed, self.scales, self.zeros, None, 1.0, 0,
            torch.float32, "none", [], "",
        )  # fmt: skip
        found.mul_(scale)
        return found if self.bias is None else found.add_(self.bias)


def quantize(x: Any) -> tuple[Any, Any]:
    """Float32 of shape [tokens, dim] -> int8 of the same shape, and scales of shape [tokens, 1].

    A token with a number that is not finite gets a scale that is not, and so does what is made of
    it.
    """
    import torch

    scale = torch.amax(torch.abs(x), 1, keepdim=True).clamp_min_(LEAST).div_(MOST_ACTIVATION)
    return torch.mul(x, scale.reciprocal()).round_().to(torch.int8), scale


class Shared(threading.local):
    """What is quantized once for several layers: query, key and value are made of the same tokens.

    Args:
        uses: How many layers.
    """

    def __init__(self, uses: int = 1) -> None:
        self.uses = uses
        self._x: Any = None
        self._parts: list[tuple[Any, Any]] = []
        self._left = 0

    def quantized(self, x: Any) -> list[tuple[Any, Any]]:
        """Tokens of shape [..., dim] as `quantize` gives them, in parts of some rows."""
        if self._x is x:
            parts = self._parts
        else:
            parts = [quantize(some) for some in x.reshape(-1, x.shape[-1]).split(CHUNK_ROWS)]
            self._left = self.uses
        self._left -= 1
        # Nothing is kept that nobody will ask for again: a batch of tokens is large.
        self._x, self._parts = (x, parts) if self._left > 0 else (None, [])
        return parts


def int8_layer(weights: Int8Weights, *, after: str = "none", shared: Shared | None = None) -> Any:
    """A module that computes a linear layer in int8.

    Args:
        weights: Of the layer.
        after: ``gelu``, or ``none``.
        shared: With the layers beside it.
    """
    import torch

    given = shared or Shared()

    class Int8Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out_features, self.in_features = weights.shape
            # Some models (T5) look at the dtype of a layer's weight before they call it.
            self.weight = torch.empty(0)

        def forward(self, x: Any) -> Any:
            parts = [weights.apply(*part) for part in given.quantized(x)]
            if after == "gelu":
                parts = [torch.ops.aten.gelu_(part) for part in parts]
            found = parts[0] if len(parts) == 1 else torch.cat(parts)
            return found.view(*x.shape[:-1], weights.shape[0])

    return Int8Linear().eval()
