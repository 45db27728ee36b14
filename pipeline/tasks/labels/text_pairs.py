"""Two texts in one: a sentence and a claim about it, a question and what may answer it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.errors import RowError
from pipeline.models.batching import Sequences
from pipeline.models.text.pairs import Pairs
from pipeline.models.text.side import TextSide
from pipeline.models.text.windows import cut_all
from pipeline.tasks.answers.questions import of_column


class TextPairs:
    """Puts a second text behind each text, as the model's tokenizer lays out a pair.

    Windows are cut from the first text; each has the second whole beside it.

    Args:
        text: Of a model that takes pairs.
        column: Of the second text.
        first: Of each text, only what fits beside the second.
    """

    def __init__(self, text: TextSide, column: str, *, first: bool) -> None:
        self.text = text
        self.column = column
        self.first = first
        self.pairs = Pairs(text)

    def sequences(
        self, texts: Sequence[str]
    ) -> tuple[Sequences, np.ndarray, np.ndarray, dict[int, RowError]]:
        """Texts, which come with their columns -> sequences that the model takes.

        Returns:
            Coded sequences, one empty for a row that fails; of each its row, and its tokens of the
            first text; and why rows fail.

        Raises:
            JobError: The texts come without the column.
        """
        seconds, failures = of_column(texts, self.column, what="second text", code="no_pair")
        encoded = self.text.encode(texts)
        content = self.pairs.code(encoded.ids, second=False)
        rows: list[np.ndarray] = []
        owner: list[int] = []
        weights: list[int] = []
        for row, second in enumerate(self.pairs.each(seconds)):
            start, stop = int(encoded.starts[row]), int(encoded.starts[row + 1])
            room = self.text.max_tokens - self.pairs.specials - len(second)
            if row not in failures and room < 1:
                failures[row] = RowError(
                    f"the second text has {len(second)} tokens and leaves no room for the first: "
                    f"the model takes {self.text.max_tokens}",
                    code="pair_too_long",
                )
            if row in failures:
                rows.append(np.zeros(0, dtype=np.int32))
                owner.append(row)
                weights.append(1)
                continue
            behind = self.pairs.code(second, second=True)
            cuts = cut_all(np.array([start, stop]), size=room, first=self.first)
            for begin, end in zip(cuts.start.tolist(), cuts.stop.tolist(), strict=True):
                rows.append(self.pairs.join(content[begin:end], behind))
                owner.append(row)
                weights.append(max(1, end - begin))
        return self.pairs.sequences(rows), np.array(owner), np.array(weights), failures
