"""Long texts: cut at token borders into windows that fit the model, merged into one result."""

from __future__ import annotations

from dataclasses import dataclass


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
