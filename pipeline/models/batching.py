"""Batches of about the same work: texts sorted by length, cut by padded tokens, not by rows.

A batch is padded to its longest text, so what it costs is rows x longest. Sorting puts texts of
one length together; the budget bounds the product, the slack what of it is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.models.results import spread


@dataclass(frozen=True)
class Sequences:
    """What a model is given: runs of one array of tokens, special tokens around each.

    Attributes:
        ids: Integers of shape [tokens].
        starts: First token of each sequence, of shape [sequences].
        stops: One past its last token.
        prefix: Special tokens before each sequence.
        suffix: Special tokens after each sequence.
        typed: Whether ids have the types of their tokens in the upper bits, for a model that has to
            be told them.
        paired: Whether each sequence is two texts.
    """

    ids: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    prefix: Sequence[int] = ()
    suffix: Sequence[int] = ()
    typed: bool = False
    paired: bool = False

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[int] | np.ndarray],
        *,
        typed: bool = False,
        paired: bool = False,
    ) -> Sequences:
        """Sequences that are whole already, special tokens included."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        ends = np.cumsum(lengths)
        flat = [np.zeros(0, dtype=np.int64), *(np.asarray(row, dtype=np.int64) for row in rows)]
        ids = np.concatenate(flat)
        return cls(ids, ends - lengths, ends, typed=typed, paired=paired)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, special tokens included."""
        return np.asarray(self.stops - self.starts + (len(self.prefix) + len(self.suffix)))

    def take(self, rows: np.ndarray) -> Sequences:
        """Some of the sequences."""
        return replace(self, starts=self.starts[rows], stops=self.stops[rows])

    def flat(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Some of the sequences one after the other, without padding.

        Returns:
            Int64 ids of shape [tokens], and the tokens of each sequence of shape [rows].
        """
        at = np.asarray(rows, dtype=np.int64)
        before, after = len(self.prefix), len(self.suffix)
        content = (self.stops - self.starts)[at]
        lengths = content + before + after
        ends = np.cumsum(lengths)
        firsts = ends - lengths
        out = np.zeros(int(ends[-1]), dtype=np.int64)
        out[spread(firsts + before, content)] = self.ids[spread(self.starts[at], content)]
        if before:
            out[firsts[:, None] + np.arange(before)] = self.prefix
        if after:
            out[(ends - after)[:, None] + np.arange(after)] = self.suffix
        return out, lengths

    def padded(
        self, rows: Sequence[int], *, pad_id: int, left: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Some of the sequences as one array.

        Args:
            rows: Which.
            pad_id: Fills the rest.
            left: Whether the rest is on the left.

        Returns:
            Int64 ids of shape [rows, longest], and the mask of the same shape, 0 on padding;
            None where nothing is padded.
        """
        at = np.asarray(rows, dtype=np.int64)
        before, after = len(self.prefix), len(self.suffix)
        content = (self.stops - self.starts)[at]
        lengths = content + before + after
        longest = int(lengths.max())
        steps = np.arange(longest)
        first = (longest - lengths if left else np.zeros_like(lengths))[:, None]
        where = steps - first - before
        inside = (where >= 0) & (where < content[:, None])
        source = np.where(inside, self.starts[at][:, None] + where, 0)
        out = np.where(inside, self.ids[source] if len(self.ids) else 0, pad_id).astype(np.int64)
        if before:
            np.put_along_axis(out, first + np.arange(before), np.array([self.prefix]), axis=1)
        if after:
            ends = first + before + content[:, None] + np.arange(after)
            np.put_along_axis(out, ends, np.array([self.suffix]), axis=1)
        if int(lengths.sum()) == out.size:
            return out, None
        mask = (steps >= first) & (steps < first + lengths[:, None])
        return out, mask.astype(np.int64)


def batches(
    lengths: Sequence[int] | np.ndarray, *, budget: int, slack: int | None = None
) -> list[list[int]]:
    """Cuts sequences into batches, longest first.

    Longest first, so that a batch that does not fit the device's memory shows at once.

    Args:
        lengths: Tokens of each sequence, special tokens included.
        budget: The most padded tokens in a batch. A sequence longer than that stands alone.
        slack: The most padding in a batch, in tokens: about what starting another batch costs.
            Without it, padding alone never ends a batch.

    Returns:
        Indices into `lengths`: each exactly once, within a batch by falling length.
    """
    if budget < 1:
        raise ValueError(f"the budget must be at least 1 token, not {budget}")
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    falling = sizes[order]
    total = np.concatenate([[0], np.cumsum(falling)])
    out: list[list[int]] = []
    start = 0
    while start < len(order):
        longest = max(1, int(falling[start]))
        stop = min(len(order), start + max(1, budget // longest))
        if slack is not None and falling[stop - 1] < longest:
            ends = np.arange(start + 1, stop + 1)
            padding = (ends - start) * longest - (total[start + 1 : stop + 1] - total[start])
            stop = start + max(1, int(np.searchsorted(padding, slack, side="right")))
        out.append(order[start:stop].tolist())
        start = stop
    return out


def packed_batches(lengths: np.ndarray, *, budget: int) -> list[list[int]]:
    """Cuts sequences into batches without padding, longest first.

    Sorted all the same: memory trouble shows at once, and attention works on like lengths.

    Args:
        lengths: Tokens of each sequence, special tokens included.
        budget: The most tokens in a batch. A sequence longer than that stands alone.
    """
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    out: list[list[int]] = []
    start = 0
    while start < len(order):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
        out.append(order[start:stop].tolist())
        start = stop
    return out


def padded_tokens(lengths: Sequence[int], plan: Sequence[Sequence[int]]) -> int:
    """Tokens that the device sees when each batch of a plan is padded to its longest sequence."""
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in plan if batch)
