"""What a model's layers need to be known in int8, from tokens of the job that float32 gives them.

What layers are given differs between channels, and a few of those may be a hundred times as large
as others: so channels are multiplied by what makes them more alike, and weights divided by it, as
in SmoothQuant; those that stick out most may stay in float32.
"""

from __future__ import annotations

import base64
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.models.torch.int8 import LEAST, LIFT, Int8Weights

# Tokens that a layer's error is measured on, and of a batch at most.
MEASURED_TOKENS = 512
BATCH_TOKENS = 32
# How much of the differences between channels goes from activations to weights: what is tried.
MOVED = (0.0, 0.25, 0.4, 0.55, 0.7)
# One of so many channels, those that matter most, may stay in float32; it has to gain as much.
CHANNELS_APART = 96
APART_GAINS = 1.15
# A clip that is good enough to tell those choices apart.
QUICK = (1.4,)


@dataclass
class Tokens:
    """What was given to a layer.

    Attributes:
        largest: Of each channel, of shape [in].
        least: Of all their numbers.
        kept: Some tokens, of shape [tokens, in] each.
    """

    largest: Any
    least: float
    kept: list[Any] = field(default_factory=list)


class GivenTokens:
    """Remembers what layers are given, once for those that are given the same."""

    def __init__(self) -> None:
        self.first: dict[str, str] = {}
        self.tokens: dict[str, Tokens] = {}
        self._lock = threading.Lock()
        # In each thread what the layer before was given, that layer, and the first of those.
        self._last = threading.local()

    def hook(self, path: str) -> Any:
        """What is told of each call of the layer of that path."""

        def look(part: Any, given: tuple[Any, ...], _: Any) -> None:
            x = given[0]
            before, first, room = getattr(self._last, "seen", (None, "", ""))
            mine = (path.rpartition(".")[0], getattr(part, "after", "none"))
            same = before is x and room == mine
            self._last.seen = x, first if same else path, mine
            with self._lock:
                known = self.first.setdefault(path, first if same else path)
                if known == path:
                    self._keep(path, x.reshape(-1, x.shape[-1]))

        return look

    def _keep(self, path: str, x: Any) -> None:
        if not len(x):
            return
        largest = x.abs().amax(0)
        if path not in self.tokens:
            self.tokens[path] = Tokens(largest, 0.0)
        tokens = self.tokens[path]
        tokens.least = min(tokens.least, float(x.min()))
        tokens.largest = largest.maximum(tokens.largest)
        room = MEASURED_TOKENS - sum(map(len, tokens.kept))
        if room > 0:
            some = x[:: -(-len(x) // BATCH_TOKENS)]
            tokens.kept.append(some[:room].clone())


def plain(part: Any) -> Any:
    """The weights of a layer, laid out or not, of shape [out, in]."""
    return part.laid_out.to_dense() if hasattr(part, "laid_out") else part.weight


def layers_measured(parts: Sequence[Any], tokens: Tokens) -> Iterator[dict[str, Any]]:
    """Of layers that are given the same, what each needs to be known in int8.

    Args:
        parts: The layers.
        tokens: What they are given.

    Yields:
        For each layer its error, whether its tokens need no sign and, as text, what it is off on
        average, of shape [out], and what channels are multiplied by, of shape [in], empty for 1.
    """
    import torch

    weight = torch.cat([plain(part) for part in parts])
    x = torch.cat(tokens.kept)
    lift = tokens.least >= -LIFT
    exact: Any = torch.nn.functional.linear(x, weight)
    choices = []
    for apart in (0, len(tokens.largest) // CHANNELS_APART):
        for moved in MOVED:
            smooth = _smooth(tokens.largest, weight, moved, apart=apart)
            rough = Int8Weights.of(weight, None, smooth=smooth, lift=lift, clips=QUICK).of_tokens(x)
            error = _error(rough - exact, exact) * (APART_GAINS if apart else 1.0)
            choices.append((error, apart, moved, smooth))
    smooth = min(choices, key=lambda choice: choice[:3])[3]
    wrong: Any = Int8Weights.of(weight, None, smooth=smooth, lift=lift).of_tokens(x) - exact
    sizes = [part.out_features for part in parts]
    each = (torch.split(found, sizes, 1) for found in (wrong, exact))
    for off, whole in zip(*each, strict=True):
        yield {
            "error": _error(off, whole),
            "off": text_of(_off(off, whole)),
            "lift": lift,
            "smooth": "" if smooth is None else text_of(smooth),
        }


def _smooth(largest: Any, weight: Any, moved: float, *, apart: int = 0) -> Any:
    """What each channel of a layer's tokens is multiplied by, so that they are more alike.

    Args:
        largest: Of each channel, of shape [in].
        weight: Of shape [out, in].
        moved: 0 to leave them, 1 to make them all the same.
        apart: How many channels stay in float32.

    Returns:
        Of shape [in], 0 for those; None for 1.
    """
    if not moved and not apart:
        return None
    theirs = weight.abs().amax(0)
    found = (theirs.clamp_min(1e-5) ** (1 - moved)) / (largest.clamp_min(1e-5) ** moved)
    found /= found.mean().clamp_min(LEAST)
    if apart:
        found[(largest * theirs).topk(apart).indices] = 0.0
    return found


def _error(wrong: Any, exact: Any) -> float:
    """What is wrong but for the mean, as a share, the mean square over tokens.

    By token, since some have a hundred times the numbers of others (BERT's first and last), which
    does not make them a hundred times as important. What is no number is no layer to be used.
    """
    left = (wrong - _off(wrong, exact)).double().square().sum(1, keepdim=True)
    found = float((left * _importance(exact)).mean())
    return math.sqrt(found) if math.isfinite(found) else 1e9


def _off(wrong: Any, exact: Any) -> Any:
    """What is wrong on average, of shape [out]."""
    importance = _importance(exact)
    return ((wrong * importance).sum(0) / importance.sum()).float()


def _importance(exact: Any) -> Any:
    """By which a token's squares are multiplied, so that all count the same: of [tokens, 1]."""
    whole = exact.double().square().sum(1, keepdim=True)
    # A token of next to nothing counts no more than one of a thousandth of the usual.
    return 1 / whole.maximum(whole.mean() * 1e-6).clamp_min(LEAST)


def text_of(numbers: Any) -> str:
    """Float32 numbers as base64."""
    return base64.b64encode(numbers.numpy().astype("<f4").tobytes()).decode()


def numbers_of(text: str) -> Any:
    """The same, back.

    Raises:
        ValueError: It is none.
    """
    import torch

    found = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    return torch.from_numpy(found.astype(np.float32))
