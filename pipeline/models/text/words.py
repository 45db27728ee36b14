"""The words of a text in any language, and the phrases that follow from them."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache

# Letters of a word; what is longer (a digest, an address) is none. Thai has clauses that long.
LONGEST = 80
# Chinese characters and hiragana: written without spaces, each counts as a word.
_JOINED = (
    "\u2e80-\u2fdf\u3005-\u3007\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U000323af"
)
_ALONE = re.compile(f"[{_JOINED}]")
# Right single quotation mark, as typesetters write it.
APOSTROPHE = "\u2019"


@dataclass(frozen=True)
class Phrase:
    """A run of words, where it first occurs in its text.

    Attributes:
        said: The words, with one space where there is white space between them.
        start: Its first character.
        end: One past its last.
    """

    said: str
    start: int
    end: int


def phrases(text: str, *, least: int, most: int, stops: Collection[str]) -> Iterator[Phrase]:
    """The different phrases of a text, by where they end, the shorter first.

    Between the words of a phrase there is white space or nothing. One of a single letter, or of
    numbers alone, is none.

    Args:
        text: Of any language.
        least: Words of the shortest.
        most: Words of the longest.
        stops: With what none begins or ends, as `folded` has them.
    """
    seen: set[str] = set()
    run: list[tuple[int, int, str]] = []
    for match in _words().finditer(text):
        start, end = match.span()
        if end - start > LONGEST:
            run = []
            continue
        if run and not _joins(text[run[-1][1] : start]):
            run = []
        word = folded(match[0])
        run.append((start, end, word))
        del run[:-most]
        if word in stops:
            continue
        for count in range(least, len(run) + 1):
            first = run[-count]
            if first[2] in stops:
                continue
            key = word if count == 1 else " ".join(part[2] for part in run[-count:])
            if key not in seen:
                seen.add(key)
                if _tells(key):
                    said = " ".join(text[first[0] : end].split())
                    yield Phrase(said, first[0], end)


def folded(word: str) -> str:
    """A word as it is compared: in any case, with either apostrophe."""
    return word.strip().casefold().replace(APOSTROPHE, "'")


def _joins(gap: str) -> bool:
    """Whether words that stand so far apart may be of one phrase; a blank line parts them."""
    return gap in ("", " ") or (gap.isspace() and gap.count("\n") < 2)


def _tells(phrase: str) -> bool:
    letters = sum(map(str.isalpha, phrase))
    return letters > 1 or bool(letters and _ALONE.search(phrase))


@lru_cache(maxsize=1)
def _words() -> re.Pattern[str]:
    """Finds runs of letters and digits, with hyphens, apostrophes and decimal points inside."""
    marks = "".join(
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)).startswith("M")
    )
    letters = rf"[^\W{_JOINED}]++(?:[{marks}]++[^\W{_JOINED}]*+)*+"
    inside = rf"(?:[-'{APOSTROPHE}]|(?<=\d)[.,](?=\d))"
    return re.compile(rf"[{_JOINED}][{marks}]*+|{letters}(?:{inside}{letters})*+")
