"""What a model said of many sequences, in one array: no object for each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np


class _Rows(Sequence["np.ndarray | None"]):
    """One result per sequence, None where it failed."""

    def __init__(self, count: int) -> None:
        self.there = np.zeros(count, dtype=bool)

    def __len__(self) -> int:
        return len(self.there)

    @overload
    def __getitem__(self, at: int) -> np.ndarray | None: ...

    @overload
    def __getitem__(self, at: slice) -> list[np.ndarray | None]: ...

    def __getitem__(self, at: int | slice) -> np.ndarray | list[np.ndarray | None] | None:
        if isinstance(at, slice):
            return [self._row(row) for row in range(*at.indices(len(self)))]
        row = range(len(self))[at]
        return self._row(row)

    def __iter__(self) -> Iterator[np.ndarray | None]:
        return (self._row(row) for row in range(len(self)))

    def _row(self, row: int) -> np.ndarray | None:
        return self._found(row) if self.there[row] else None

    def _found(self, row: int) -> np.ndarray:
        raise NotImplementedError


class Stack(_Rows):
    """Results of so many numbers each.

    Args:
        count: Sequences.
        width: Numbers of each.
        dtype: Of the numbers.

    Attributes:
        values: Of shape [sequences, numbers]; zero where a sequence failed.
        there: Bools of shape [sequences]: whether it did not.
    """

    def __init__(self, count: int, width: int, *, dtype: np.dtype[np.generic]) -> None:
        super().__init__(count)
        self.values = np.zeros((count, width), dtype=dtype)

    def takes(self, found: object) -> bool:
        """Whether the results of a batch are of the same form."""
        return (
            isinstance(found, np.ndarray)
            and found.dtype == self.values.dtype
            and found.shape[1:] == self.values.shape[1:]
        )

    def put(self, batch: Sequence[int], found: np.ndarray) -> None:
        """Keeps the results of some sequences, of shape [batch, numbers]."""
        self.values[batch] = found
        self.there[batch] = True

    def _found(self, row: int) -> np.ndarray:
        return np.asarray(self.values[row])


class TokenRows(_Rows):
    """Results of so many numbers for each token of each sequence.

    Args:
        lengths: Tokens of each sequence, special tokens included.

    Attributes:
        lengths: Int64 of shape [sequences]: tokens of each.
        starts: Int64 of shape [sequences]: the first of its tokens in `values`; means nothing
            for one that failed.
        values: Of shape [tokens, numbers], in the order in which batches came.
        there: Bools of shape [sequences]: whether it did not.
    """

    def __init__(self, lengths: np.ndarray) -> None:
        super().__init__(len(lengths))
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.starts = np.zeros(len(lengths), dtype=np.int64)
        self.values = np.zeros((int(self.lengths.sum()), 0), dtype=np.float32)
        self._end = 0

    @classmethod
    def of(cls, results: Sequence[np.ndarray | None], lengths: np.ndarray) -> TokenRows:
        """Such results, if they are not in one array yet."""
        if isinstance(results, TokenRows):
            return results
        out = cls(lengths)
        for row, found in enumerate(results):
            if found is not None:
                out.put([row], found)
        return out

    def put(self, batch: Sequence[int], found: np.ndarray) -> None:
        """Keeps the results of some sequences.

        Args:
            batch: Which.
            found: Of shape [tokens, numbers], without padding, or [batch, longest, numbers], with
                padding on the right.
        """
        lengths = self.lengths[batch]
        if found.ndim == 3:
            found = found[np.arange(found.shape[1]) < lengths[:, None]]
        if found.shape == (len(self.values), found.shape[1]):
            self.values = found  # all of them: nothing to copy
        else:
            if found.shape[1:] != self.values.shape[1:]:
                self.values = np.zeros((len(self.values), found.shape[1]), dtype=found.dtype)
            self.values[self._end : self._end + len(found)] = found
        ends = self._end + np.cumsum(lengths)
        self.starts[batch] = ends - lengths
        self._end = int(ends[-1])
        self.there[batch] = True

    def _found(self, row: int) -> np.ndarray:
        start = self.starts[row]
        return np.asarray(self.values[start : start + self.lengths[row]])


def strongest(scores: np.ndarray) -> np.ndarray:
    """What most that is asked of scores needs.

    Args:
        scores: Between 0 and 1, of shape [..., labels].

    Returns:
        Of shape [..., 3]: the number of the best label, the first of equals; its score; and that
        of the next best, which is not there if there is one label alone.
    """
    best = scores.argmax(axis=-1)[..., None]
    parts = [best.astype(scores.dtype), np.take_along_axis(scores, best, axis=-1)]
    if scores.shape[-1] > 1:
        rest = scores.copy()
        np.put_along_axis(rest, best, -1.0, axis=-1)
        parts.append(rest.max(axis=-1, keepdims=True))
    return np.concatenate(parts, axis=-1)


def spread(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers of some runs, one run after the other, as int64.

    Args:
        starts: First number of each.
        lengths: Numbers of each.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.asarray(np.repeat(starts - (ends - lengths), lengths) + np.arange(total))


def stacked(results: Sequence[np.ndarray | None], *, width: int | None = None) -> np.ndarray:
    """Results of one shape -> float32 of shape [sequences, numbers], zero where one failed.

    Args:
        results: One-dimensional.
        width: Numbers of each; as many as the first has by default, none if all failed.
    """
    if isinstance(results, Stack):
        return results.values.astype(np.float32, copy=False)
    if width is None:
        width = next((len(found) for found in results if found is not None), 0)
    out = np.zeros((len(results), width), dtype=np.float32)
    for at, found in enumerate(results):
        if found is not None:
            out[at] = found
    return out
