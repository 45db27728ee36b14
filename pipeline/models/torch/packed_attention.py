"""Attention over packed texts: a kernel on a GPU, text by text on a CPU to hold it against."""

from __future__ import annotations

import inspect
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
    borders, longest = given["cu_seq_lens_q"], given["max_length_q"]
    scale, window = given.get("scaling"), given.get("sliding_window")
    # transformers counts the token itself into a window, the kernel does not.
    reach = -1 if window is None else window - 1
    if not query.is_cuda:
        return _by_text(query, key, value, borders, scale, reach), None
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    out: Any = varlen_attn(
        q, k, v, borders, borders, longest, longest, scale=scale, window_size=(reach, reach)
    )
    return out.unsqueeze(0), None


def _by_text(
    query: Any, key: Any, value: Any, borders: Any, scale: float | None, reach: int
) -> Any:
    """The same, text by text: what the kernel is held against."""
    import torch

    outs = []
    for start, stop in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        steps = torch.arange(stop - start)
        near = None if reach < 0 else (steps[:, None] - steps).abs() <= reach
        q, k, v = (states[:, :, start:stop] for states in (query, key, value))
        outs.append(
            torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=near, scale=scale)
        )
    return torch.cat(outs, dim=2).transpose(1, 2)
