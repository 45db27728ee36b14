"""The languages that a translation model has tokens for, and where they stand in a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import JobError
from pipeline.models.text.side import TextSide

# By model type: how language tokens look. The first kind stands before the text and says what to
# write; the second says what the text is, and what is written starts with one.
LEADING = {
    "marian": r">>(.+)<<",
    "t5": r"<2(.+)>",  # MADLAD-400
}
PAIRED = {
    "mbart": r"([a-z]{2}_[A-Z]{2})",
    "m2m_100": r"__([a-z]{2,8})__|([a-z]{3}_[A-Z][a-z]{3})",  # M2M-100 and NLLB
    "nllb-moe": r"([a-z]{3}_[A-Z][a-z]{3})",
}
SHOWN = 8


@dataclass(frozen=True)
class Languages:
    """The language tokens of a model.

    Attributes:
        ids: By code, as the model writes it.
        paired: Whether the text's own language is said too.
        leads: Whether it is said before the text, rather than behind its end token.
    """

    ids: Mapping[str, int]
    paired: bool
    leads: bool = True

    def token(self, code: str, *, field: str) -> int:
        """The token of a language.

        Args:
            code: The model's own, or the part of it before ``_`` if that is no two languages'.
            field: The job's field that says it.

        Raises:
            JobError: The model does not know it.
        """
        if code in self.ids:
            return self.ids[code]
        near = [known for known in self.ids if known.lower().split("_")[0] == code.lower()]
        if len(near) == 1:
            return self.ids[near[0]]
        shown = sorted(near) or sorted(self.ids)[:SHOWN]
        more = "" if near else f" and {max(0, len(self.ids) - SHOWN)} more"
        raise JobError(
            f"{field} is {code!r}, which "
            + ("stands for several languages of the model" if near else "the model does not know"),
            hint=f"Say it as the model does: {', '.join(shown)}{more}",
        )

    def around(
        self, prefix: Sequence[int], suffix: Sequence[int], source: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Special tokens around a text of a language, from those around one of any."""
        known = set(self.ids.values())
        before = tuple(token for token in prefix if token not in known)
        after = tuple(token for token in suffix if token not in known)
        return ((source, *before), after) if self.leads else (before, (*after, source))


def languages_of(text: TextSide) -> Languages | None:
    """The language tokens of a model; None for one that has none."""
    kind = text.config.model_type
    pattern = LEADING.get(kind) or PAIRED.get(kind)
    if pattern is None:
        return None
    ids = {}
    for token, number in text.tokenizer.get_vocab().items():
        if found := re.fullmatch(pattern, token):
            ids[next(code for code in found.groups() if code)] = int(number)
    return Languages(ids, kind in PAIRED, _leads(text, set(ids.values()))) if ids else None


def _leads(text: TextSide, known: set[int]) -> bool:
    """NLLB and mBART-50 put the language before the text, mBART behind its end token.

    Where transformers has a class of its own, that says it: NLLB's first files had the language
    behind the text, which was a mistake (`legacy_behaviour` asks for it).
    """
    declared = getattr(text.tokenizer, "prefix_tokens", None)
    return not known & set(text.suffix) if declared is None else bool(declared)
