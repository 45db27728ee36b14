"""Logits to scores, and windows to texts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tasks.labels.classify import activate, merge_windows

pytestmark = pytest.mark.unit

LOGITS = st.integers(1, 5).flatmap(
    lambda width: st.lists(
        st.lists(st.floats(-30, 30, width=32), min_size=width, max_size=width),
        min_size=1,
        max_size=6,
    )
)


def array(rows: list[list[float]]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


@given(LOGITS)
def test_softmax_is_the_share_of_each_exponential(rows: list[list[float]]) -> None:
    scores = activate(array(rows), "softmax")
    for row, got in zip(rows, scores.tolist(), strict=True):
        total = sum(math.exp(x) for x in row)
        assert got == pytest.approx([math.exp(x) / total for x in row], abs=1e-5)


@given(LOGITS)
def test_sigmoid_takes_each_label_by_itself(rows: list[list[float]]) -> None:
    scores = activate(array(rows), "sigmoid")
    for row, got in zip(rows, scores.tolist(), strict=True):
        assert got == pytest.approx([1 / (1 + math.exp(-x)) for x in row], abs=1e-5)


@given(LOGITS)
def test_without_activation_scores_are_the_logits(rows: list[list[float]]) -> None:
    assert activate(array(rows), "none").tolist() == array(rows).tolist()


@pytest.mark.parametrize("how", ["softmax", "sigmoid"])
@pytest.mark.filterwarnings("error")
def test_huge_logits_give_sure_scores_without_a_warning(how: str) -> None:
    scores = activate(array([[1_000.0, -1_000.0]]), how)
    assert scores.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("how", ["softmax", "sigmoid", "none"])
def test_activation_keeps_float32(how: str) -> None:
    assert activate(array([[0.5, 1.5]]), how).dtype == np.float32


WINDOWS = st.lists(
    st.lists(
        st.tuples(st.integers(1, 500), st.floats(0, 1, width=32), st.floats(0, 1, width=32)),
        min_size=1,
        max_size=5,
    ),
    min_size=1,
    max_size=6,
)
Texts = list[list[tuple[int, float, float]]]


def merged(texts: Texts, how: str) -> list[list[float]]:
    flat = [window for windows in texts for window in windows]
    out = merge_windows(
        array([[a, b] for _, a, b in flat]),
        np.repeat(np.arange(len(texts)), [len(windows) for windows in texts]),
        np.array([weight for weight, _, _ in flat], dtype=np.float32),
        rows=len(texts),
        how=how,  # type: ignore[arg-type]
    )
    assert out.shape == (len(texts), 2)
    return out.tolist()


@given(WINDOWS)
def test_mean_weighs_each_window_by_its_tokens(texts: Texts) -> None:
    for windows, got in zip(texts, merged(texts, "mean"), strict=True):
        total = sum(weight for weight, _, _ in windows)
        assert got == pytest.approx(
            [sum(w[0] * w[k] for w in windows) / total for k in (1, 2)], abs=1e-5
        )


@given(WINDOWS)
def test_max_takes_the_best_of_each_label(texts: Texts) -> None:
    for windows, got in zip(texts, merged(texts, "max"), strict=True):
        assert got == [max(w[k] for w in windows) for k in (1, 2)]


@given(WINDOWS)
def test_first_takes_the_first_window(texts: Texts) -> None:
    assert merged(texts, "first") == [[windows[0][1], windows[0][2]] for windows in texts]


@pytest.mark.parametrize("how", ["mean", "max", "first"])
def test_one_window_each_is_its_own_result(how: str) -> None:
    texts = [[(7, 0.25, 0.75)], [(1, 0.5, 0.5)], [(400, 1.0, 0.0)]]
    assert merged(texts, how) == [[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]]


def test_a_mean_of_softmax_scores_still_adds_up_to_one() -> None:
    scores = activate(array([[2.0, -1.0], [0.1, 0.2], [-3.0, 4.0]]), "softmax")
    out = merge_windows(
        scores, np.zeros(3, dtype=np.int64), np.array([10, 3, 8], np.float32), rows=1, how="mean"
    )
    assert out.sum() == pytest.approx(1.0, abs=1e-6)
