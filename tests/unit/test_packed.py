"""The packed path against the padded one, on tiny random weights of each architecture."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_families
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.batching import Sequences
from pipeline.models.device import Device
from pipeline.models.inference import BatchRunner, Inference
from pipeline.models.results import strongest
from pipeline.models.text.side import TextSide
from pipeline.models.torch.heads import TorchClassifier, TorchEncoder, TorchTokenClassifier
from pipeline.models.torch.model import Model
from pipeline.models.torch.packed import Packed, PackedEncoder, packed
from pipeline.models.torch.pooling import pool

pytestmark = pytest.mark.unit

FAMILIES = ("Bert", "DistilBert", "ModernBert", "Roberta", "XLMRoberta")
HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification")
PAD = 1
TOLERANCE = 1e-5
LABELS = 5
# A window of 4 tokens to each side, in every second layer.
WINDOWED = {"local_attention": 8, "global_attn_every_n_layers": 2}


def tiny(family: str, head: str = "Model", *, implementation: str = "eager", **options: Any) -> Any:
    torch.manual_seed(0)
    options = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 80,
        "pad_token_id": PAD,
        "num_labels": LABELS,
        "attn_implementation": implementation,
        # Much wider than usual: attention that is far from even, so that a wrong token shows.
        "initializer_range": 0.25,
        **(WINDOWED if family == "ModernBert" else {}),
        **options,
    }
    if family == "DistilBert":
        options |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    config = getattr(transformers, f"{family}Config")(**options)
    return getattr(transformers, f"{family}{head}")(config).eval()


def texts(lengths: Sequence[int] = (3, 1, 60, 7, 1, 12, 5), *, seed: int = 0) -> list[np.ndarray]:
    dice = np.random.default_rng(seed)
    return [dice.integers(PAD + 1, 60, size=length) for length in lengths]


def padded(rows: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), PAD)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(rows):
        ids[row, : len(text)] = torch.from_numpy(text)
        mask[row, : len(text)] = 1
    return ids, mask


def expected(module: Any, rows: Sequence[np.ndarray]) -> torch.Tensor:
    """What the padded path gives: per text for a sequence head, else per token, padding out."""
    ids, mask = padded(rows)
    with torch.inference_mode():
        out = module(input_ids=ids, attention_mask=mask)
    values = out.logits if "logits" in out else out.last_hidden_state
    return values if values.dim() == 2 else values[mask.bool()]


def found(encoder: PackedEncoder, rows: Sequence[np.ndarray]) -> torch.Tensor:
    call = {
        "encoder": encoder.forward,
        "sequence-classification": encoder.classify_logits,
        "token-classification": encoder.token_logits,
    }[encoder.head]
    with torch.inference_mode():
        return call(Packed.of(rows, device="cpu"))


def packed_of(module: Any) -> PackedEncoder:
    encoder = packed(module)
    assert encoder is not None
    return encoder


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    assert one.shape == other.shape
    torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_texts_give_what_padded_ones_give(
    family: str, head: str, implementation: str
) -> None:
    module = tiny(family, head, implementation=implementation)
    assert_same(found(packed_of(module), texts()), expected(module, texts()))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_alone_gives_what_it_gives_among_others(family: str) -> None:
    encoder = packed_of(tiny(family, "ForSequenceClassification"))
    together = found(encoder, texts())
    assert_same(torch.cat([found(encoder, [text]) for text in texts()]), together)


@pytest.fixture(scope="module")
def any_length() -> list[tuple[Any, PackedEncoder]]:
    return [(module, packed_of(module)) for module in (tiny("ModernBert"), tiny("Roberta"))]


@settings(deadline=None, max_examples=25)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_any_lengths_go_together(
    any_length: list[tuple[Any, PackedEncoder]], lengths: list[int]
) -> None:
    rows = texts(lengths)
    for module, encoder in any_length:
        assert_same(found(encoder, rows), expected(module, rows))


def test_the_windows_of_the_model_under_test_matter() -> None:
    near, far = tiny("ModernBert"), tiny("ModernBert", local_attention=200)
    far.load_state_dict(near.state_dict())
    difference = expected(near, texts()) - expected(far, texts())
    assert difference.abs().max() > 0.1


@pytest.mark.parametrize("how", ["mean", "cls", "max"])
@pytest.mark.parametrize("family", ["Bert", "ModernBert"])
def test_texts_are_pooled_as_on_the_padded_path(family: str, how: str) -> None:
    module = tiny(family)
    ids, mask = padded(texts())
    with torch.inference_mode():
        want = pool(module(input_ids=ids, attention_mask=mask).last_hidden_state, mask, how=how)
        got = packed_of(module).pooled(Packed.of(texts(), device="cpu"), how=how)
    assert got.dtype is torch.float32
    assert_same(got, want)


def test_pooling_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="pooling is mean, cls or max"):
        packed_of(tiny("Bert")).pooled(Packed.of(texts(), device="cpu"), how="last")


def test_a_head_that_wants_the_mean_gets_the_mean() -> None:
    module = tiny("ModernBert", "ForSequenceClassification", classifier_pooling="mean")
    assert_same(found(packed_of(module), texts()), expected(module, texts()))
    first = tiny("ModernBert", "ForSequenceClassification", classifier_pooling="cls")
    assert (expected(module, texts()) - expected(first, texts())).abs().max() > 0.1


@pytest.mark.parametrize("family", ["Roberta", "XLMRoberta", "Bert"])
def test_a_padding_token_inside_a_text_is_a_token_like_on_the_padded_path(family: str) -> None:
    rows = texts()
    rows[2][[0, 7, 8]] = PAD
    rows[1][0] = PAD
    module = tiny(family)
    assert_same(found(packed_of(module), rows), expected(module, rows))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
def test_the_padded_path_stays_as_it_was(family: str, head: str) -> None:
    module = tiny(family, head, implementation="sdpa")
    names = [name for name, _ in module.named_modules()]
    before = expected(module, texts())
    encoder = packed_of(module)
    found(encoder, texts())
    assert torch.equal(expected(module, texts()), before)
    assert {
        part.config._attn_implementation for part in module.modules() if hasattr(part, "config")
    } == {"sdpa"}
    assert [name for name, _ in module.named_modules()] == names


def test_both_paths_have_the_same_weights_in_memory() -> None:
    module = tiny("Bert", "ForSequenceClassification")
    encoder = packed_of(module)
    before = found(encoder, texts())
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(1.5)
    after = found(encoder, texts())
    assert (after - before).abs().max() > 0.1
    assert_same(after, expected(module, texts()))


@pytest.mark.parametrize("family", FAMILIES)
def test_where_a_head_reads_the_first_token_the_last_layer_is_computed_for_no_other(
    family: str,
) -> None:
    encoder = packed_of(tiny(family, "ForSequenceClassification"))
    with torch.inference_mode():
        rows = len(encoder.forward(Packed.of(texts(), device="cpu")))
    assert rows == (sum(map(len, texts())) if family == "ModernBert" else len(texts()))


@pytest.mark.parametrize("head", HEADS[1:])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_in_half_the_bits_is_computed_in_float32(family: str, head: str) -> None:
    module = tiny(family, head).bfloat16()
    logits = found(packed_of(module), texts())
    assert not torch.equal(logits, logits.bfloat16().float())
    assert {weight.dtype for weight in module.parameters()} == {torch.bfloat16}
    exact = expected(tiny(family, head), texts())
    assert float((logits - exact).square().mean().sqrt() / exact.std()) < 0.1


def test_a_module_in_training_is_packed_in_evaluation_mode() -> None:
    module = tiny("Bert", "ForSequenceClassification").train()
    encoder = packed_of(module)
    assert module.training
    assert torch.equal(found(encoder, texts()), found(encoder, texts()))


def test_threads_do_not_mix_up_their_texts() -> None:
    encoder = packed_of(tiny("ModernBert", "ForSequenceClassification"))
    # The same number of tokens in each, so that foreign borders would fit.
    batches = [texts(lengths, seed=n) for n, lengths in enumerate([(40,), (1, 39), (20, 15, 5)])]
    alone = [found(encoder, batch) for batch in batches]
    wrong: list[int] = []
    start = threading.Barrier(len(batches))

    def run(number: int) -> None:
        start.wait()
        for _ in range(20):
            if not torch.allclose(found(encoder, batches[number]), alone[number], atol=TOLERANCE):
                wrong.append(number)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("family", "head", "options"),
    [
        ("Electra", "Model", {}),
        ("Electra", "ForSequenceClassification", {}),
        ("Bert", "ForMaskedLM", {}),
        ("Bert", "ForQuestionAnswering", {}),
        ("Bert", "Model", {"is_decoder": True}),
        ("Bert", "Model", {"chunk_size_feed_forward": 4}),
        (
            "ModernBert",
            "Model",
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        ),
    ],
)
def test_what_is_not_known_to_work_has_no_packed_path(
    family: str, head: str, options: dict[str, Any]
) -> None:
    assert packed(tiny(family, head, **options)) is None


def test_a_class_of_somebody_else_has_no_packed_path() -> None:
    class BertModel(transformers.BertModel):
        pass

    assert packed(BertModel(tiny("Bert").config)) is None


def test_a_device_without_the_kernel_has_no_packed_path() -> None:
    assert packed(tiny("Bert").to("meta")) is None


def test_a_head_is_asked_for_what_it_gives_only() -> None:
    batch = Packed.of(texts(), device="cpu")
    with pytest.raises(TypeError, match="has encoder for its head"):
        packed_of(tiny("Bert")).classify_logits(batch)
    with pytest.raises(TypeError, match="not token-classification"):
        packed_of(tiny("Bert", "ForSequenceClassification")).token_logits(batch)


def test_a_batch_says_where_its_texts_start() -> None:
    batch = Packed.of([[5, 6], [7], [8, 9, 10]], device="cpu")
    assert batch.ids.tolist() == [5, 6, 7, 8, 9, 10]
    assert batch.ids.dtype is torch.int64
    assert batch.borders.tolist() == [0, 2, 3, 6]
    assert batch.borders.dtype is torch.int32
    assert batch.longest == 3


@pytest.mark.parametrize("lengths", [[], [2, 0], [1]])
def test_a_batch_with_an_empty_text_or_other_lengths_is_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Packed.place(np.array([5, 6]), np.array(lengths, dtype=np.int64), place=torch.from_numpy)


def head_model(head: str, family: str, *, pack: bool) -> Model:
    module = tiny(family, head, implementation="sdpa")
    text = TextSide(tiny_families.tokenizer(), module.config, folder=Path("nowhere"))
    model = Model(module, text, BatchRunner(Device("cpu"), budget=100))
    model.packed = packed_of(module) if pack else None
    return model


def head_results(
    head: str, family: str, sequences: Sequences, *, pack: bool
) -> Inference[np.ndarray]:
    model = head_model(head, family, pack=pack)
    if head == "Model":
        return TorchEncoder(model).vectors(sequences, pooling="mean")
    if head == "ForSequenceClassification":
        return TorchClassifier(model).logits(sequences)
    return TorchTokenClassifier(model).scores(sequences)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_a_head_gives_the_same_packed_and_padded(family: str, head: str) -> None:
    sequences = Sequences.of(texts())
    plain = head_results(head, family, sequences, pack=False)
    tight = head_results(head, family, sequences, pack=True)
    assert tight.padded_tokens == tight.tokens == plain.tokens < plain.padded_tokens
    for one, other in zip(tight.results, plain.results, strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE)


@pytest.mark.parametrize("pack", [False, True])
def test_the_strongest_labels_are_those_of_all_scores(*, pack: bool) -> None:
    head = TorchTokenClassifier(head_model("ForTokenClassification", "Bert", pack=pack))
    sequences = Sequences.of(texts())
    few, every = head.strongest(sequences), head.scores(sequences)
    assert few.tokens == every.tokens
    for one, scores in zip(few.results, every.results, strict=True):
        np.testing.assert_array_equal(one, strongest(np.asarray(scores)))


def test_two_texts_in_one_sequence_are_padded_on_a_packed_model() -> None:
    sequences = Sequences.of(texts(), paired=True)
    out = head_results("ForSequenceClassification", "Roberta", sequences, pack=True)
    assert out.padded_tokens > out.tokens
