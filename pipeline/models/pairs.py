"""Two texts in one sequence: how a tokenizer lays out a pair, with types for each token.

Batches carry token ids only. What else a model wants to know of a token of a pair, its type and
whether it is of the text that is annotated, travels in the upper bits of the id, and is taken
apart on the device.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.models.model import Model

# No vocabulary is near 2^24 = 16.7 million; a few types and one flag fit above it into an int32.
TYPE_BIT = 24
TEXT_BIT = 30
ID_MASK = (1 << TYPE_BIT) - 1
TYPE_MASK = (1 << (TEXT_BIT - TYPE_BIT)) - 1


@dataclass(frozen=True)
class Run:
    """Tokens that stand together in a pair.

    Attributes:
        ids: Special tokens; empty for one of the two texts.
        types: The type of each.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...]

    def coded(self) -> list[int]:
        """Ids with their types in the upper bits."""
        return [id_ | kind << TYPE_BIT for id_, kind in zip(self.ids, self.types, strict=True)]


class Pairs:
    """How a model is given two texts.

    Args:
        model: With its tokenizer.

    Attributes:
        before: Special tokens before the first text, as coded ids.
        between: Those between the two.
        after: Those after the second.
        types: The token type of the first and of the second text.
        wants_types: Whether the model looks at types.
    """

    def __init__(self, model: Model) -> None:
        self.tokens = model.tokens
        source = model.tokenizer.backend_tokenizer
        backend = type(source).from_str(source.to_str())
        backend.no_truncation()
        backend.no_padding()
        probe = backend.encode("a", "a", add_special_tokens=True)
        runs: list[list[int]] = [[], [], []]
        self.types = (0, 0)
        seen: list[int] = []
        for at, part in enumerate(probe.sequence_ids):
            if part is None:
                runs[len(seen)].append(at)
            elif part not in seen:
                seen.append(part)
                both = list(self.types)
                both[part] = probe.type_ids[at]
                self.types = (both[0], both[1])
        self.before, self.between, self.after = (
            Run(tuple(probe.ids[at] for at in run), tuple(probe.type_ids[at] for at in run)).coded()
            for run in runs
        )
        parameters = inspect.signature(model.module.forward).parameters
        self.wants_types = "token_type_ids" in parameters and (
            "token_type_ids" in model.tokenizer.model_input_names
        )

    @property
    def specials(self) -> int:
        """Special tokens of a pair."""
        return len(self.before) + len(self.between) + len(self.after)

    def code(self, ids: np.ndarray | Sequence[int], *, second: bool, text: bool) -> np.ndarray:
        """Token ids of one of the two, with type and flag, of the same shape.

        Args:
            ids: Without special tokens.
            second: Whether they are of the second text.
            text: Whether they are to be found again by `take_apart`.
        """
        kind = self.types[1] if second else self.types[0]
        flags = kind << TYPE_BIT | (1 << TEXT_BIT if text else 0)
        return np.asarray(ids, dtype=np.int32) | np.int32(flags)

    def each(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text without special tokens; one that repeats is tokenized once."""
        distinct = {text: at for at, text in enumerate(dict.fromkeys(texts))}
        encoded = self.tokens.encode(list(distinct))
        return [encoded.row(distinct[text]) for text in texts]

    def join(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Coded ids of both texts -> the sequence that the model takes."""
        parts = (self.before, first, self.between, second, self.after)
        return np.concatenate([np.asarray(part, dtype=np.int32) for part in parts])

    def take_apart(self, coded: Any) -> tuple[dict[str, Any], Any]:
        """A batch of coded ids -> what the model takes, and where the text is.

        Args:
            coded: Int64 tensor of shape [rows, longest].

        Returns:
            ``input_ids`` and, if the model wants them, ``token_type_ids``; and a bool tensor of
            the same shape.
        """
        inputs = {"input_ids": coded & ID_MASK}
        if self.wants_types:
            inputs["token_type_ids"] = coded >> TYPE_BIT & TYPE_MASK
        return inputs, coded >> TEXT_BIT & 1 == 1
