"""BigBird's attention in blocks, kept for the texts that are long enough for it.

transformers' modules exchange it for full attention at the first short batch, for good: what a long
text gives would depend on what came before it.
"""

from __future__ import annotations

from typing import Any

SPARSE = "block_sparse"
# What the parts that look at the batch begin with, in BigBird and in BigBird-Pegasus.
EMBEDDINGS = ("embeddings", "embed_tokens")


def keep_sparse(module: Any) -> bool:
    """Lets each batch be computed as if it were the module's first.

    Args:
        module: A transformers model; changed in place.

    Returns:
        Whether it changes itself by the length of a batch.
    """
    # Layers and their attention are exchanged too, by the part that looks at the batch.
    deciding = [
        part
        for part in module.modules()
        if getattr(part, "attention_type", None) == SPARSE
        and any(hasattr(part, name) for name in EMBEDDINGS)
    ]
    for part in deciding:
        part.register_forward_pre_hook(_before, with_kwargs=True)
    return bool(deciding)


def _before(part: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
    """Goes back to blocks; the part itself leaves them where a batch is too short."""
    config = part.config
    ids = given.get("input_ids", args[0] if args else None)
    if ids is None:
        ids = given["inputs_embeds"]
    least = (5 + 2 * config.num_random_blocks) * config.block_size
    if ids.shape[1] > least and part.attention_type != SPARSE:
        part.set_attention_type(SPARSE)
