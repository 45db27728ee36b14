"""Windows over a text's tokens."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.text.windows import Window, cut

pytestmark = pytest.mark.unit


@st.composite
def asked(draw: st.DrawFn) -> tuple[int, int, int]:
    size = draw(st.integers(1, 70))
    return draw(st.integers(0, 1_000)), size, draw(st.integers(0, size - 1))


@given(asked())
def test_windows_cover_every_token_in_order(case: tuple[int, int, int]) -> None:
    tokens, size, overlap = case
    windows = cut(tokens, size=size, overlap=overlap)
    assert windows[0].start == 0
    assert windows[-1].stop == tokens
    for left, right in pairwise(windows):
        assert left.start < right.start <= left.stop < right.stop


@given(asked())
def test_each_token_is_kept_from_exactly_one_window(case: tuple[int, int, int]) -> None:
    tokens, size, overlap = case
    kept = [
        token
        for window in cut(tokens, size=size, overlap=overlap)
        for token in range(window.keep_start, window.keep_stop)
    ]
    assert kept == list(range(tokens))


@given(asked())
def test_what_a_window_keeps_is_inside_it(case: tuple[int, int, int]) -> None:
    tokens, size, overlap = case
    for window in cut(tokens, size=size, overlap=overlap):
        assert window.start <= window.keep_start <= window.keep_stop <= window.stop


@given(asked())
def test_no_window_is_larger_than_the_size(case: tuple[int, int, int]) -> None:
    tokens, size, overlap = case
    for window in cut(tokens, size=size, overlap=overlap):
        assert window.stop - window.start <= size


@given(asked())
def test_neighbours_share_at_least_the_overlap(case: tuple[int, int, int]) -> None:
    tokens, size, overlap = case
    for left, right in pairwise(cut(tokens, size=size, overlap=overlap)):
        assert left.stop - right.start >= overlap


@given(asked())
def test_windows_of_a_text_are_of_one_length(case: tuple[int, int, int]) -> None:
    tokens, size, overlap = case
    windows = cut(tokens, size=size, overlap=overlap)
    assert len({window.stop - window.start for window in windows}) == 1


@given(asked())
def test_there_are_no_more_windows_than_full_ones_would_need(case: tuple[int, int, int]) -> None:
    tokens, size, overlap = case
    needed = 1
    while size + (needed - 1) * (size - overlap) < tokens:
        needed += 1
    assert len(cut(tokens, size=size, overlap=overlap)) == needed


@given(asked())
def test_a_kept_token_has_half_the_overlap_as_context_on_both_sides(
    case: tuple[int, int, int],
) -> None:
    tokens, size, overlap = case
    for left, right in pairwise(cut(tokens, size=size, overlap=overlap)):
        assert left.stop - left.keep_stop >= overlap // 2
        assert right.keep_start - right.start >= overlap // 2


def test_a_text_that_fits_is_one_window() -> None:
    assert cut(10, size=10, overlap=3) == [Window(0, 10, 0, 10)]


def test_a_text_without_tokens_is_one_empty_window() -> None:
    assert cut(0, size=10) == [Window(0, 0, 0, 0)]


def test_one_token_too_many_gives_two_windows_of_half_the_text() -> None:
    assert cut(11, size=10) == [Window(0, 6, 0, 6), Window(5, 11, 6, 11)]


@pytest.mark.parametrize(("size", "overlap"), [(10, 10), (10, 11), (10, -1), (0, 0), (-3, 0)])
def test_an_overlap_that_leaves_no_step_is_refused(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=f"overlap {overlap} .* size {size}"):
        cut(5, size=size, overlap=overlap)
