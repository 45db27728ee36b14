"""What a module is given for a batch: ids, mask and token types, as its own forward wants them.

Batches carry token ids only. What else a model wants to know of a token, its type and whether it
is of the text that is annotated, travels in the upper bits of the id, and is taken apart on the
device.

Types are asked of the module and of the tokenizer's template, not of ``model_input_names``, which
transformers no longer fills for every family that was trained with them (ALBERT, XLNet, BigBird).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from pipeline.models.families import MASKED

# No vocabulary is near 2^24 = 16.7 million; a few types and one flag fit above it into an int32.
TYPE_BIT = 24
TEXT_BIT = 30
ID_MASK = (1 << TYPE_BIT) - 1
TYPE_MASK = (1 << (TEXT_BIT - TYPE_BIT)) - 1

# What a model that does not say how much it takes (T5's positions are relative) gets.
FALLBACK_MAX_TOKENS = 512
# How architectures call their tables of token types. GPT-2's kind has none: it looks types up among
# its words, and was never given any.
TYPE_TABLE = "token_type_embeddings"
# XLNet and Funnel only compare types with each other; without any, they leave that term out.
COMPARED_TYPES = "seg_embed"


@dataclass(frozen=True)
class Run:
    """Tokens that stand together in a sequence.

    Attributes:
        ids: Special tokens; empty for one of the texts.
        types: The type of each.
    """

    ids: tuple[int, ...] = ()
    types: tuple[int, ...] = ()

    def coded(self) -> list[int]:
        """Ids with their types in the upper bits."""
        return [id_ | kind << TYPE_BIT for id_, kind in zip(self.ids, self.types, strict=True)]


@dataclass(frozen=True)
class Layout:
    """How a tokenizer lays out one text, or two.

    Attributes:
        runs: Special tokens before the first text, behind it, and behind the second if any.
        types: The token type of each text.
    """

    runs: tuple[Run, ...]
    types: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any, *, texts: int) -> Layout:
        """Asks the tokenizer's own template.

        Args:
            tokenizer: A fast one of transformers.
            texts: 1 or 2.
        """
        source = tokenizer.backend_tokenizer
        backend = type(source).from_str(source.to_str())
        backend.no_truncation()
        backend.no_padding()
        probe = backend.encode(*["a"] * texts, add_special_tokens=True)
        places: list[list[int]] = [[] for _ in range(texts + 1)]
        types = [0] * texts
        seen: list[int] = []
        for at, part in enumerate(probe.sequence_ids):
            if part is None:
                places[len(seen)].append(at)
            elif part not in seen:
                seen.append(part)
                types[part] = probe.type_ids[at]
        runs = (
            Run(tuple(probe.ids[at] for at in run), tuple(probe.type_ids[at] for at in run))
            for run in places
        )
        return cls(tuple(runs), tuple(types))

    @property
    def highest(self) -> int:
        """The highest type in it."""
        return max([*self.types, *(kind for run in self.runs for kind in run.types)])


class Inputs:
    """What a module's forward takes.

    Args:
        module: A transformers model.

    Attributes:
        types: How many token types the module tells apart; 0 if it does not look at them.
        always_types: Whether types that are all 0 are not the same as none.
    """

    def __init__(self, module: Any) -> None:
        takes = inspect.signature(module.forward).parameters
        self._takes_mask = "attention_mask" in takes
        self._wants_mask = getattr(module.config, "model_type", None) in MASKED
        # What a forward keeps for the next token is of no use where none is written.
        self._fixed = {"use_cache": False} if "use_cache" in takes else {}
        self.types, self.always_types = 0, False
        if "token_type_ids" in takes:
            self.types, self.always_types = _types(module)

    def wants(self, layout: Layout) -> bool:
        """Whether the module has to be told the types of a layout.

        A table that is too small for them was not trained with them: such a folder has a tokenizer
        of another family.
        """
        return self.always_types or 0 < layout.highest < self.types

    def of(self, coded: Any, mask: Any, *, types: bool) -> dict[str, Any]:
        """A batch -> the arguments of the module's forward.

        Args:
            coded: Int64 tensor of shape [rows, longest].
            mask: Of the same shape, 0 on padding; None where there is none.
            types: Whether the ids have types in their upper bits.
        """
        inputs: dict[str, Any] = {"input_ids": coded & ID_MASK if types else coded}
        if types:
            inputs["token_type_ids"] = coded >> TYPE_BIT & TYPE_MASK
        if self._takes_mask:
            if mask is None and self._wants_mask:
                mask = coded.new_ones(coded.shape)
            inputs["attention_mask"] = mask
        return inputs | self._fixed


def _types(module: Any) -> tuple[int, bool]:
    """How many types a module tells apart, and whether it has to be told them always."""
    for name, part in module.named_modules():
        if name.rpartition(".")[2] == TYPE_TABLE:
            return len(part.weight), False
    if any(name.rpartition(".")[2] == COMPARED_TYPES for name, _ in module.named_parameters()):
        return TYPE_MASK, True
    return 0, False


def pad_token(module: Any, tokenizer: Any) -> int:
    """The token that fills batches.

    The config's before the tokenizer's, as it is by the config's that modules find a text's end and
    count positions. Any token serves where there is none, as padding is masked.
    """
    known = own_pad_token(module)
    if known is None:
        known = getattr(tokenizer, "pad_token_id", None)
    return 0 if known is None else int(known)


def own_pad_token(module: Any) -> int | None:
    """The padding token by which the module itself tells padding; None if it has no such token."""
    config = module.config.get_text_config()
    token = getattr(config, "pad_token_id", None)
    size = getattr(config, "vocab_size", None)
    valid = isinstance(token, int) and token >= 0 and (size is None or token < size)
    return token if valid else None


def read_to_the_end(module: Any) -> None:
    """Makes a classifier without a padding token read each row's last token, also in batches.

    Those that read the last token refuse a batch when they can't tell padding from it. In a batch
    without padding there is nothing to tell: -1 is no row's token.
    """
    for config in (module.config, module.config.get_text_config()):
        config.pad_token_id = -1


def longest_input(module: Any, tokenizer: Any) -> int:
    """The most tokens a model takes at once, special tokens included."""
    limits = []
    declared = getattr(tokenizer, "model_max_length", None)
    if declared is not None and declared < 10_000_000:  # transformers says 1e30 for "unknown"
        limits.append(int(declared))
    config = module.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        positions = getattr(config, name, None)
        if isinstance(positions, int) and positions > 0:
            limits.append(positions - _first_position(module))
            break
    return min(limits) if limits else FALLBACK_MAX_TOKENS


def _first_position(module: Any) -> int:
    """RoBERTa's kind counts positions from padding_idx + 1, so it has that many fewer."""
    for name, part in module.named_modules():
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
            return int(part.padding_idx) + 1
    return 0
