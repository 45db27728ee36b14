"""What a module is given for a batch: ids, mask and token types, as its own forward wants them."""

from __future__ import annotations

import inspect
from typing import Any

from pipeline.models.families import MASKED
from pipeline.models.text.layout import ID_MASK, TYPE_BIT, TYPE_MASK, TokenTypes

# How architectures call their tables of token types. GPT-2's kind has none: it looks types up among
# its words, and was never given any.
TYPE_TABLE = "token_type_embeddings"
# XLNet and Funnel only compare types with each other; without any, they leave that term out.
COMPARED_TYPES = "seg_embed"


class Inputs:
    """What a module's forward takes.

    Args:
        module: A transformers model.
    """

    def __init__(self, module: Any) -> None:
        takes = inspect.signature(module.forward).parameters
        self._takes_mask = "attention_mask" in takes
        self._wants_mask = getattr(module.config, "model_type", None) in MASKED
        # What a forward keeps for the next token is of no use where none is written.
        self._fixed = {"use_cache": False} if "use_cache" in takes else {}

    def of(self, ids: Any, mask: Any, *, typed: bool) -> dict[str, Any]:
        """A batch -> the arguments of the module's forward.

        Args:
            ids: Int64 tensor of shape [rows, longest].
            mask: Of the same shape, 0 on padding; None where there is none.
            typed: Whether the ids have types in their upper bits.
        """
        inputs: dict[str, Any] = {"input_ids": ids & ID_MASK if typed else ids}
        if typed:
            inputs["token_type_ids"] = ids >> TYPE_BIT & TYPE_MASK
        if self._takes_mask:
            if mask is None and self._wants_mask:
                mask = ids.new_ones(ids.shape)
            inputs["attention_mask"] = mask
        return inputs | self._fixed


def token_types(module: Any) -> TokenTypes:
    """Which token types a module tells apart."""
    if "token_type_ids" not in inspect.signature(module.forward).parameters:
        return TokenTypes()
    for name, part in module.named_modules():
        if name.rpartition(".")[2] == TYPE_TABLE:
            return TokenTypes(len(part.weight))
    if any(name.rpartition(".")[2] == COMPARED_TYPES for name, _ in module.named_parameters()):
        return TokenTypes(TYPE_MASK, always=True)
    return TokenTypes()


def first_position(module: Any) -> int:
    """RoBERTa's kind counts positions from padding_idx + 1, so it has that many fewer."""
    for name, part in module.named_modules():
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
            return int(part.padding_idx) + 1
    return 0


def read_to_the_end(module: Any) -> None:
    """Makes a classifier without a padding token read each row's last token, also in batches.

    Those that read the last token refuse a batch when they can't tell padding from it. In a batch
    without padding there is nothing to tell: -1 is no row's token.
    """
    for config in (module.config, module.config.get_text_config()):
        config.pad_token_id = -1
