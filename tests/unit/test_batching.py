"""Batches by padded tokens."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.batching import batches, padded_tokens

pytestmark = pytest.mark.unit

LENGTHS = st.lists(st.integers(0, 600), max_size=80)
BUDGETS = st.integers(1, 2_000)


@given(LENGTHS, BUDGETS)
def test_every_sequence_is_in_exactly_one_batch(lengths: list[int], budget: int) -> None:
    plan = batches(lengths, budget=budget)
    assert sorted(index for batch in plan for index in batch) == list(range(len(lengths)))
    assert all(plan), "no batch is empty"


@given(LENGTHS, BUDGETS)
def test_a_batch_keeps_the_budget_unless_one_sequence_alone_breaks_it(
    lengths: list[int], budget: int
) -> None:
    for batch in batches(lengths, budget=budget):
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= budget or len(batch) == 1


def test_a_sequence_longer_than_the_budget_stands_alone() -> None:
    assert batches([3, 50, 4, 60], budget=10) == [[3], [1], [2, 0]]


@given(LENGTHS, BUDGETS)
def test_lengths_fall_within_batches_and_from_batch_to_batch(
    lengths: list[int], budget: int
) -> None:
    order = [lengths[index] for batch in batches(lengths, budget=budget) for index in batch]
    assert order == sorted(lengths, reverse=True)


@given(LENGTHS, BUDGETS)
def test_a_batch_takes_as_many_as_the_budget_allows(lengths: list[int], budget: int) -> None:
    plan = batches(lengths, budget=budget)
    for batch in plan[:-1]:
        assert (len(batch) + 1) * max(1, lengths[batch[0]]) > budget


@given(st.data(), st.integers(1, 9), st.integers(1, 7))
def test_sorted_batches_never_pad_more_than_unsorted_ones_of_the_same_cut(
    data: st.DataObject, rows: int, count: int
) -> None:
    # Lengths so near each other that the budget cuts every batch at the same number of rows.
    size = rows * count
    lengths = data.draw(st.lists(st.integers(91, 100), min_size=size, max_size=size))
    plan = batches(lengths, budget=rows * 100)
    assert [len(batch) for batch in plan] == [rows] * count
    shuffled = data.draw(st.permutations(range(size)))
    unsorted = [shuffled[start : start + rows] for start in range(0, size, rows)]
    assert sum(lengths) <= padded_tokens(lengths, plan) <= padded_tokens(lengths, unsorted)


def test_texts_of_mixed_lengths_are_padded_by_less_than_a_tenth() -> None:
    chance = random.Random(7)
    lengths = [min(512, 1 + int(chance.lognormvariate(4, 1))) for _ in range(4_000)]
    plan = batches(lengths, budget=8_192)
    arrival = [list(range(start, start + 32)) for start in range(0, 4_000, 32)]
    assert padded_tokens(lengths, plan) < 1.1 * sum(lengths) < padded_tokens(lengths, arrival) / 2


@given(LENGTHS, BUDGETS)
def test_the_same_lengths_give_the_same_batches(lengths: list[int], budget: int) -> None:
    assert batches(lengths, budget=budget) == batches(tuple(lengths), budget=budget)


def test_equal_lengths_keep_their_order() -> None:
    assert batches([5, 5, 5, 5, 5], budget=10) == [[0, 1], [2, 3], [4]]


def test_no_sequences_give_no_batches() -> None:
    assert batches([], budget=8) == []
    assert padded_tokens([], []) == 0


def test_padded_tokens_count_rows_times_the_longest() -> None:
    assert padded_tokens([5, 3, 1], [[0, 1], [2]]) == 2 * 5 + 1


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_below_one_token_is_refused(budget: int) -> None:
    with pytest.raises(ValueError, match="at least 1 token"):
        batches([1], budget=budget)


@given(lengths=LENGTHS, budget=BUDGETS, slack=st.integers(0, 300))
def test_no_batch_holds_more_padding_than_the_slack(
    lengths: list[int], budget: int, slack: int
) -> None:
    plan = batches(lengths, budget=budget, slack=slack)
    assert sorted(index for batch in plan for index in batch) == list(range(len(lengths)))
    for batch in plan:
        width = max(1, *(lengths[index] for index in batch))
        padding = len(batch) * width - sum(lengths[index] for index in batch)
        assert padding <= slack or len(batch) == 1
        assert len(batch) == 1 or len(batch) * width <= budget


def test_a_batch_ends_where_padding_would_cost_more_than_another_batch() -> None:
    assert batches([10, 10, 9, 2, 2], budget=1000, slack=5) == [[0, 1, 2], [3, 4]]
    assert batches([10, 10, 9, 2, 2], budget=1000) == [[0, 1, 2, 3, 4]]
