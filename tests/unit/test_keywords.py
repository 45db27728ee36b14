"""Key phrases: what is picked of given vectors, and how often a phrase is embedded."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pipeline.errors import RowError
from pipeline.models.sentence import WindowVectors
from pipeline.tasks import TASKS
from pipeline.tasks.vectors import keywords
from pipeline.tasks.vectors.keywords import KeywordsAnnotate, mmr

pytestmark = pytest.mark.unit

TEXTS = [
    "One red fox, two red foxes. A RED fox and a grey wolf!",
    "... 🙂 !?",
    "fox",
    "The wolf of the north is one grey wolf.",
    "One\nred   fox",
]


class Encoder:
    """Gives every text a vector that its letters decide about; a text with POISON has none."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def window_vectors(self, texts: Sequence[str]) -> WindowVectors:
        self.asked.append(list(texts))
        seeds = [zlib.crc32(text.casefold().encode()) for text in texts]
        drawn = [np.random.default_rng(seed).normal(size=8) for seed in seeds]
        return WindowVectors(
            np.array(drawn, dtype=np.float32).reshape(-1, 8),
            np.arange(len(texts)),
            np.ones(len(texts)),
            {at: RowError("too odd", code="odd") for at, t in enumerate(texts) if "POISON" in t},
            3 * len(texts),
            4 * len(texts),
        )

    def merge(self, found: WindowVectors, *, rows: int) -> np.ndarray:
        assert len(found.values) == rows
        return found.values


def make(**options: Any) -> tuple[KeywordsAnnotate, Encoder]:
    task = TASKS["keywords"]
    chosen = task.Options.model_validate({"kind": "keywords", "model": "m", **options})
    encoder = Encoder()
    return KeywordsAnnotate(encoder, chosen, task(chosen).output_type()), encoder  # type: ignore[arg-type]


def rows_of(texts: Sequence[str], **options: Any) -> list[Any]:
    rows: list[Any] = make(**options)[0].annotate(texts).column.to_pylist()
    return rows


def by_definition(scores: Any, vectors: Any, *, most: int, diversity: float) -> list[int]:
    """Carbonell and Goldstein's formula, a number at a time."""
    picked: list[int] = []
    while len(picked) < min(most, len(scores)):
        best, chosen = -np.inf, -1
        for at in range(len(scores)):
            if at in picked:
                continue
            value = float(scores[at])
            if picked:
                nearest = max(float(vectors[at] @ vectors[other]) for other in picked)
                value = (1 - diversity) * value - diversity * nearest
            if value > best:
                best, chosen = value, at
        picked.append(chosen)
    return picked


@pytest.mark.parametrize("diversity", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_phrases_are_picked_by_the_formula_of_marginal_relevance(
    count: int, diversity: float
) -> None:
    rng = np.random.default_rng(count)
    vectors = rng.normal(size=(count, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = vectors @ vectors.mean(axis=0)
    got = mmr(scores, vectors, most=6, diversity=diversity)
    assert got == by_definition(scores, vectors, most=6, diversity=diversity)
    assert len(got) == min(count, 6)


def test_of_equals_the_first_is_picked_whatever_the_last_digits_say() -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 1, 1]]
    for noise in (0, 1e-7, -1e-7):
        scores = np.array([0.5, 0.5 + noise, 0.5 - noise, 0.5], dtype=np.float32)
        assert mmr(scores, vectors, most=4, diversity=0.5) == [0, 2, 1, 3]


def test_the_phrases_of_a_text_are_its_own_and_the_nearest_comes_first() -> None:
    rows = rows_of(TEXTS, stop_words=["a", "AND"], top_k=100)
    for text, row in zip(TEXTS, rows, strict=True):
        for phrase in row:
            assert text[phrase["start"] : phrase["end"]] == phrase["text"]
            assert -1 <= phrase["score"] <= 1
            words = phrase["text"].casefold().split()
            assert 1 <= len(words) <= 3
            assert not {words[0], words[-1]} & {"a", "and"}
        assert not row or row[0]["score"] == max(phrase["score"] for phrase in row)
    said = [phrase["text"].casefold() for phrase in rows[0]]
    assert said.count("red fox") == 1
    assert "fox two" not in said
    assert rows[1] == []
    assert rows[4][0]["text"] in ("One", "red", "fox", "One\nred", "red   fox", "One\nred   fox")


def test_a_phrase_that_several_rows_have_is_embedded_once() -> None:
    annotate, encoder = make()
    answer = annotate.annotate(TEXTS)
    whole, phrases = encoder.asked
    assert whole == TEXTS
    assert len(set(phrases)) == len(phrases)
    assert "One red fox" in phrases
    assert answer.tokens == 3 * (len(whole) + len(phrases))
    assert answer.padded_tokens == 4 * (len(whole) + len(phrases))


def test_a_text_without_a_phrase_asks_nothing_of_the_model() -> None:
    annotate, encoder = make()
    assert annotate.annotate(["...", "1 2"]).column.to_pylist() == [[], []]
    assert encoder.asked == [["...", "1 2"]]


@pytest.mark.parametrize("most", [1, 2, 5, 1_000])
def test_in_however_many_parts_phrases_are_embedded_the_same_are_picked(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*TEXTS, " ".join(f"w{n % 23}x w{n % 7}y" for n in range(200))]
    expected = rows_of(texts)
    monkeypatch.setattr(keywords, "AT_ONCE", most)
    annotate, encoder = make()
    got = annotate.annotate(texts).column.to_pylist()
    for row, wanted in zip(got, expected, strict=True):
        assert [p["start"] for p in row] == [p["start"] for p in wanted]
        assert np.allclose([p["score"] for p in row], [p["score"] for p in wanted], atol=1e-5)
    assert max(len(asked) for asked in encoder.asked[1:]) <= 2 * most


def test_of_a_long_text_the_nearest_phrases_are_weighed_and_no_more_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = " ".join(f"w{n}x" for n in range(300))
    monkeypatch.setattr(keywords, "AT_ONCE", 50)
    (every,) = rows_of([text], diversity=0.0)
    monkeypatch.setattr(keywords, "NEAREST", 20)
    (few,) = rows_of([text], diversity=0.0)
    assert few == every
    scores = [phrase["score"] for phrase in few]
    assert scores == sorted(scores, reverse=True)


def test_a_row_with_a_phrase_that_breaks_the_model_is_bad_and_no_other() -> None:
    texts = [TEXTS[0], "a POISON in it", TEXTS[3]]
    answer = make()[0].annotate(texts)
    first, broken, third = answer.column.to_pylist()
    assert broken is None
    assert answer.failures.keys() == {1}
    assert answer.failures[1].code == "odd"
    assert [first, third] == rows_of([TEXTS[0], TEXTS[3]])
    assert make()[0].annotate(["POISON"]).column.to_pylist() == [None]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_words": 3, "max_words": 2}, "min_words .3. is more than max_words .2."),
        ({"min_words": 4}, "min_words .4. is more"),
        ({"max_words": 6}, "less than or equal to 5"),
        ({"top_k": 0}, "greater than or equal to 1"),
        ({"diversity": 1.5}, "less than or equal to 1"),
        ({"stop_words": ["of the"]}, "is not one word"),
        ({"stop_words": [""]}, "is not one word"),
        ({"stop_words": [False]}, "valid string"),
        ({"stop_words": "the"}, "tuple"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(**options)
