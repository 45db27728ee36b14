"""Results in one array are those that would stand one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.results import Stack, TokenRows, spread, stacked, strongest

pytestmark = pytest.mark.unit


def test_a_stack_gives_each_row_and_none_for_one_that_failed() -> None:
    stack = Stack(4, 2, dtype=np.dtype(np.float32))
    stack.put([2, 0], np.array([[5, 6], [1, 2]], dtype=np.float32))
    rows = [None if row is None else row.tolist() for row in stack]
    assert rows == [[1, 2], None, [5, 6], None]
    assert stack[-2] is not None
    assert stack[-1] is None
    assert [row is None for row in stack[1:]] == [True, False, True]
    assert stacked(stack).tolist() == [[1, 2], [0, 0], [5, 6], [0, 0]]
    with pytest.raises(IndexError):
        stack[4]


def test_a_stack_takes_only_what_is_of_its_own_form() -> None:
    stack = Stack(2, 3, dtype=np.dtype(np.float32))
    assert stack.takes(np.zeros((1, 3), dtype=np.float32))
    for other in (np.zeros((1, 2), np.float32), np.zeros((1, 3), np.float64), [[0, 0, 0]]):
        assert not stack.takes(other)


def test_results_one_by_one_are_stacked_too() -> None:
    assert stacked([None, np.array([1, 2])]).tolist() == [[0, 0], [1, 2]]
    assert stacked([None, None]).shape == (2, 0)
    assert stacked([None, None], width=3).shape == (2, 3)
    assert stacked([]).shape == (0, 0)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_rows_of_tokens_are_the_same_with_padding_without_and_one_by_one(
    lengths: list[int],
) -> None:
    sizes = np.array(lengths)
    flat = np.arange(2 * sizes.sum(), dtype=np.float32).reshape(-1, 2)
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    order = np.random.default_rng(int(sizes.sum())).permutation(len(sizes)).tolist()
    longest = int(sizes.max())
    padded = np.stack([np.pad(part, ((0, longest - len(part)), (0, 0))) for part in parts])
    packed_rows, padded_rows = TokenRows(sizes), TokenRows(sizes)
    packed_rows.put(order, np.concatenate([parts[row] for row in order]))
    padded_rows.put(order, padded[order])
    one_by_one = TokenRows.of(parts, sizes)
    for found in (packed_rows, padded_rows, one_by_one):
        assert found.values.shape == flat.shape
        for row, part in zip(found, parts, strict=True):
            np.testing.assert_array_equal(row, part)


def test_rows_of_tokens_that_come_batch_by_batch_are_found_where_they_came() -> None:
    parts = [np.full((size, 2), size, dtype=np.float32) for size in (2, 5, 1, 3)]
    rows = TokenRows(np.array([2, 5, 1, 3]))
    rows.put([1, 3], np.concatenate([parts[1], parts[3]]))
    rows.put([0], parts[0])
    assert [row is None for row in rows] == [False, False, True, False]
    rows.put([2], parts[2][None])
    for row, part in zip(rows, parts, strict=True):
        np.testing.assert_array_equal(row, part)


def test_tokens_of_a_sequence_that_failed_are_none() -> None:
    rows = TokenRows(np.array([2, 0, 3]))
    assert list(rows) == [None, None, None]
    rows.put([2], np.ones((1, 4, 5), dtype=np.float32))
    assert [None if row is None else row.shape for row in rows] == [None, None, (3, 5)]
    assert TokenRows.of(rows, np.array([2, 0, 3])) is rows


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=6))
def test_runs_are_spread_one_after_the_other(runs: list[tuple[int, int]]) -> None:
    starts = np.array([start for start, _ in runs], dtype=np.int64)
    counts = np.array([count for _, count in runs], dtype=np.int64)
    expected = [start + i for start, count in runs for i in range(count)]
    assert spread(starts, counts).tolist() == expected


@given(st.integers(1, 6), st.lists(st.integers(0, 4), min_size=6, max_size=36))
def test_the_strongest_are_the_first_of_the_best_and_the_next_in_numpy_and_on_a_device(
    labels: int, quarters: list[int]
) -> None:
    import torch

    from pipeline.models.torch.strongest import strongest as on_device

    rows = [quarters[at : at + labels] for at in range(0, len(quarters) - labels + 1, labels)]
    scores = np.array(rows, dtype=np.float32) / 4
    expected = []
    for row in scores.tolist():
        best = row.index(max(row))
        expected.append([best, row[best], *sorted(row[:best] + row[best + 1 :])[-1:]])
    assert strongest(scores).tolist() == expected
    assert on_device(torch.from_numpy(scores)).tolist() == expected
    assert strongest(scores[None]).tolist() == [expected]


def test_scores_that_are_no_numbers_stay_so() -> None:
    import torch

    from pipeline.models.torch.strongest import strongest as on_device

    scores = np.array([[0.5, np.nan, 0.5]], dtype=np.float32)
    for found in (strongest(scores), on_device(torch.from_numpy(scores)).numpy()):
        np.testing.assert_array_equal(found, np.array([[1, np.nan, 0.5]], dtype=np.float32))
