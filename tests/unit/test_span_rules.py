"""The best span of a window, and masking spans of a text, against the rule written out."""

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tasks.answers.extractive import CANDIDATES, search
from pipeline.tasks.spans.redact import digest, replace

pytestmark = pytest.mark.unit

LOGITS = st.integers(-40, 40).map(lambda n: n / 8)


@st.composite
def windows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of a window: CLS, a question, a text, and what is padded behind."""
    question, text, rest = (
        draw(st.integers(1, 4)),
        draw(st.integers(0, 20)),
        draw(st.integers(1, 4)),
    )
    length = 1 + question + text + rest
    allowed = np.zeros(length, dtype=bool)
    allowed[0] = draw(st.booleans())
    allowed[1 + question : 1 + question + text] = True
    row = st.lists(LOGITS, min_size=length, max_size=length)
    return (
        np.array(draw(row), dtype=np.float32),
        np.array(draw(row), dtype=np.float32),
        allowed,
    )


@given(windows(), st.integers(1, 25))
def test_the_best_spans_are_those_of_the_rule(
    window: tuple[np.ndarray, np.ndarray, np.ndarray], longest: int
) -> None:
    start, end, allowed = window
    found = search(start, end, allowed, longest=longest)
    shares = []
    for logits in (start, end):
        masked = np.where(allowed, logits.astype(np.float64), -10_000.0)
        exp = np.exp(masked - masked.max())
        shares.append(exp / exp.sum())
    first, last = shares
    assert found.null == pytest.approx(first[0] * last[0], rel=1e-4)
    inside = [at for at in np.flatnonzero(allowed).tolist() if at > 0]
    spans = {(s, e): first[s] * last[e] for s in inside for e in inside if s <= e < s + longest}
    expected = sorted(spans.values(), reverse=True)[:CANDIDATES]
    assert found.scores.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-30)
    pairs = list(zip(found.starts.tolist(), found.ends.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    for pair, score in zip(pairs, found.scores.tolist(), strict=True):
        assert spans[pair] == pytest.approx(score, rel=1e-4, abs=1e-30)


def test_a_window_without_a_text_has_no_span() -> None:
    logits = np.zeros(9, dtype=np.float32)
    assert len(search(logits, logits, np.zeros(9, dtype=bool), longest=7).starts) == 0


@st.composite
def marked(draw: st.DrawFn) -> tuple[str, list[tuple[int, int, str]]]:
    text = draw(st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=40))
    at = st.integers(0, len(text))
    spans = []
    for _ in range(draw(st.integers(0, 6))):
        start, end = sorted((draw(at), draw(at)))
        spans.append((start, end, draw(st.sampled_from(string.ascii_uppercase[:3]))))
    return text, spans


@given(marked())
def test_masking_leaves_everything_outside_of_the_spans_as_it_was(
    case: tuple[str, list[tuple[int, int, str]]],
) -> None:
    text, spans = case
    hidden: list[str] = []

    def mask(label: str, letters: str) -> str:
        hidden.append(letters)
        return "\ue000"

    masked, count = replace(text, spans, mask)
    covered = {at for start, end, _ in spans for at in range(start, end)}
    assert masked.replace("\ue000", "") == "".join(
        letter for at, letter in enumerate(text) if at not in covered
    )
    assert masked.count("\ue000") == count == len(hidden)
    assert "".join(hidden) == "".join(letter for at, letter in enumerate(text) if at in covered)
    for letters in reversed(hidden):
        before, _, after = masked.rpartition("\ue000")
        masked = before + letters + after
    assert masked == text


def test_spans_that_overlap_are_masked_as_one_of_the_longest_ones_label() -> None:
    spans = [(8, 12, "B"), (0, 4, "A"), (3, 9, "C"), (12, 13, "D")]
    masked = replace("abcdefghijklmno", spans, lambda label, text: f"[{label}:{text}]")
    assert masked == ("[C:abcdefghijkl][D:m]no", 2)


def test_spans_of_one_label_that_touch_are_masked_as_one() -> None:
    spans = [(4, 8, "NAME"), (0, 4, "NAME"), (8, 10, "CITY"), (10, 11, "NAME"), (12, 13, "NAME")]
    masked = replace("AnnaBellOslo. Z", spans, lambda label, text: f"[{label}:{text}]")
    assert masked == ("[NAME:AnnaBell][CITY:Os][NAME:l]o[NAME:.] Z", 4)


def test_what_touches_a_group_that_overlaps_is_of_the_groups_label_or_apart() -> None:
    spans = [(0, 5, "A"), (3, 6, "B"), (6, 8, "A"), (8, 9, "B")]
    masked = replace("abcdefghij", spans, lambda label, text: f"[{label}:{text}]")
    assert masked == ("[A:abcdefgh][B:i]j", 2)


def test_a_digest_needs_the_key() -> None:
    assert digest(b"one", "Anna") == digest(b"one", "Anna")
    assert len({digest(b"one", "Anna"), digest(b"two", "Anna"), digest(b"one", "anna")}) == 3
    assert len(digest(b"one", "Anna")) == 16
