"""Long texts: cut at token borders into windows that fit the model, merged into one result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.models.results import spread


@dataclass(frozen=True)
class Window:
    """A run of a text's content tokens, special tokens not counted.

    Attributes:
        start: First token.
        stop: One past the last token.
        keep_start: First token whose result is taken from this window.
        keep_stop: One past the last such token.
    """

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def cut(tokens: int, *, size: int, overlap: int = 0) -> list[Window]:
    """Cuts a text of some tokens into windows of at most `size` that cover every token.

    Each token's result is kept from exactly one window: in an overlap, the first half from the
    window on the left and the rest from the one on the right, so that every kept token has
    context on both sides. The windows of one text have about the same length, so a text of
    ``size + 1`` tokens does not give one full window and one of a single token.

    Args:
        tokens: Content tokens of the text, 0 or more.
        size: The most content tokens the model takes at once.
        overlap: Tokens shared by neighbouring windows, less than `size`.

    Returns:
        The windows in text order; one empty window for a text without tokens.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap {overlap} must be at least 0 and less than the size {size}")
    if tokens <= size:
        return [Window(0, tokens, 0, tokens)]
    step = size - overlap
    count = 1 + -(-(tokens - size) // step)
    length = -(-(tokens + (count - 1) * overlap) // count)
    starts = [round(i * (tokens - length) / (count - 1)) for i in range(count)]
    windows = []
    keep = 0
    for i, start in enumerate(starts):
        stop = start + length
        last = i == count - 1
        keep_stop = tokens if last else (starts[i + 1] + stop + 1) // 2
        windows.append(Window(start, stop, keep, keep_stop))
        keep = keep_stop
    return windows


@dataclass(frozen=True)
class Cuts:
    """The windows of many texts, in text order.

    Attributes:
        owner: The text of each window.
        start: First token, counted over all texts.
        stop: One past the last token.
        keep_start: First token whose result is taken from this window.
        keep_stop: One past the last such token.
    """

    owner: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    keep_start: np.ndarray
    keep_stop: np.ndarray

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def weights(self) -> np.ndarray:
        """Content tokens of each window, at least 1, as float32: what a mean is weighted by."""
        return np.asarray(np.maximum(self.stop - self.start, 1), dtype=np.float32)

    @property
    def counts(self) -> np.ndarray:
        """Windows of each text that has any."""
        return np.bincount(self.owner)


def cut_all(starts: np.ndarray, *, size: int, overlap: int = 0, first: bool = False) -> Cuts:
    """Cuts every text that is longer than `size`; each of the others is one window.

    Args:
        starts: First token of each text and the end of the last, of shape [texts + 1].
        size: The most content tokens the model takes at once.
        overlap: Tokens shared by neighbouring windows of a text.
        first: Keep the first `size` tokens of each text and drop the rest.
    """
    if first or int(np.diff(starts).max(initial=0)) <= size:
        begin = starts[:-1].astype(np.int64)
        end = np.minimum(starts[1:], begin + size) if first else starts[1:].astype(np.int64)
        return Cuts(np.arange(len(begin)), begin, end, begin, end)
    # As `cut`, for all at once.
    tokens = np.diff(starts.astype(np.int64))
    count = np.where(tokens <= size, 1, 1 + -(-(tokens - size) // (size - overlap)))
    length = -(-(tokens + (count - 1) * overlap) // count)
    owner = np.repeat(np.arange(len(tokens)), count)
    begin = starts[:-1].astype(np.int64)[owner]
    number, last = spread(np.zeros_like(count), count), count[owner] - 1
    room = (tokens - length)[owner]
    start = np.rint(number * room / np.maximum(last, 1)).astype(np.int64)
    stop = start + length[owner]
    keep_stop = (np.append(start[1:], 0) + stop + 1) // 2
    keep_stop = np.where(number == last, tokens[owner], keep_stop)
    keep_start = np.where(number == 0, 0, np.append(0, keep_stop[:-1]))
    return Cuts(owner, *(begin + part for part in (start, stop, keep_start, keep_stop)))
