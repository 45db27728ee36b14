"""Token predictions -> entity spans, by the rules of Hugging Face's token-classification pipeline.

Source of the rules: `TokenClassificationPipeline.aggregate` in transformers 5
(``none | simple | first | average | max``). Here they run over the tokens of many texts at once
as array operations; the parity tests hold them to the pipeline's own spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.tasks.ties import gaps

# Ways that need the scores of all labels; for others it is what `results.strongest` gives.
ALL_SCORES = ("average", "max")


@dataclass(frozen=True)
class Spans:
    """Entities of many texts, in text order, as parallel arrays.

    Attributes:
        text: Which text each entity is in.
        label: Class index of the entity's first token.
        start: First character.
        end: One past the last character.
        score: Between 0 and 1, float32.
    """

    text: np.ndarray
    label: np.ndarray
    start: np.ndarray
    end: np.ndarray
    score: np.ndarray


_NONE = np.zeros(0, dtype=np.int64)
NOTHING = Spans(_NONE, _NONE, _NONE, _NONE, np.zeros(0, dtype=np.float32))


@dataclass(frozen=True)
class Tags:
    """What a model's labels mean: ``B-PER`` and ``I-PER`` are both of tag ``PER``.

    Attributes:
        labels: By class index.
        names: By class index, how an entity that starts with this label is called: the part
            after the first hyphen.
        tag_of: By class index, a number that labels which continue each other share.
        begins: By class index, whether the label always opens an entity.
        silent: By class index, whether no entity is of the label's tag.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    tag_of: np.ndarray
    begins: np.ndarray
    silent: np.ndarray

    @classmethod
    def of(cls, labels: Sequence[str]) -> Tags:
        """Reads the BIO scheme off label names; a label without prefix continues its like."""
        tags = [label[2:] if label.startswith(("B-", "I-")) else label for label in labels]
        index = {tag: i for i, tag in enumerate(dict.fromkeys(tags))}
        names = [label.split("-", 1)[-1] for label in labels]
        heard = {tag for tag, name in zip(tags, names, strict=True) if name != "O"}
        return cls(
            tuple(labels),
            tuple(names),
            np.array([index[tag] for tag in tags]),
            np.array([label.startswith("B-") for label in labels]),
            np.array([tag not in heard for tag in tags]),
        )


def aggregate(
    scores: np.ndarray,
    *,
    rows: np.ndarray,
    texts: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    subword: np.ndarray,
    tags: Tags,
    how: str,
) -> Spans:
    """Joins token predictions into entities.

    Args:
        scores: Probabilities of shape [rows, labels] where `how` is of `ALL_SCORES`; else what
            `results.strongest` gives of them, of shape [rows, 3].
        rows: Of shape [tokens]: where each token's are, content tokens only.
        texts: The text of each token, rising.
        starts: First character of each token.
        ends: One past its last character.
        subword: Whether the token continues the word of the token before it.
        tags: The model's labels.
        how: ``none``: a span per token. ``simple``: neighbours of one tag joined. ``first``,
            ``average``, ``max``: first one prediction per word, by its first token, by the
            mean over its tokens, or by its surest token; then joined.

    Returns:
        The spans of all labels but ``O``.
    """
    if len(rows) == 0:
        return NOTHING
    if how in ALL_SCORES:
        scores, texts, starts, ends = _words(scores, rows, texts, starts, ends, subword, how)
        labels = scores.argmax(axis=1)
        best = scores[np.arange(len(scores)), labels]
    else:
        if how == "first":
            first, last = _borders(texts, subword)
            rows, texts, starts, ends = rows[first], texts[first], starts[first], ends[last]
        labels, best = scores[rows, 0].astype(np.int64), scores[rows, 1]
    if how == "none":
        keep = np.array([label != "O" for label in tags.labels])[labels]
        return Spans(texts[keep], labels[keep], starts[keep], ends[keep], best[keep])
    # Most are of no entity: what is beside one is told by its number.
    number = np.flatnonzero(~tags.silent[labels])
    texts, labels, starts, ends, best = (
        each[number] for each in (texts, labels, starts, ends, best)
    )
    tag = tags.tag_of[labels]
    opens = np.ones(len(tag), dtype=bool)
    opens[1:] = (tag[1:] != tag[:-1]) | tags.begins[labels[1:]] | (texts[1:] != texts[:-1])
    opens[1:] |= np.diff(number) > 1
    first = np.flatnonzero(opens)
    if not len(first):
        return NOTHING
    last = np.append(first[1:], len(tag)) - 1
    mean = np.add.reduceat(best.astype(np.float64), first) / (last - first + 1)
    keep = np.array([name != "O" for name in tags.names])[labels[first]]
    return Spans(
        texts[first][keep],
        labels[first][keep],
        starts[first][keep],
        ends[last][keep],
        mean[keep].astype(np.float32),
    )


def text_gaps(
    scores: np.ndarray,
    *,
    rows: np.ndarray,
    texts: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    subword: np.ndarray,
    how: str,
    count: int,
) -> np.ndarray:
    """How far texts are from other spans: the least of their tokens' or words' `gaps`.

    Args:
        scores: As all up to `how`, what `aggregate` is given.
        count: How many texts there are.

    Returns:
        Float64 of shape [count]; infinite for a text without tokens.
    """
    found = np.full(count, np.inf)
    if len(rows) == 0:
        return found
    if how == "max":
        # Which of a word's tokens is the surest is not asked: they have to agree.
        labels = scores.argmax(axis=1)[rows]
        apart = np.flatnonzero(
            subword[1:] & (texts[1:] == texts[:-1]) & (labels[1:] != labels[:-1])
        )
        found[texts[apart]] = 0.0
    if how in ("first", "average", "max"):
        scores, texts, *_ = _words(scores, rows, texts, starts, ends, subword, how)
    else:
        scores = scores[rows]
    first = np.flatnonzero(np.append(True, texts[1:] != texts[:-1]))
    # The best and the next are what decides.
    least = np.minimum.reduceat(gaps(scores if how in ALL_SCORES else scores[:, 1:]), first)
    found[texts[first]] = np.minimum(found[texts[first]], least)
    return found


def _words(
    scores: np.ndarray,
    rows: np.ndarray,
    texts: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    subword: np.ndarray,
    how: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens -> words: one row of scores, one start and one end per word."""
    first, last = _borders(texts, subword)
    if how == "first":
        chosen = scores[rows[first]]
    elif how == "average":
        total = np.add.reduceat(scores[rows], first, axis=0)
        chosen = total / (last - first + 1)[:, None].astype(np.float32)
    else:
        peak = scores.max(axis=1)[rows]
        word = np.repeat(np.arange(len(first)), last - first + 1)
        # By word, then by falling peak, then by position: the first row of each word is its best.
        order = np.lexsort((np.arange(len(peak)), -peak, word))
        chosen = scores[rows[order[first]]]
    return chosen, texts[first], starts[first], ends[last]


def _borders(texts: np.ndarray, subword: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last token of each word."""
    opens = ~subword
    opens[0] = True
    opens[1:] |= texts[1:] != texts[:-1]
    first = np.flatnonzero(opens)
    return first, np.append(first[1:], len(texts)) - 1
