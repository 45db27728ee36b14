"""Linear layers in int8, and a model's twin made of them."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from pipeline.models.torch.int8 import (
    CHUNK_ROWS,
    LIFT,
    ZERO,
    Int8Weights,
    Together,
    int8_layer,
    quantize,
    whole_numbers,
)
from pipeline.models.torch.int8_measured import numbers_of, text_of
from pipeline.models.torch.int8_twin import Int8Layers
from pipeline.models.torch.linear import lay_out

pytestmark = pytest.mark.unit


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(out: int = 48, into: int = 64, *, seed: int = 1) -> tuple[torch.nn.Linear, object]:
    torch.manual_seed(seed)
    exact = torch.nn.Linear(into, out).eval()
    return exact, int8_layer(Int8Weights.of(exact.weight, exact.bias))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def test_a_layer_gives_what_its_whole_numbers_give_in_exact_arithmetic():
    exact, rough = layer()
    x = random(20, 64)
    whole, scale = quantize(x)
    weights = Int8Weights.of(exact.weight, None)
    rows = whole_numbers(exact.weight, weights.scales[:, None]).to(torch.int64)
    expected = ((whole.to(torch.int64) - ZERO) @ rows.T).double() * scale.double()
    expected = expected * weights.scales.double() + exact.bias.double()
    assert torch.allclose(rough(x).double(), expected, atol=1e-5)


def test_the_largest_sums_are_not_cut_on_any_processor():
    weight = torch.ones(16, 256)
    rough = int8_layer(Int8Weights.of(weight, None))
    for sign in (1, -1):
        assert torch.allclose(rough(sign * torch.ones(3, 256)), sign * torch.full((3, 16), 256.0))


def test_a_tokens_result_does_not_depend_on_what_stands_beside_it():
    _, rough = layer()
    x = random(5, 64)
    x[1] *= 1e6
    together = rough(x.reshape(1, 5, 64))[0]
    for at in range(5):
        assert torch.equal(together[at], rough(x[at : at + 1])[0])


def test_many_rows_are_computed_in_parts_that_change_nothing():
    _, rough = layer()
    x = random(CHUNK_ROWS + 7, 64)
    assert torch.equal(rough(x)[-7:], rough(x[-7:].clone()))


def test_a_batch_without_rows_gives_none():
    _, rough = layer()
    assert rough(torch.zeros(0, 64)).shape == (0, 48)
    assert rough(torch.zeros(2, 0, 64)).shape == (2, 0, 48)


def test_a_token_of_zeros_gives_the_bias():
    exact, rough = layer()
    assert torch.equal(rough(torch.zeros(1, 64))[0], exact.bias)
    assert torch.allclose(rough(torch.full((1, 64), 1e-30))[0], exact.bias)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_so_and_harms_no_other_token(bad):
    _, rough = layer()
    x = random(3, 64)
    spoilt = x.clone()
    spoilt[1, 5] = bad
    found = rough(spoilt)
    assert not torch.isfinite(found[1]).any()
    assert torch.equal(found[[0, 2]], rough(x)[[0, 2]])


def test_an_outlier_costs_its_own_token_alone():
    exact, rough = layer()
    x = random(2, 64)
    x[0, 0] = 1000.0
    assert torch.allclose(rough(x)[1], exact(x)[1], atol=0.05)
    assert torch.allclose(rough(x)[0], exact(x)[0], rtol=0.1, atol=20)


def test_weights_side_by_side_keep_to_what_16_bits_hold_and_sums_are_exact():
    weight = 300 * (torch.rand(24, 65, generator=torch.Generator().manual_seed(2)) - 0.3)
    whole = whole_numbers(weight, torch.ones(24, 1))
    pairs = whole[:, :64].unflatten(1, (-1, 2))
    assert pairs.clamp_min(0).sum(2).max() * 255 <= 2**15 - 1
    assert pairs.clamp_max(0).sum(2).min() * 255 >= -(2**15)
    plain = weight[:, :64].unflatten(1, (-1, 2)).round().clamp(-127, 127)
    fit = plain.sum(2).abs() <= 128
    assert 0 < fit.sum() < fit.numel()
    assert torch.equal(pairs[fit], plain[fit])
    for x in (torch.full((3, 65), 255), torch.zeros(3, 65), torch.arange(195).view(3, 65)):
        found = torch.ops.onednn.qlinear_pointwise(
            x.to(torch.uint8), 1.0, ZERO,
            torch.ops.onednn.qlinear_prepack(whole.to(torch.int8), [CHUNK_ROWS, 65]),
            torch.ones(24), torch.zeros(24, dtype=torch.int64), None, 1.0, 0,
            torch.float32, "none", [], "",
        )  # fmt: skip
        assert torch.equal(found.long(), (x.long() - ZERO) @ whole.long().T)


def test_layers_beside_each_other_are_computed_as_one_and_keep_nothing():
    parts = [layer(out, seed=out)[0] for out in (48, 16)]
    weight = torch.cat([part.weight for part in parts])
    bias = torch.cat([part.bias for part in parts])
    together = Together(Int8Weights.of(weight, bias), [48, 16])
    one, two = (int8_layer(together.weights, beside=(together, at)) for at in range(2))
    assert (one.out_features, two.out_features) == (48, 16)
    x = random(2, 3, 64)
    alone = [int8_layer(Int8Weights.of(part.weight, part.bias))(x.clone()) for part in parts]
    assert torch.equal(one(x), alone[0])
    assert torch.equal(two(x), alone[1])
    assert together._x is together._found is None
    other = random(2, 3, 64, seed=5)
    assert torch.equal(one(x), alone[0])
    assert not torch.equal(two(other), alone[1])
    assert torch.equal(two(x), alone[1])


def test_a_channel_that_sticks_out_is_moved_to_the_weights_or_stays_in_float32():
    exact, _ = layer()
    x = random(40, 64)
    x[:, 3] *= 300
    smooth = torch.ones(64)
    smooth[3] = 1 / 17
    apart = smooth.clone()
    apart[3] = 0.0
    wrong = [
        float(
            (int8_layer(Int8Weights.of(exact.weight, exact.bias, smooth=by))(x) - exact(x)).norm()
        )
        for by in (None, smooth, apart)
    ]
    assert wrong[1] < wrong[0] / 2
    assert wrong[2] < wrong[0] / 20
    bare = int8_layer(Int8Weights.of(exact.weight, None, smooth=apart))(x) + exact.bias
    assert torch.allclose(
        bare, int8_layer(Int8Weights.of(exact.weight, exact.bias, smooth=apart))(x), atol=1e-3
    )


def test_numbers_after_a_gelu_need_no_sign_and_have_half_the_error():
    exact, _ = layer()
    x = torch.nn.functional.gelu(3 * random(60, 64))
    wrong = []
    for lift in (False, True):
        whole, scale = quantize(x, lift=torch.full((64,), LIFT) if lift else None)
        back = (whole.float() - (0 if lift else ZERO)) * scale - (LIFT if lift else 0)
        assert torch.allclose(back, x, atol=float(scale.max()) / 1.9)
        wrong.append(float((back - x).norm()))
        rough = int8_layer(Int8Weights.of(exact.weight, exact.bias, lift=lift))
        assert torch.allclose(rough(x), exact(x), atol=0.1)
    assert wrong[1] < 0.6 * wrong[0]
    smooth = torch.linspace(0.5, 2, 64)
    smooth[5] = 0.0
    both = int8_layer(Int8Weights.of(exact.weight, exact.bias, smooth=smooth, lift=True))
    assert torch.allclose(both(x), exact(x), atol=0.1)
    below = x.clone()
    below[0, 0] = -5.0
    assert torch.allclose(
        both(below)[0], both(x.index_fill(1, torch.tensor(0), -LIFT))[0], atol=0.2
    )
    assert torch.equal(both(below)[1:], both(x)[1:])


def tiny() -> BertForSequenceClassification:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=64,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def twin_of(module, ids):
    layers = Int8Layers(module)
    lay_out(module)
    with layers.measuring(module) as measured:
        module(input_ids=ids)
    return layers, measured, layers.twin(module, measured)


def test_a_twin_gives_nearly_the_same_and_the_model_stays_as_it_is():
    module = tiny()
    ids = torch.arange(1, 61).reshape(4, 15)
    before = module(input_ids=ids).logits
    layers, measured, twin = twin_of(module, ids)
    assert len(measured) == len(layers.paths) == 12
    attention = "bert.encoder.layer.0.attention.self"
    assert measured[f"{attention}.value"]["first"] == f"{attention}.query"
    assert measured["bert.encoder.layer.0.output.dense"]["first"].endswith("0.output.dense")
    lifted = {path for path, known in measured.items() if known["lift"]}
    assert lifted == {f"bert.encoder.layer.{at}.output.dense" for at in range(2)}
    assert torch.allclose(module(input_ids=ids).logits, before, atol=1e-5)
    found = twin(input_ids=ids).logits
    assert not torch.equal(found, before)
    assert torch.allclose(found, before, atol=0.05)
    assert twin.bert.embeddings.word_embeddings.weight is (
        module.bert.embeddings.word_embeddings.weight
    )


def test_a_layer_that_is_too_coarse_stays_in_float32():
    module = tiny()
    ids = torch.arange(1, 61).reshape(4, 15)
    layers, measured, _ = twin_of(module, ids)
    path = "bert.encoder.layer.1.output.dense"
    measured[path]["error"] = 0.5
    twin = layers.twin(module, measured)
    assert twin.get_submodule(path) is module.get_submodule(path)
    assert type(twin.bert.encoder.layer[0].output.dense).__name__ == "Int8Linear"


def test_a_model_that_gives_no_numbers_has_no_layer_in_int8():
    module = tiny()
    module.bert.embeddings.word_embeddings.weight.fill_(float("nan"))
    _, measured, _ = twin_of(module, torch.ones(2, 5, dtype=torch.long))
    assert all(known["error"] > 1 for known in measured.values())


def test_what_was_measured_of_another_model_is_refused():
    module = tiny()
    layers, measured, _ = twin_of(module, torch.ones(2, 5, dtype=torch.long))
    wrong = {"other": next(iter(measured.values()))}
    path = "bert.encoder.layer.1.output.dense"
    short = {path: measured[path] | {"off": ""}}
    narrow = {path: measured[path] | {"smooth": text_of(torch.ones(3))}}
    for bad in (None, wrong, short, narrow):
        with pytest.raises(ValueError, match=r"of another model|corrections|factors"):
            layers.twin(module, bad)
    assert np.isfinite([known["error"] for known in measured.values()]).all()


def test_what_was_measured_says_which_channels_stay_in_float32_and_comes_back_the_same():
    module = tiny()
    dense = module.bert.encoder.layer[0].output.dense
    dense.weight[:, 7] *= 200
    ids = torch.arange(1, 61).reshape(4, 15)
    before = module(input_ids=ids).logits
    layers, measured, twin = twin_of(module, ids)
    smooth = numbers_of(measured["bert.encoder.layer.0.output.dense"]["smooth"])
    assert (smooth == 0).nonzero().flatten().tolist() == [7]
    assert torch.equal(numbers_of(text_of(smooth)), smooth)
    assert torch.allclose(twin(input_ids=ids).logits, before, atol=0.05)
    again = layers.twin(module, measured)
    assert torch.equal(again(input_ids=ids).logits, twin(input_ids=ids).logits)


def test_tokens_of_hundred_times_the_numbers_count_no_more_than_others():
    module = tiny()
    ids = torch.arange(1, 61).reshape(4, 15)
    embedded = module.bert.embeddings.word_embeddings.weight
    embedded[1] *= 1e4
    _, measured, twin = twin_of(module, ids)
    assert max(known["error"] for known in measured.values()) < 0.08
    assert torch.allclose(twin(input_ids=ids).logits, module(input_ids=ids).logits, atol=0.05)
