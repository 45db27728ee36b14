"""Two texts in one: a sentence and a claim about it, a question and what may answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.errors import JobError, RowError
from pipeline.models.batching import Sequences
from pipeline.models.model import Model
from pipeline.models.pairs import Pairs
from pipeline.models.windows import cut


class TextPairs:
    """Puts a second text behind each text, as the model's tokenizer lays out a pair.

    Windows are cut from the first text; each has the second whole beside it.

    Args:
        model: That takes pairs.
        column: Of the second text.
        first: Only the first window of each text.
    """

    def __init__(self, model: Model, column: str, *, first: bool) -> None:
        self.model = model
        self.column = column
        self.first = first
        self.pairs = Pairs(model)

    def windows(
        self, texts: Sequence[str]
    ) -> tuple[Sequences, np.ndarray, np.ndarray, dict[int, RowError]]:
        """Texts, which come with their columns -> sequences that the model takes.

        Returns:
            Coded sequences, one empty for a row that fails; of each its row, and its tokens of the
            first text; and why rows fail.

        Raises:
            JobError: The texts come without the column.
        """
        columns: Mapping[str, Sequence[Any]] = getattr(texts, "columns", {})
        if self.column not in columns:
            raise JobError(f"the texts come without the column {self.column}, their second texts")
        encoded = self.model.encode(texts)
        content = self.pairs.code(encoded.ids, second=False, text=False)
        seconds = columns[self.column]
        distinct = {
            text: at
            for at, text in enumerate(dict.fromkeys(t for t in seconds if isinstance(t, str)))
        }
        tokens = self.model.tokens.encode(list(distinct))
        before = np.array(self.pairs.before, dtype=np.int32)
        between = np.array(self.pairs.between, dtype=np.int32)
        after = np.array(self.pairs.after, dtype=np.int32)
        rows: list[np.ndarray] = []
        owner: list[int] = []
        weights: list[int] = []
        failures: dict[int, RowError] = {}
        for row, text in enumerate(seconds):
            start, stop = int(encoded.starts[row]), int(encoded.starts[row + 1])
            second = tokens.row(distinct[text]) if isinstance(text, str) else ()
            room = self.model.max_tokens - self.pairs.specials - len(second)
            if not isinstance(text, str) or not text.strip():
                failures[row] = RowError(
                    f"there is no second text in the column {self.column}", code="no_pair"
                )
            elif room < 1:
                failures[row] = RowError(
                    f"the second text has {len(second)} tokens and leaves no room for the first: "
                    f"the model takes {self.model.max_tokens}",
                    code="pair_too_long",
                )
            if row in failures:
                rows.append(np.zeros(0, dtype=np.int32))
                owner.append(row)
                weights.append(1)
                continue
            behind = np.concatenate(
                [between, self.pairs.code(second, second=True, text=False), after]
            )
            for window in cut(stop - start, size=room)[: 1 if self.first else None]:
                inside = content[start + window.start : start + window.stop]
                rows.append(np.concatenate([before, inside, behind]))
                owner.append(row)
                weights.append(max(1, window.stop - window.start))
        return Sequences.of(rows), np.array(owner), np.array(weights), failures

    def inputs(self, coded: Any) -> dict[str, Any]:
        """A batch of coded sequences -> what the model takes."""
        return self.pairs.take_apart(coded)[0]
