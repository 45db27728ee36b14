"""Texts and their tokens: once per tokenizer, flat, and back to the letter."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pipeline.models.batching import Sequences, packed_batches
from pipeline.models.text import texts as texts_module
from pipeline.models.text.texts import Encoded, TaskInput
from pipeline.models.text.windows import cut, cut_all

pytestmark = pytest.mark.unit


def tokens(words: int = 9) -> texts_module.Tokenizer:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    vocabulary |= {f"w{i}": 4 + i for i in range(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return texts_module.Tokenizer(PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]"))


class Counting(texts_module.Tokenizer):
    """A tokenizer that counts how often it is asked."""

    def __init__(self) -> None:
        vars(self).update(vars(tokens()))
        self.calls = 0

    def encode(self, texts: Sequence[str]) -> Encoded:
        self.calls += 1
        return super().encode(texts)


def test_texts_go_through_a_tokenizer_once() -> None:
    made, given_texts = Counting(), TaskInput(["w1 w2", "w3"])
    first = given_texts.encoded(made)
    assert given_texts.encoded(made) is first
    assert made.calls == 1
    assert list(given_texts.tokenizers) == [made.key]


def test_a_task_that_wants_offsets_after_one_that_did_not_gets_them() -> None:
    made, given_texts = Counting(), TaskInput(["w1 w2", "w3"])
    assert given_texts.encoded(made).offsets is None
    made.with_offsets = True
    offsets = given_texts.encoded(made).offsets
    assert offsets is not None
    assert offsets.tolist() == [[0, 2], [3, 5], [0, 2]]


def test_equal_tokenizers_have_one_key_and_others_have_another() -> None:
    assert tokens().key == tokens().key
    assert tokens().key != tokens(10).key


def test_a_slice_of_texts_takes_its_columns_along() -> None:
    given_texts = TaskInput(["a", "b", "c"], {"q": [1, 2, 3]})
    part = given_texts[1:]
    assert list(part) == ["b", "c"]
    assert part.columns == {"q": [2, 3]}
    assert given_texts[0] == "a"
    assert len(part) == 2


@pytest.mark.parametrize(("rows", "characters"), [(1, 1 << 20), (3, 1 << 20), (1024, 6)])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, rows: int, characters: int) -> None:
    strings = ["w1 w2", "", "w3", "strange", "w4 w5 w6 w7"]
    whole = tokens().encode(strings)
    monkeypatch.setattr(texts_module, "CHUNK_TEXTS", rows)
    monkeypatch.setattr(texts_module, "CHUNK_CHARACTERS", characters)
    cut_up = tokens().encode(strings)
    assert cut_up.ids.tolist() == whole.ids.tolist() == [5, 6, 7, 1, 8, 9, 10, 11]
    assert cut_up.starts.tolist() == whole.starts.tolist() == [0, 2, 2, 3, 4, 8]
    assert cut_up.lengths.tolist() == [2, 0, 1, 1, 4]
    assert cut_up.row(4).tolist() == [8, 9, 10, 11]


def test_no_texts_have_no_tokens() -> None:
    found = tokens().encode([])
    assert (len(found), found.ids.tolist(), found.lengths.tolist()) == (0, [], [])


ROWS = st.lists(st.lists(st.integers(4, 99), max_size=9), min_size=1, max_size=8)


@given(ROWS, st.booleans(), st.integers(0, 2), st.integers(0, 2))
def test_padded_sequences_are_what_a_loop_over_rows_makes(
    rows: list[list[int]], left: bool, before: int, after: int
) -> None:
    prefix, suffix = [1] * before, [2] * after
    lengths = np.array([len(row) for row in rows])
    ends = np.cumsum(lengths)
    flat = np.array([token for row in rows for token in row], dtype=np.int32)
    sequences = Sequences(flat, ends - lengths, ends, prefix, suffix)
    assert sequences.lengths.tolist() == [len(row) + before + after for row in rows]
    chosen = list(range(len(rows)))[::-1]
    ids, mask = sequences.padded(chosen, pad_id=0, left=left)
    whole = [[*prefix, *rows[at], *suffix] for at in chosen]
    longest = max(map(len, whole))
    fill = [[0] * (longest - len(row)) for row in whole]
    pairs = list(zip(fill, whole, strict=True))
    assert ids.tolist() == [f + r if left else r + f for f, r in pairs]
    ones = [[1] * len(row) for row in whole]
    expected = [f + o if left else o + f for f, o in zip(fill, ones, strict=True)]
    flat_ids, counts = sequences.flat(chosen)
    assert flat_ids.tolist() == [token for row in whole for token in row]
    assert counts.tolist() == [len(row) for row in whole]
    if mask is None:
        assert all(len(row) == longest for row in whole)
    else:
        assert mask.tolist() == expected


@given(st.lists(st.integers(1, 40), max_size=20), st.integers(1, 60))
def test_packed_batches_keep_the_budget_and_hold_each_sequence_once(
    counts: list[int], budget: int
) -> None:
    plan = packed_batches(np.array(counts, dtype=np.int64), budget=budget)
    assert sorted(at for batch in plan for at in batch) == list(range(len(counts)))
    assert all(len(b) == 1 or sum(counts[at] for at in b) <= budget for b in plan)
    flat = [counts[at] for batch in plan for at in batch]
    assert flat == sorted(counts, reverse=True)
    # No batch could have taken the first of the next.
    for batch, following in pairwise(plan):
        assert sum(counts[at] for at in batch) + counts[following[0]] > budget


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(2, 12), st.data())
def test_windows_of_many_texts_are_those_of_each(
    counts: list[int], size: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    starts = np.concatenate([[0], np.cumsum(counts)])
    found = cut_all(starts, size=size, overlap=overlap)
    rows = list(
        zip(
            found.owner.tolist(),
            found.start.tolist(),
            found.stop.tolist(),
            found.keep_start.tolist(),
            found.keep_stop.tolist(),
            strict=True,
        )
    )
    expected = [
        (text, at + w.start, at + w.stop, at + w.keep_start, at + w.keep_stop)
        for text, (at, count) in enumerate(zip(starts.tolist(), counts, strict=False))
        for w in cut(count, size=size, overlap=overlap)
    ]
    assert rows == expected
    assert found.weights.tolist() == [max(1, stop - start) for _, start, stop, _, _ in rows]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 12))
def test_first_keeps_one_window_of_each_text(counts: list[int], size: int) -> None:
    starts = np.concatenate([[0], np.cumsum(counts)])
    found = cut_all(starts, size=size, first=True)
    assert found.owner.tolist() == list(range(len(counts)))
    assert (found.stop - found.start).tolist() == [min(count, size) for count in counts]
