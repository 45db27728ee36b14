"""Two texts in one sequence: how a tokenizer lays out a pair, with types for each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.models.torch.inputs import ID_MASK, TEXT_BIT, TYPE_BIT, Layout
from pipeline.models.torch.model import Model


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
        self._inputs = model.inputs
        layout = Layout.of(model.tokenizer, texts=2)
        self.wants_types = self._inputs.wants(layout)
        self.types = layout.types
        self.before, self.between, self.after = (run.coded() for run in layout.runs)

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

    def take_apart(self, coded: Any, mask: Any) -> tuple[dict[str, Any], Any]:
        """A batch of coded ids -> what the model takes, and where the text is.

        Args:
            coded: Int64 tensor of shape [rows, longest].
            mask: Of the same shape, 0 on padding; None where there is none.

        Returns:
            The arguments of the module's forward; and a bool tensor of the same shape.
        """
        given = coded if self.wants_types else coded & ID_MASK
        inputs = self._inputs.of(given, mask, types=self.wants_types)
        return inputs, coded >> TEXT_BIT & 1 == 1
