"""Long texts cut where a reader would cut them: between sentences, else at white space."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pipeline.models.text.texts import Tokenizer

SPACE = re.compile(r"\s+")
# Characters given to sentencex at once: for sentences of two letters that are no ASCII, its time
# grows with the square of the text: 0.2 s for 16,000 of them, 3 s for 64,000.
BLOCK = 1 << 14


def sentences(text: str, *, language: str) -> Iterator[str]:
    """The sentences of a text, which join to it, in time that grows with its length.

    Args:
        text: Any text.
        language: ISO 639 code; of a language that is not known they are those of a related one, or
            of English.
    """
    from sentencex import segment

    start, size = 0, BLOCK
    while start < len(text):
        block = text[start : start + size]
        parts = [part for part in segment(language, block) if part] or [block]
        if start + size < len(text):
            parts.pop()  # it may go on behind the block
        yield from parts
        start += sum(map(len, parts))
        size = BLOCK if parts else 2 * size


def passages(text: str, tokens: Tokenizer, *, room: int, language: str) -> list[str]:
    """Cuts a text into pieces of at most `room` tokens each, which join to the text.

    Borders are those of sentences. A sentence that is too long by itself is cut at white space,
    and a word that is too long between any two characters. Pieces are of about the same length,
    so that a text of a little more than `room` does not end in a scrap.

    Args:
        text: Any text.
        tokens: By which pieces are measured.
        room: The most tokens of a piece, at least 1.
        language: ISO 639 code of the text; sentences of a language that is not known are cut as
            those of a related one, or as English.

    Returns:
        The pieces in text order. One is longer than `room` only if it is a single character.
    """
    parts = list(sentences(text, language=language))
    counts = tokens.encode(parts).lengths.tolist()
    while any(c > room and len(p) > 1 for p, c in zip(parts, counts, strict=True)):
        shorter: list[str] = []
        for part, count in zip(parts, counts, strict=True):
            shorter += _slices(part, -(-count // room)) if count > room else [part]
        parts = shorter
        counts = tokens.encode(parts).lengths.tolist()
    return ["".join(parts[start:stop]) for start, stop in pack(counts, room=room)]


def pack(counts: Sequence[int], *, room: int) -> list[tuple[int, int]]:
    """Puts neighbours together, up to `room`, into groups of about the same size.

    Args:
        counts: Tokens of each part.
        room: The most tokens of a group; a part that is longer stands alone.

    Returns:
        First part and one past the last of each group.
    """
    groups: list[tuple[int, int]] = []
    left, start = sum(counts), 0
    while start < len(counts):
        target = -(-left // max(1, -(-left // room)))
        stop, held = start, 0
        while stop < len(counts) and (stop == start or held + counts[stop] <= room):
            # The part that crosses the target belongs to the group that it is nearer to.
            if stop > start and held + counts[stop] - target > target - held:
                break
            held += counts[stop]
            stop += 1
        groups.append((start, stop))
        left -= held
        start = stop
    return groups


def _slices(part: str, count: int) -> list[str]:
    """Cuts a part into about `count` slices (2 at least), behind white space where some is near."""
    step = max(1, -(-len(part) // max(2, count)))
    out: list[str] = []
    start = 0
    while start < len(part):
        stop = min(len(part), start + step)
        if stop < len(part):
            spaces = list(SPACE.finditer(part, start + step // 2 + 1, stop))
            stop = spaces[-1].end() if spaces else stop
        out.append(part[start:stop])
        start = stop
    return out
