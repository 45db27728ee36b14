"""Attention over packed texts: a kernel on a GPU, text by text on a CPU to hold it against."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

# The name under which transformers calls it.
ATTENTION = "shardscribe_packed"
# What the flash attention kernel takes.
KERNEL_DTYPES = ("bfloat16", "float16")
KERNEL_HEAD_DIMS = range(8, 257, 8)
KERNEL_CAPABILITY = (8, 0)


def has_kernel(module: Any) -> bool:
    """Whether attention over packed texts can be computed where the module is."""
    import torch

    weight = next(module.parameters())
    if weight.device.type != "cuda" or torch.version.hip is not None:
        return bool(weight.device.type == "cpu")
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return (
        {"scale", "window_size"} <= inspect.signature(varlen_attn).parameters.keys()
        and str(weight.dtype).removeprefix("torch.") in KERNEL_DTYPES
        and module.config.hidden_size // module.config.num_attention_heads in KERNEL_HEAD_DIMS
        and torch.cuda.get_device_capability(weight.device) >= KERNEL_CAPABILITY
        and torch.backends.cuda.is_flash_attention_available()
    )


def attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **given: Any
) -> tuple[Any, None]:
    """Attention within each text, called by transformers' attention modules.

    States come in as [1, heads, tokens, head dim] and go out as [1, tokens, heads, head dim].
    """
    scale, window = given.get("scaling"), given.get("sliding_window")
    texts = Borders(given["cu_seq_lens_q"], given["max_length_q"])
    # transformers counts the token itself into a window, the kernel does not.
    reach = -1 if window is None else window - 1
    return attend(query, key, value, asking=texts, texts=texts, scale=scale, reach=reach), None


@dataclass(frozen=True)
class Borders:
    """Where texts that stand one after the other start and end.

    Attributes:
        places: Int32 tensor of shape [texts + 1].
        longest: Tokens of the longest.
    """

    places: Any
    longest: int


def attend(
    query: Any,
    key: Any,
    value: Any,
    *,
    asking: Borders,
    texts: Borders,
    scale: float | None,
    reach: int = -1,
) -> Any:
    """Attention of some tokens of each text to all of the same text.

    Args:
        query: Of shape [1, heads, tokens that ask, head dim].
        key: Of shape [1, heads, tokens, head dim].
        value: The same.
        asking: The tokens that ask.
        texts: All tokens.
        scale: Of the products; None for the usual.
        reach: How many tokens to each side a token sees; -1 for all.

    Returns:
        Of shape [1, tokens that ask, heads, head dim].
    """
    if not query.is_cuda:
        return _by_text(query, key, value, asking, texts, scale, reach)
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    out: Any = varlen_attn(
        q,
        k,
        v,
        asking.places,
        texts.places,
        asking.longest,
        texts.longest,
        scale=scale,
        window_size=(reach, reach),
    )
    return out.unsqueeze(0)


def _by_text(
    query: Any,
    key: Any,
    value: Any,
    asking: Borders,
    texts: Borders,
    scale: float | None,
    reach: int,
) -> Any:
    """The same, text by text: what the kernel is held against."""
    import torch

    outs = []
    for own, all_of_it in zip(_slices(asking), _slices(texts), strict=True):
        q, k, v = query[:, :, own], key[:, :, all_of_it], value[:, :, all_of_it]
        steps = torch.arange(k.shape[2])
        near = None if reach < 0 else (steps[: q.shape[2], None] - steps).abs() <= reach
        outs.append(
            torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=near, scale=scale)
        )
    return torch.cat(outs, dim=2).transpose(1, 2)


def _slices(borders: Borders) -> list[slice]:
    places = borders.places.tolist()
    return [slice(start, stop) for start, stop in pairwise(places)]
