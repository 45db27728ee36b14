"""Text from anywhere, as it may be shown: what steers a terminal or hides is spelled out."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

# Control characters, format characters (which turn the direction of writing, or have no width),
# halves of surrogate pairs, and separators that some take for line ends.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def visible(text: object, *, most: int | None = None) -> str:
    """A text on one line, with ``\\x1b``, ``\\u202e``, ``\\n`` ... in the place of such characters.

    Args:
        text: From a file, its name, a library or a user.
        most: Characters that are kept; of a longer text the middle is left out.
    """
    shown = str(text)
    if most is not None and len(shown) > most:
        end = most // 4
        shown = f"{shown[: most - end - 1]}…{shown[-end:]}"
    if shown.isprintable():
        return shown
    return "".join(_spelled(c) if unicodedata.category(c) in HIDDEN else c for c in shown)


def json_line(content: Any) -> str:
    """Valid JSON on one line that a terminal can be given, for programs and people.

    Args:
        content: Plain data; what JSON has no word for becomes text, and a number that is none
            becomes null.
    """
    text = json.dumps(_finite(content), ensure_ascii=False, default=str)
    if text.isprintable():
        return text
    # JSON writes such characters inside strings alone.
    return "".join(json.dumps(c)[1:-1] if unicodedata.category(c) in HIDDEN else c for c in text)


def _spelled(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _finite(content: Any) -> Any:
    """JSON has no NaN and no infinity, whatever Python's module writes."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content
