"""Sequences through the device: order, budgets, bad rows and memory, on tiny random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
)

from pipeline.errors import JobError, OutOfMemory, RowError, WorkerLost
from pipeline.models.device import Device
from pipeline.models.inference import BatchRunner
from pipeline.models.text.side import FALLBACK_MAX_TOKENS, TextSide
from pipeline.models.torch.inputs import first_position, token_types
from pipeline.models.torch.model import Model
from pipeline.models.torch.packed import packed

pytestmark = pytest.mark.unit

WORDS = 50
TINY = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def tokenizer(template: str = "[CLS] $A [SEP]", **kwargs: Any) -> PreTrainedTokenizerFast:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    vocabulary |= {f"w{i}": 4 + i for i in range(WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        special = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
        made.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        **kwargs,
    )


def model_of(module: Any = None, made: Any = None, *, budget: int = 64) -> Model:
    if module is None:
        torch.manual_seed(0)
        module = BertModel(BertConfig(**TINY, max_position_embeddings=64)).eval()
    text = TextSide(
        made or tokenizer(),
        module.config,
        folder=Path("nowhere"),
        types=token_types(module),
        first_position=first_position(module),
    )
    return Model(module, text, BatchRunner(Device("cpu"), budget=budget))


def wrap(text: TextSide, ids: list[int]) -> list[int]:
    return [*text.prefix, *ids, *text.suffix]


@pytest.fixture(scope="module")
def bert() -> Model:
    return model_of()


def first_vectors(model: Model) -> Callable[[Any, Any], Any]:
    def forward(ids: Any, mask: Any) -> Any:
        return model.module(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0].numpy()

    return forward


SEQUENCES = st.lists(
    st.lists(st.integers(4, 3 + WORDS), min_size=1, max_size=20), min_size=1, max_size=12
)


def infer_with(model, budget, *arguments, **options):
    """Infers with batches of at most that many padded tokens."""
    model.runner.budget = budget
    return model.infer(*arguments, **options)


@settings(max_examples=40, deadline=None)
@given(SEQUENCES, st.integers(1, 200))
def test_results_come_in_order_and_do_not_depend_on_the_budget(
    sequences: list[list[int]], budget: int
) -> None:
    model = shared()
    wrapped = [wrap(model.text, ids) for ids in sequences]
    alone = [model.infer([ids], first_vectors(model)).results[0] for ids in wrapped]
    together = infer_with(model, budget, wrapped, first_vectors(model))
    assert not together.failures
    np.testing.assert_allclose(np.stack(together.results), np.stack(alone), atol=1e-5)
    assert together.tokens == sum(len(ids) for ids in wrapped)
    assert together.padded_tokens >= together.tokens


_SHARED: list[Model] = []


def shared() -> Model:
    if not _SHARED:
        _SHARED.append(model_of())
    return _SHARED[0]


def sums(ids: Any, mask: Any) -> list[int]:
    return (ids if mask is None else ids * mask).sum(dim=1).tolist()


@given(SEQUENCES, st.integers(1, 100), st.integers(0, 10))
def test_a_batch_keeps_the_budget_with_what_its_rows_will_grow_by(
    sequences: list[list[int]], budget: int, extra: int
) -> None:
    shapes = []

    def forward(ids: Any, mask: Any) -> list[int]:
        shapes.append(tuple(ids.shape))
        return sums(ids, mask)

    out = infer_with(shared(), budget, sequences, forward, extra_tokens=extra)
    assert out.results == [sum(ids) for ids in sequences]
    assert all(rows * (longest + extra) <= budget or rows == 1 for rows, longest in shapes)


@pytest.mark.parametrize("left", [False, True])
def test_padding_goes_to_the_side_that_was_asked(bert: Model, *, left: bool) -> None:
    seen: list[Any] = []

    def forward(ids: Any, mask: Any) -> list[int]:
        seen.append((ids.tolist(), mask.tolist()))
        return sums(ids, mask)

    bert.infer([[7], [5, 6, 7]], forward, left_padded=left)
    (ids, mask) = seen[0]
    assert ids == [[5, 6, 7], [0, 0, 7] if left else [7, 0, 0]]
    assert mask == [[1, 1, 1], [0, 0, 1] if left else [1, 0, 0]]


def test_without_padding_there_is_no_mask(bert: Model) -> None:
    masks = []

    def forward(ids: Any, mask: Any) -> list[int]:
        masks.append(mask)
        return sums(ids, mask)

    out = infer_with(bert, 4, [[5, 6], [7, 8], [9]], forward)
    assert out.results == [11, 15, 9]
    assert masks == [None, None]


def test_no_sequences_need_no_device(bert: Model) -> None:
    out = bert.infer([], first_vectors(bert))
    assert (out.results, out.failures, out.tokens) == ([], {}, 0)


@given(st.sets(st.integers(0, 63), max_size=4), st.integers(4, 300))
def test_a_row_that_makes_the_model_raise_stands_alone(bad: set[int], budget: int) -> None:
    calls = 0

    def forward(ids: Any, mask: Any) -> list[int]:
        nonlocal calls
        calls += 1
        if set(ids[:, 0].tolist()) & {100 + row for row in bad}:
            raise IndexError("index out of range\n in self")
        return sums(ids, mask)

    sequences = [[100 + row, 5, 6, 7] for row in range(64)]
    out = infer_with(shared(), budget, sequences, forward)
    assert set(out.failures) == bad
    assert out.results == [None if r in bad else sum(ids) for r, ids in enumerate(sequences)]
    batches = -(-64 // (budget // 4))
    # Each bad row is at most log2(64) halvings away from standing alone; a halving is two calls.
    assert calls <= batches + 2 * 6 * len(bad)
    for error in out.failures.values():
        assert error.code == "model_error"
        assert error.message == "IndexError: index out of range in self"


def test_a_row_error_of_the_forward_itself_keeps_its_code(bert: Model) -> None:
    def forward(ids: Any, mask: Any) -> Any:
        raise RowError("no way", code="odd")

    out = bert.infer([[5], [6]], forward)
    assert {row: (e.code, e.message) for row, e in out.failures.items()} == {
        0: ("odd", "no way"),
        1: ("odd", "no way"),
    }


def test_a_broken_device_is_not_blamed_on_rows(bert: Model) -> None:
    def forward(ids: Any, mask: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    with pytest.raises(WorkerLost, match=r"the device is broken: .*device-side assert"):
        bert.infer([[5], [6]], forward)


class Memory:
    """A forward that has room for so many padded tokens."""

    def __init__(self, room: int, error: type[Exception] = OutOfMemory) -> None:
        self.room = room
        self.error = error
        self.ran_out = 0

    def __call__(self, ids: Any, mask: Any) -> list[int]:
        if ids.numel() > self.room:
            self.ran_out += 1
            raise self.error("out of memory")
        return sums(ids, mask)


@pytest.mark.parametrize("error", [OutOfMemory, torch.OutOfMemoryError, MemoryError])
def test_a_batch_that_does_not_fit_is_halved_and_the_budget_lowered(
    error: type[Exception],
) -> None:
    model = model_of(budget=64)
    memory = Memory(20, error)
    sequences = [[row, 5, 6, 7] for row in range(32)]
    out = model.infer(sequences, memory)
    assert not out.failures
    assert out.results == [sum(ids) for ids in sequences]
    assert memory.ran_out > 0
    assert 4 <= model.runner.budget <= 20
    ran_out = memory.ran_out
    assert not model.infer(sequences, memory).failures
    assert memory.ran_out == ran_out, "the next call keeps to what fits"


def test_memory_that_ran_out_once_runs_out_no_more_in_the_same_call() -> None:
    model = model_of(budget=64)
    memory = Memory(16)
    out = model.infer([[row, 5, 6, 7] for row in range(64)], memory)
    assert not out.failures
    assert memory.ran_out <= 2, "from 64 to 32 to 16 tokens"


def test_a_row_that_does_not_fit_alone_is_a_row_error_and_the_others_go_on() -> None:
    model = model_of(budget=64)
    sequences = [[9] * 30, [5] * 4, [6] * 3]
    out = model.infer(sequences, Memory(12))
    assert list(out.failures) == [0]
    assert out.failures[0].code == "out_of_memory"
    assert out.results == [None, 20, 18]


def test_the_budget_never_falls_below_one_token() -> None:
    model = model_of(budget=8)
    out = model.infer([[5], [6], [7]], Memory(0))
    assert len(out.failures) == 3
    assert model.runner.budget >= 1
    assert model.infer([[5], [6]], Memory(1)).results == [5, 6]


def test_the_device_counts_tokens_and_time() -> None:
    model = model_of(budget=6)
    model.infer([[5, 6, 7], [8], [9, 9]], sums)
    # [5, 6, 7] and [9, 9] are padded to six; [8] stands alone.
    assert (model.device.tokens, model.device.padded_tokens) == (6, 7)
    assert model.device.busy_seconds > 0


def test_the_thread_hears_how_far_it_is() -> None:
    model = model_of(budget=4)
    heard: list[float] = []
    with model.device.reporting(heard.append):
        model.infer([[5, 6, 7, 8], [5, 6], [7, 8]], sums)
    assert heard == [0.5, 1.0]
    model.infer([[5]], sums)
    assert heard == [0.5, 1.0]


def test_tokens_of_a_batch_that_says_how_far_it_is_count_as_it_goes() -> None:
    model = model_of(budget=8)
    counted: list[tuple[int, int]] = []

    def forward(ids: Any, mask: Any) -> list[int]:
        for done in (0.0, 0.5, 0.25, 1.0):
            model.device.report(done)
            counted.append((model.device.tokens, model.device.padded_tokens))
        if 9 in ids:
            raise ValueError("no")
        return [0] * len(ids)

    model.infer([[5, 6, 7, 8], [5, 6]], forward)
    assert counted == [(0, 0), (3, 4), (1, 2), (6, 8)]
    model.infer([[9, 9]], forward)
    model.infer([[7]], lambda ids, mask: [0])
    assert (model.device.tokens, model.device.padded_tokens) == (9, 11)
    model.device.report(0.5)
    assert model.device.tokens == 9, "it is in no batch"


def test_what_a_batch_says_of_itself_is_its_part_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of(budget=8)
    heard: list[float] = []

    def forward(ids: Any, mask: Any) -> list[int]:
        model.device.report(0.5)
        if 9 in ids:
            raise ValueError("no")
        return [0] * len(ids)

    with model.device.reporting(heard.append):
        # Each row grows by 2 tokens: the batches are 8, then 4 and 4 of 16 tokens.
        found = model.infer([[5, 6, 7, 8, 5, 6], [7, 8], [9, 8]], forward, extra_tokens=2)
        model.device.report(1.0)
    assert list(found.failures) == [2]
    assert heard == [0.25, 0.5, 0.75, 0.625, 0.75, 0.875, 1.0, 1.0]
    model.device.report(0.1)
    assert heard[-1] == 1.0, "nobody listens any more"


@pytest.mark.parametrize(
    ("template", "prefix", "suffix"),
    [
        ("[CLS] $A [SEP]", [2], [3]),
        ("$A [SEP]", [], [3]),
        ("[CLS] $A", [2], []),
        ("[CLS] [CLS] $A [SEP]", [2, 2], [3]),
        ("", [], []),
    ],
)
def test_the_special_tokens_around_a_text_are_found(
    template: str, prefix: list[int], suffix: list[int]
) -> None:
    made = tokenizer(template)
    model = model_of(shared().module, made)
    assert (model.text.prefix, model.text.suffix) == (prefix, suffix)
    for text in ("w1 w2 w3", "w1", "strange", "w1 [SEP] w2"):
        ids = model.text.encode([text]).row(0).tolist()
        assert wrap(model.text, ids) == made(text)["input_ids"]
    assert model.text.room == model.text.max_tokens - len(prefix) - len(suffix)


def test_texts_are_encoded_whole_whatever_the_tokenizer_was_saved_with() -> None:
    made = tokenizer(model_max_length=8)
    made("w1 w2", truncation=True, padding="max_length")
    model = model_of(shared().module, made)
    model.text.tokens.with_offsets = True
    encoded = model.text.encode([" ".join(["w1"] * 100), "w2"])
    assert encoded.lengths.tolist() == [100, 1]
    assert encoded.row(1).tolist() == [6]
    assert encoded.offsets is not None
    assert encoded.offsets[-1].tolist() == [0, 2]
    assert model.text.max_tokens == 8
    assert len(made("w1 " * 20, truncation=True)["input_ids"]) == 8, "theirs is as it was"


def test_a_roberta_like_model_takes_two_tokens_fewer_than_it_has_positions() -> None:
    config = RobertaConfig(**TINY, max_position_embeddings=514, pad_token_id=1)
    model = model_of(RobertaModel(config).eval())
    assert model.text.max_tokens == 512
    ids = [5] * 512
    out = infer_with(model, 1, [ids, [*ids, 5]], first_vectors(model))
    assert list(out.failures) == [1], "512 is what it takes, not a token more"


def test_a_bert_like_model_takes_all_its_positions() -> None:
    model = model_of()
    assert model.text.max_tokens == 64
    out = infer_with(model, 1, [[5] * 64, [5] * 65], first_vectors(model))
    assert list(out.failures) == [1]


def test_the_smaller_of_the_tokenizers_and_the_models_limit_holds() -> None:
    assert model_of(made=tokenizer(model_max_length=16)).text.max_tokens == 16
    assert model_of(made=tokenizer(model_max_length=10_000)).text.max_tokens == 64


def test_a_model_that_names_no_limit_gets_the_fallback() -> None:
    config = T5Config(vocab_size=60, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    assert model_of(T5EncoderModel(config).eval()).text.max_tokens == FALLBACK_MAX_TOKENS


def test_a_rotary_model_takes_what_its_config_says() -> None:
    config = LlamaConfig(**TINY, max_position_embeddings=77, pad_token_id=0)
    assert model_of(LlamaModel(config).eval()).text.max_tokens == 77


def test_a_model_without_a_padding_token_can_be_padded_all_the_same() -> None:
    made = tokenizer()
    made.pad_token = None
    model = model_of(made=made)
    model.config.pad_token_id = None
    assert model.text.pad_id == 0
    assert model.infer([[5], [6, 7]], sums).results == [5, 13]


def packed_model(budget: int = 64) -> Model:
    model = model_of(budget=budget)
    model.packed = packed(model.module)
    assert model.packed is not None
    return model


@settings(max_examples=25, deadline=None)
@given(SEQUENCES, st.integers(1, 200))
def test_a_packed_model_gives_what_the_padded_one_gives_without_padding(
    sequences: list[list[int]], budget: int
) -> None:
    model = packed_model(budget)
    wrapped = [wrap(model.text, ids) for ids in sequences]
    padded_out = model.infer(wrapped, first_vectors(model))
    packed_out = model.infer(
        wrapped,
        first_vectors(model),
        packed=lambda encoder, batch: encoder.pooled(batch, how="cls").numpy(),
    )
    np.testing.assert_allclose(
        np.stack(packed_out.results), np.stack(padded_out.results), atol=1e-5
    )
    assert packed_out.padded_tokens == packed_out.tokens == padded_out.tokens


def test_a_task_without_a_packed_way_is_padded_on_a_packed_model() -> None:
    out = packed_model().infer([[5, 6], [7]], sums)
    assert out.results == [11, 7]


def test_a_packed_batch_that_does_not_fit_is_halved() -> None:
    model = packed_model(64)

    def forward(encoder: Any, batch: Any) -> list[int]:
        if len(batch.ids) > 20:
            raise OutOfMemory("out of memory")
        return [int(part.sum()) for part in batch.ids.tensor_split(batch.borders[1:-1].tolist())]

    rows = [[row, 5, 6, 7] for row in range(32)]
    out = model.infer(rows, sums, packed=forward)
    assert not out.failures
    assert out.results == [sum(ids) for ids in rows]
    assert 4 <= model.runner.budget <= 20


def test_batches_in_several_lanes_give_what_one_lane_gives() -> None:
    model = model_of(budget=100)
    rows = [list(range(4, 4 + n % 40 + 1)) for n in range(200)]
    model.runner.lanes = 1
    alone = model.infer(rows, first_vectors(model))
    model.runner.lanes = 2
    together = model.infer(rows, first_vectors(model))
    assert not together.failures
    np.testing.assert_allclose(np.stack(together.results), np.stack(alone.results), atol=1e-5)
    assert together.tokens == alone.tokens == sum(map(len, rows))


def test_an_error_that_is_no_rows_own_stops_all_lanes() -> None:
    model = model_of(budget=4)
    model.runner.lanes = 2
    ran = []

    def broken(ids: Any, mask: Any) -> Any:
        ran.append(len(ids))
        raise JobError("the device is gone")

    with pytest.raises(JobError, match="the device is gone"):
        model.infer([[5, 6, 7, 8]] * 50, broken)
    assert len(ran) <= 2


def test_few_texts_are_spread_over_the_lanes() -> None:
    model = model_of(budget=4096)
    seen: list[tuple[int, ...]] = []

    def forward(ids: Any, mask: Any) -> list[int]:
        seen.append(tuple(ids.shape))
        return sums(ids, mask)

    model.runner.lanes = 2
    model.infer([[5] * 50] * 40, forward)
    assert sorted(seen) == [(20, 50), (20, 50)]
    seen.clear()
    model.infer([[5] * 5] * 40, forward)
    assert seen == [(40, 5)], "too little to be worth two batches"
