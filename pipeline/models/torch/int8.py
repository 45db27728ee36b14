"""Linear layers in int8 on a CPU: weights per output channel, activations per token.

A token's scale is its own, so that a row's result does not depend on what stands beside it. Sums
are exact in int32: a processor without VNNI adds pairs of products in 16 bits and would cut what
does not fit, so two weights side by side keep to what does. So all processors give the same bits
here; those with VNNI are faster alone.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

MOST_WEIGHT = 127
# Of two weights side by side with the same sign: 255 · 128 is what 16 bits hold.
MOST_PAIR = 128
MOST_ACTIVATION = 127
MOST_LIFTED = 255
# What a number of 0 is among activations: without a sign they need not be laid out anew.
ZERO = 128
# What a token's largest number is at least, so that a token of zeros has a scale.
LEAST = 1e-12
# What numbers after a GELU are more than -0.17 of: with that added, they need no sign.
LIFT = 0.17
# Rows that are quantized, multiplied and scaled while they are in the processor's cache.
CHUNK_ROWS = 512
# Of its weights' scales, what is tried for each output channel: clipping a few weights may leave
# the others nearer, and so may a smaller range that no pair has to be cut in.
CLIPS = (0.9, 1.0, 1.12, 1.25, 1.4, 1.6, 1.8, MOST_WEIGHT / 64)


def has_int8() -> bool:
    """Whether this build of torch multiplies int8 on this processor, and gives what it should."""
    import torch

    try:
        weight = torch.linspace(-1, 1, 64 * 64).reshape(64, 64)
        x = torch.linspace(-2, 2, 8 * 64).reshape(8, 64)
        with torch.inference_mode():
            found = Int8Weights.of(weight, None).apply(*quantize(x), out=torch.empty(8, 64))
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
        smooth: Float32 of shape [in], what activations are multiplied by; None for 1.
        apart: Channels that stay in float32, and their weights, of shape [channels, out]; or None.
        lift: What is added to activations after that, of shape [in], so that none is below 0; None
            where they have a sign.
    """

    packed: Any
    scales: Any
    zeros: Any
    bias: Any
    shape: tuple[int, int]
    smooth: Any = None
    apart: tuple[Any, Any] | None = None
    lift: Any = None

    @classmethod
    def of(
        cls,
        weight: Any,
        bias: Any,
        *,
        smooth: Any = None,
        lift: bool = False,
        clips: Sequence[float] = CLIPS,
    ) -> Int8Weights:
        """Quantizes float32 weights of shape [out, in], per output channel.

        Args:
            weight: Of the layer.
            bias: Of shape [out], or None.
            smooth: Of shape [in]: activations are multiplied by it, weights divided. Channels of 0
                stay in float32.
            lift: Whether activations are above -`LIFT`.
            clips: Of the scales, what is tried.
        """
        import torch

        weight = weight.detach().float()
        apart = None
        if smooth is not None:
            channels = (smooth == 0).nonzero().flatten()
            if len(channels):
                apart = channels, weight[:, channels].T.contiguous()
            weight = torch.where(smooth == 0, 0.0, weight / smooth)
        lifted = None
        if lift:
            lifted = LIFT * (torch.ones(weight.shape[1]) if smooth is None else smooth)
            off = weight @ lifted
            bias = -off if bias is None else bias - off
        most = weight.abs().amax(1, keepdim=True).clamp_min(LEAST)
        scales = [most * (clip / MOST_WEIGHT) for clip in clips]
        errors = [
            (whole_numbers(weight, scale).mul_(scale) - weight).square_().sum(1)
            for scale in (scales if len(scales) > 1 else ())
        ]
        best = scales[0]
        if errors:
            chosen = torch.stack(errors).argmin(0)
            best = torch.stack(scales)[chosen, torch.arange(len(weight))]
        whole = whole_numbers(weight, best).to(torch.int8)
        out, into = weight.shape
        return cls(
            torch.ops.onednn.qlinear_prepack(whole, [CHUNK_ROWS, into]),
            best.flatten().contiguous(),
            torch.zeros(out, dtype=torch.int64),
            None if bias is None else bias.detach().float(),
            (out, into),
            smooth,
            apart,
            lifted,
        )

    def apply(self, whole: Any, scale: Any, *, out: Any, base: Any = None) -> Any:
        """What the layer gives.

        Args:
            whole: Uint8 of shape [tokens, in], from `quantize`.
            scale: Float32 of shape [tokens, 1].
            out: Float32 of shape [tokens, out], where it goes.
            base: What is added to it, such as the bias; may be `out` itself.
        """
        import torch

        zero = ZERO if self.lift is None else 0
        found = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, zero, self.packed, self.scales, self.zeros, None, 1.0, 0,
            torch.float32, "none", [], "",
        )  # fmt: skip
        if base is None:
            return torch.mul(found, scale, out=out)
        return torch.addcmul(base, found, scale, out=out)

    def of_tokens(self, x: Any, *, after: str = "none") -> Any:
        """What the layer gives of float32 tokens of shape [tokens, in], in parts of some rows.

        Args:
            x: The tokens.
            after: ``gelu``, or ``none``.
        """
        import torch

        found = torch.empty(len(x), self.shape[0])
        for part, out in zip(*(torch.split(rows, CHUNK_ROWS) for rows in (x, found)), strict=True):
            base = self.bias
            if self.apart is not None:
                some = part.index_select(1, self.apart[0])
                if base is None:
                    base = torch.mm(some, self.apart[1], out=out)
                else:
                    base = torch.addmm(base, some, self.apart[1], out=out)
            self.apply(*quantize(part, self.smooth, self.lift), out=out, base=base)
            if after == "gelu":
                torch.ops.aten.gelu_(out)
        return found


def whole_numbers(weight: Any, scale: Any) -> Any:
    """Weights as whole numbers, of which no two side by side exceed what 16 bits hold."""
    whole = (weight / scale).round_().clamp_(-MOST_WEIGHT, MOST_WEIGHT)
    pairs = whole[:, : whole.shape[1] // 2 * 2].unflatten(1, (-1, 2))
    left, right = pairs.unbind(2)
    over = ((left + right).abs() - MOST_PAIR).clamp_min_(0.0)
    sign = left.sign()
    left -= sign * (over / 2).ceil()
    right -= sign * (over / 2).floor()
    return whole


def quantize(x: Any, smooth: Any = None, lift: Any = None) -> tuple[Any, Any]:
    """Float32 of shape [tokens, dim] -> uint8 of the same shape, and scales of shape [tokens, 1].

    A token with a number that is not finite gets a scale that is not, and so does what is made of
    it.

    Args:
        x: The tokens.
        smooth: Of shape [dim], what they are multiplied by first; None for 1.
        lift: Of shape [dim], what is added then, so that none is below 0, and 0 is 0; None where
            they have a sign, and 0 is `ZERO`.
    """
    import torch

    if lift is not None:
        x = x + lift if smooth is None else torch.addcmul(lift, x, smooth)
        scale = torch.amax(x, 1, keepdim=True).clamp_min_(LEAST).div_(MOST_LIFTED)
        x.mul_(scale.reciprocal()).sub_(ZERO).clamp_min_(-ZERO)
    else:
        x = x if smooth is None else torch.mul(x, smooth)
        least = torch.amin(x, 1, keepdim=True).neg_()
        scale = torch.maximum(torch.amax(x, 1, keepdim=True), least)
        scale = scale.clamp_min_(LEAST).div_(MOST_ACTIVATION)
        # What was given stays as it is.
        x = torch.mul(x, scale.reciprocal(), out=None if smooth is None else x)
    # To a number with a sign, since torch is five times as slow without.
    return x.round_().to(torch.int8).view(torch.uint8).add_(ZERO), scale


class Together(threading.local):
    """Layers of the same tokens, such as query, key and value, as one: computed at the first call.

    Args:
        weights: Of all of them, one below the other.
        sizes: Numbers that each gives.
    """

    def __init__(self, weights: Int8Weights, sizes: Sequence[int]) -> None:
        self.weights = weights
        self.borders = [0]
        for size in sizes:
            self.borders.append(self.borders[-1] + size)
        self.parts = [slice(start, stop) for start, stop in pairwise(self.borders)]
        self._x: Any = None
        self._found: Any = None
        self._left = 0

    def given(self, x: Any, at: int) -> Any:
        """What the layer of that number gives of tokens of shape [..., in]."""
        if self._x is not x:
            flat = self.weights.of_tokens(x.reshape(-1, self.weights.shape[1]))
            self._found = flat.view(*x.shape[:-1], self.weights.shape[0])
            self._x, self._left = x, len(self.parts)
        found = self._found[..., self.parts[at]]
        self._left -= 1
        if self._left <= 0:
            # Nothing is kept that nobody will ask for again: a batch of tokens is large.
            self._x = self._found = None
        return found


def int8_layer(
    weights: Int8Weights, *, after: str = "none", beside: tuple[Together, int] | None = None
) -> Any:
    """A module that computes a linear layer in int8.

    Args:
        weights: Of the layer, or of it and those beside it.
        after: ``gelu``, or ``none``.
        beside: Those that it is computed together with, and which one it is.
    """
    import torch

    class Int8Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out_features, self.in_features = weights.shape
            if beside is not None:
                part = beside[0].parts[beside[1]]
                self.out_features = part.stop - part.start
            # Some models (T5) look at the dtype of a layer's weight before they call it.
            self.weight = torch.empty(0)

        def forward(self, x: Any) -> Any:
            if beside is not None:
                return beside[0].given(x, beside[1])
            found = weights.of_tokens(x.reshape(-1, weights.shape[1]), after=after)
            return found.view(*x.shape[:-1], weights.shape[0])

    return Int8Linear().eval()
