"""Two texts in one sequence: how a tokenizer lays out a pair, with types for each token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.errors import JobError
from pipeline.models.batching import Sequences
from pipeline.models.text.layout import TYPE_BIT, Layout
from pipeline.models.text.side import TextSide


class Pairs:
    """How a model is given two texts.

    Args:
        text: The model's text side.

    Attributes:
        before: Special tokens before the first text; like those below with types in the upper bits
            where the model looks at them.
        between: Those between the two.
        after: Those after the second.
        typed: Whether the model looks at types.

    Raises:
        JobError: The model tells the two apart by types that it can't be told.
    """

    def __init__(self, text: TextSide) -> None:
        self.tokens = text.tokens
        layout = Layout.of(text.tokenizer, texts=2)
        if text.types.lost(layout):
            raise JobError(
                f"the model in {text.folder} takes no token_type_ids, by which it was trained to "
                "tell the two texts of a pair apart",
                hint="Export it with them, or leave compute.engine at torch",
            )
        self.typed = text.types.wanted(layout)
        self._types = layout.types if self.typed else (0, 0)
        self.before, self.between, self.after = (
            run.coded() if self.typed else list(run.ids) for run in layout.runs
        )

    @property
    def specials(self) -> int:
        """Special tokens of a pair."""
        return len(self.before) + len(self.between) + len(self.after)

    def code(self, ids: np.ndarray | Sequence[int], *, second: bool) -> np.ndarray:
        """Token ids of one of the two, with its type, of the same shape.

        Args:
            ids: Without special tokens.
            second: Whether they are of the second text.
        """
        return np.asarray(ids, dtype=np.int32) | np.int32(self._types[second] << TYPE_BIT)

    def each(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text without special tokens; one that repeats is tokenized once."""
        distinct = {text: at for at, text in enumerate(dict.fromkeys(texts))}
        encoded = self.tokens.encode(list(distinct))
        return [encoded.row(distinct[text]) for text in texts]

    def join(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Coded ids of both texts -> the sequence that the model takes."""
        parts = (self.before, first, self.between, second, self.after)
        return np.concatenate([np.asarray(part, dtype=np.int32) for part in parts])

    def sequences(self, rows: Sequence[np.ndarray]) -> Sequences:
        """Pairs that were joined, as a head takes them."""
        return Sequences.of(rows, typed=self.typed, paired=True)

    def beside(
        self, ids: np.ndarray, starts: np.ndarray, stops: np.ndarray, second: Sequence[int]
    ) -> Sequences:
        """Runs of coded ids, each with the same second text behind it, as a head takes them."""
        suffix = [*self.between, *second, *self.after]
        return Sequences(ids, starts, stops, self.before, suffix, typed=self.typed, paired=True)
