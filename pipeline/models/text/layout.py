"""How a tokenizer lays out one text or two, and how ids carry the types of their tokens.

Batches carry token ids only. A token's type, for models that tell types apart, travels in the upper
bits of its id, and is taken apart where the model is computed.

Types are asked of the model and of the tokenizer's template, not of ``model_input_names``, which
transformers no longer fills for every family that was trained with them (ALBERT, XLNet, BigBird).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# No vocabulary is near 2^24 = 16.7 million, and a few types fit above it into an int32.
TYPE_BIT = 24
ID_MASK = (1 << TYPE_BIT) - 1
TYPE_MASK = (1 << (31 - TYPE_BIT)) - 1


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


@dataclass(frozen=True)
class TokenTypes:
    """The token types that a model tells apart.

    Attributes:
        count: How many; 0 if it does not look at them.
        always: Whether types that are all 0 are not the same to it as none.
        told: Whether it can be told them: a graph may have been exported without.
    """

    count: int = 0
    always: bool = False
    told: bool = True

    def wanted(self, layout: Layout) -> bool:
        """Whether the model has to be told the types of a layout.

        A table that is too small for them was not trained with them: such a folder has a tokenizer
        of another family.
        """
        return self.told and self._matter(layout)

    def lost(self, layout: Layout) -> bool:
        """Whether the model would have to be told the types of a layout, and can't be."""
        return not self.told and self._matter(layout)

    def _matter(self, layout: Layout) -> bool:
        return self.always or 0 < layout.highest < self.count
