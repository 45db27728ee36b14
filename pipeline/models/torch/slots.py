"""Keys and values of rows that are being written, each in a slot, and attention that reads them.

transformers' own cache is put together anew at every step, which moves all of it, and its attention
wants rows of one length. Here memory is taken once; a new token is written where it belongs, and
attention is told how far each slot is filled. Heads that share keys and values are computed as
several queries of one head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Under which name transformers calls the attention, and in which argument it gets the slots.
ATTENTION = "shardscribe_slots"
ARGUMENT = "shardscribe_slots"
# Attention kernels want masks whose rows begin at such multiples.
ALIGNED = 16


@dataclass(frozen=True)
class Reading:
    """Texts that stand one after the other, each read into a slot.

    Attributes:
        slots: Where each goes.
        borders: Where each starts in what is computed, and the end.
        past: Tokens that stand in each slot already, and before each text.
    """

    slots: Sequence[int]
    borders: Sequence[int]
    past: int


@dataclass(frozen=True)
class Stepping:
    """A token or more for each slot from the first on.

    Attributes:
        slots: Int64 tensor of shape [tokens]: where each goes.
        at: Int64 tensor of shape [tokens]: how many stand there before it.
        mask: Float tensor of shape [rows, 1, width, longest], minus infinity where a row's token
            sees nothing; its width is how many tokens there are for a row, at most.
        padded: Int64 tensor of shape [tokens]: where each is among rows of `width` tokens; None
            where all have one.
    """

    slots: Any
    at: Any
    mask: Any
    padded: Any


class Slots:
    """A cache as transformers' modules use one.

    Args:
        count: How many slots.
        capacity: Tokens of each.

    Attributes:
        now: What the next forward is about.
    """

    is_compileable = False

    def __init__(self, *, count: int, capacity: int) -> None:
        self.count = count
        self.capacity = -(-capacity // ALIGNED) * ALIGNED
        self.now: Reading | Stepping | None = None
        self._keys: dict[int, Any] = {}
        self._values: dict[int, Any] = {}

    def reading(self, slots: Sequence[int], lengths: Sequence[int], *, past: int) -> None:
        """The next forward reads texts of these lengths."""
        borders = [0]
        for length in lengths:
            borders.append(borders[-1] + length)
        self.now = Reading(slots, borders, past)

    def stepping(
        self, at: np.ndarray, counts: np.ndarray, *, place: Callable[[np.ndarray], Any], dtype: Any
    ) -> np.ndarray:
        """The next forward adds tokens to the first slots.

        Args:
            at: How many stand in each.
            counts: How many it adds to each, at least one.
            place: Puts integers on the device.
            dtype: Of the module.

        Returns:
            How many stand before each token that is added, of shape [tokens].
        """
        import torch

        width, longest = int(counts.max()), int((at + counts).max())
        slots = np.repeat(np.arange(len(at)), counts)
        nth = np.arange(len(slots)) - np.repeat(np.cumsum(counts) - counts, counts)
        longest = min(self.capacity, -(-longest // ALIGNED) * ALIGNED)
        seen = place(at[:, None] + np.arange(width))
        hidden = torch.arange(longest, device=seen.device) > seen[..., None]
        padded = place(slots * width + nth) if width > 1 else None
        before: np.ndarray = at[slots] + nth
        self.now = Stepping(place(slots), place(before), hiding(hidden, dtype=dtype), padded)
        return before

    def share(self, length: int) -> None:
        """The first tokens of slot 0 stand in all slots from here on."""
        for held in (*self._keys.values(), *self._values.values()):
            held[1:, :, :length] = held[:1, :, :length]

    def move(self, source: int, target: int, length: int) -> None:
        """A slot becomes what another is."""
        for held in (*self._keys.values(), *self._values.values()):
            held[target, :, :length] = held[source, :, :length]

    def update(self, keys: Any, values: Any, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Puts a layer's keys and values where they belong.

        Returns:
            What the attention gets: all that the slots hold, at a step; else what it was given.
        """
        if layer_idx not in self._keys:
            self._keys[layer_idx] = self._taken(keys)
            self._values[layer_idx] = self._taken(values)
        own, now = (self._keys[layer_idx], self._values[layer_idx]), self.now
        if isinstance(now, Stepping):
            own[0][now.slots, :, now.at] = keys[0].transpose(0, 1)
            own[1][now.slots, :, now.at] = values[0].transpose(0, 1)
            count, longest = len(now.mask), now.mask.shape[-1]
            return own[0][:count, :, :longest], own[1][:count, :, :longest]
        assert now is not None, "the cache was not told what comes"
        for slot, start, stop in zip(now.slots, now.borders[:-1], now.borders[1:], strict=True):
            for held, states in zip(own, (keys, values), strict=True):
                end = now.past + stop - start
                held[slot, :, now.past : end] = states[0, :, start:stop]
                # Of the row before: a number that is none would be seen through any mask.
                held[slot, :, end:] = 0
        return keys, values

    def slot(self, layer: int, slot: int, length: int) -> tuple[Any, Any]:
        """The first keys and values of a slot, of shape [1, heads, length, size]."""
        return (
            self._keys[layer][slot : slot + 1, :, :length],
            self._values[layer][slot : slot + 1, :, :length],
        )

    @property
    def token_bytes(self) -> int:
        """What all layers keep of a token."""
        held = (*self._keys.values(), *self._values.values())
        return sum(one.nbytes // (self.count * self.capacity) for one in held)

    def get_seq_length(self, *_: Any) -> int:
        """Asked for by modules whose positions are given all the same."""
        return 0

    def _taken(self, states: Any) -> Any:
        # Zeros, as what is masked is computed too and must be a number.
        _, heads, _, size = states.shape
        return states.new_zeros((self.count, heads, self.capacity, size))


def hiding(hidden: Any, *, dtype: Any) -> Any:
    """What is added to scores of attention so that each row's token does not see some of its slot.

    Args:
        hidden: Bools of shape [rows, tokens that ask, tokens].
        dtype: Of the scores.

    Returns:
        Of shape [rows, 1, tokens that ask, tokens].
    """
    import torch

    mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
    return mask.masked_fill_(hidden, -torch.inf)[:, None]


def attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **given: Any
) -> tuple[Any, None]:
    """Attention over slots, called by transformers' attention modules.

    Queries come in as [1, heads, tokens, size]; what goes out is [1, tokens, heads, size].
    """
    import torch

    for name in ("softcap", "s_aux", "position_bias"):
        if given.get(name) is not None:
            raise NotImplementedError(f"attention with {name} is not computed over slots")
    slots: Slots = given[ARGUMENT]
    scale, now = given.get("scaling"), slots.now
    if isinstance(now, Stepping):
        return _step(query, key, value, scale, now), None
    assert now is not None
    outs = []
    for slot, start, stop in zip(now.slots, now.borders[:-1], now.borders[1:], strict=True):
        q, k, v = (states[:, :, start:stop] for states in (query, key, value))
        if now.past:
            k, v = slots.slot(module.layer_idx, slot, now.past + stop - start)
        outs.append(_read(q, k, v, scale))
    return torch.cat(outs, dim=2).transpose(1, 2), None


def _step(query: Any, key: Any, value: Any, scale: float | None, now: Stepping) -> Any:
    """Attention of the newest tokens of each slot to all of it."""
    import torch

    (rows, _, width, _), mask = now.mask.shape, now.mask
    groups = query.shape[1] // key.shape[1]
    asking = query[0].transpose(0, 1)
    if now.padded is not None:
        asking = asking.new_zeros((rows * width, *asking.shape[1:]))
        asking[now.padded] = query[0].transpose(0, 1)
        mask = mask.repeat(1, 1, groups, 1)
    asking = asking.reshape(rows, width, -1, groups, asking.shape[-1])
    found: Any = torch.nn.functional.scaled_dot_product_attention(
        asking.permute(0, 2, 3, 1, 4).flatten(2, 3), key, value, attn_mask=mask, scale=scale
    )
    found = found.unflatten(2, (groups, width)).permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1)
    return (found if now.padded is None else found[now.padded]).unsqueeze(0)


def _read(query: Any, key: Any, value: Any, scale: float | None) -> Any:
    """Causal attention of the last tokens of a text."""
    import torch

    count, total = query.shape[2], key.shape[2]
    past = total - count
    grouped = query.shape[1] != key.shape[1]
    compute = torch.nn.functional.scaled_dot_product_attention
    if past > count:
        steps = torch.arange(total, device=query.device)
        near = steps <= steps[past:, None]
        return compute(query, key, value, attn_mask=near, scale=scale, enable_gqa=grouped)
    # Kernels are faster for whole texts than for masks: queries of the past cost less than one.
    if past:
        query = torch.cat([query.new_zeros((*query.shape[:2], past, query.shape[3])), query], dim=2)
    out = compute(query, key, value, is_causal=total > 1, scale=scale, enable_gqa=grouped)
    return out[:, :, past:]
