"""Linear layers laid out for the processor, and batch sizes that are timed and remembered."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import PATIENCE
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from pipeline.errors import JobError
from pipeline.models import device as device_module
from pipeline.models.device import Device
from pipeline.models.torch import calibrate
from pipeline.models.torch.calibrate import Budgets, find_budget
from pipeline.models.torch.first_token import shorten
from pipeline.models.torch.linear import lay_out

pytestmark = pytest.mark.unit

TINY: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


def weights_in(module: torch.nn.Module) -> int:
    tensors = {id(t): t for t in [*module.parameters(), *module.buffers()]}
    return sum(tensor.numel() for tensor in tensors.values())


@torch.inference_mode()
def test_a_laid_out_model_gives_the_same_and_holds_no_second_copy() -> None:
    torch.manual_seed(0)
    module = BertModel(BertConfig(**TINY)).eval()
    ids = torch.randint(0, 60, (3, 17))
    before, held = module(input_ids=ids).last_hidden_state, weights_in(module)
    assert lay_out(module) == 2 * 6 + 1
    torch.testing.assert_close(module(input_ids=ids).last_hidden_state, before)
    assert weights_in(module) == held


@torch.inference_mode()
def test_weights_that_are_shared_stay_as_they_are() -> None:
    torch.manual_seed(0)
    module = LlamaForCausalLM(LlamaConfig(**TINY, tie_word_embeddings=True)).eval()
    ids = torch.randint(0, 60, (2, 9))
    before = module(input_ids=ids).logits
    assert lay_out(module) == 2 * 7
    assert type(module.lm_head) is torch.nn.Linear
    assert module.lm_head.weight is module.model.embed_tokens.weight
    torch.testing.assert_close(module(input_ids=ids).logits, before)


def classifier(family: str, **options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    names = {**TINY, "num_labels": 3, "pad_token_id": 1, **options}
    if family == "distilbert":
        other = {"hidden_size": "dim", "intermediate_size": "hidden_dim"}
        other |= {"num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
        names = {other.get(name, name): value for name, value in names.items()}
    module = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(family, **names), attn_implementation="sdpa"
    )
    return module.eval()


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("family", ["bert", "camembert", "distilbert", "roberta", "xlm-roberta"])
@torch.inference_mode()
def test_a_classifier_gives_the_same_when_its_last_layer_computes_one_token(
    family: str, padded: bool
) -> None:
    module = classifier(family)
    ids = torch.randint(4, 60, (3, 17))
    mask = None
    if padded:
        mask = (torch.arange(17) < torch.tensor([[17], [9], [1]])).long()
        ids = torch.where(mask == 1, ids, 1)
    before, held = module(input_ids=ids, attention_mask=mask).logits, weights_in(module)
    names = {type(part).__name__ for part in module.modules()}
    assert shorten(module)
    assert "FirstTokenLayer" in {type(part).__name__ for part in module.modules()} - names
    torch.testing.assert_close(module(input_ids=ids, attention_mask=mask).logits, before)
    assert lay_out(module) > 6 + 3, "the layers inside are found"
    after = module(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(after, before)
    assert weights_in(module) == held - TINY["hidden_size"], "all but the keys' bias"


@torch.inference_mode()
def test_the_last_layer_of_other_models_stays_whole() -> None:
    assert not shorten(BertModel(BertConfig(**TINY)).eval())
    assert not shorten(classifier("bert", chunk_size_feed_forward=2))
    assert not shorten(classifier("electra", embedding_size=32))


@torch.inference_mode()
def test_a_gelu_goes_into_the_layer_before_it_and_another_activation_does_not() -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 60, (3, 17))
    for activation, fused in (("gelu", 2), ("gelu_new", 0), ("relu", 0)):
        module = BertModel(BertConfig(**TINY, hidden_act=activation)).eval()
        before = module(input_ids=ids).last_hidden_state
        lay_out(module)
        kinds = [type(layer.intermediate.intermediate_act_fn) for layer in module.encoder.layer]
        assert kinds.count(torch.nn.Identity) == fused
        torch.testing.assert_close(module(input_ids=ids).last_hidden_state, before)


def test_a_device_takes_as_many_batches_as_it_has_lanes_or_one_in_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    device = Device("cpu")
    monkeypatch.undo()
    inside: list[str] = []
    seen: list[list[str]] = []
    together = threading.Barrier(3, timeout=PATIENCE)

    def work(name: str, lanes: int | None) -> Callable[[], None]:
        def hold() -> None:
            with device.hold(lanes=lanes):
                inside.append(name)
                if name == "one":
                    together.wait()  # for as many as there are lanes
                seen.append(sorted(inside))
                inside.remove(name)

        return hold

    device.side_by_side(work("one", 1), lanes=3)
    whole = threading.Thread(target=work("all", None))
    whole.start()
    device.side_by_side(work("one", 1), lanes=3)
    whole.join()
    assert [names for names in seen if "all" in names] == [["all"]]


def test_threads_are_counted_as_before_when_the_device_is_let_go() -> None:
    device, before = Device("cpu"), torch.get_num_threads()
    with device.hold(lanes=1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_model_of_another_dtype_is_left_alone() -> None:
    assert lay_out(BertModel(BertConfig(**TINY)).to(torch.float16).eval()) == 0


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="the processor has no bfloat16"
)
@torch.inference_mode()
def test_a_laid_out_model_in_bfloat16_stays_as_near_to_float32() -> None:
    torch.manual_seed(0)
    module = BertModel(BertConfig(**TINY)).eval()
    ids = torch.randint(0, 60, (3, 17))
    exact = module(input_ids=ids).last_hidden_state
    module = module.to(torch.bfloat16)
    before = (module(input_ids=ids).last_hidden_state - exact).abs().mean()
    assert lay_out(module) == 2 * 6 + 1
    after = (module(input_ids=ids).last_hidden_state - exact).abs().mean()
    assert after < 1.5 * before


def test_a_torch_without_the_operation_keeps_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        pass

    monkeypatch.setattr(torch.ops, "mkldnn", Missing())
    assert lay_out(BertModel(BertConfig(**TINY)).eval()) == 0


class Clock:
    """Time that passes only while a batch runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> None:
        self.now, self.seconds, self.ran = 0.0, seconds, list[int]()
        monkeypatch.setattr(calibrate.time, "perf_counter", lambda: self.now)

    def run(self, budget: int) -> None:
        self.ran.append(budget)
        if budget not in self.seconds:
            raise torch.OutOfMemoryError("no room")
        self.now += self.seconds[budget]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0, 2: 1.0, 4: 1.0}, 4),  # twice as fast each time
        ({1: 1.0, 2: 1.0, 4: 2.0}, 2),  # no gain from 2 to 4
        ({1: 1.0, 2: 1.95, 4: 3.9}, 1),  # too little to be more than noise
        ({1: 1.0, 2: 1.0}, 2),  # 4 does not fit
        ({}, None),
        ({1: 3.0, 2: 3.0, 4: 3.0}, 1),  # too slow to try more
    ],
)
def test_the_smallest_batch_that_no_larger_one_beats_is_taken(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], expected: int | None
) -> None:
    assert find_budget(Clock(monkeypatch, seconds).run, (1, 2, 4)) == expected


def test_a_budget_is_remembered_and_a_broken_file_is_no_trouble(tmp_path: Path) -> None:
    budgets = Budgets(tmp_path / "deep" / "budgets.json")
    assert budgets.get("a") is None
    budgets.put("a", 4096)
    budgets.put("b", 1024)
    assert (budgets.get("a"), budgets.get("b")) == (4096, 1024)
    assert json.loads(budgets.path.read_text()) == {"a": 4096, "b": 1024}
    for content in ("", "[]", "{", '{"a": "x"}', '{"a": -1}'):
        budgets.path.write_text(content)
        assert budgets.get("a") is None
    budgets.put("a", 1)
    assert budgets.get("a") == 1


def test_a_cache_that_can_not_be_written_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    Budgets(tmp_path / "file" / "budgets.json").put("a", 1)


def test_half_precision_is_refused_where_the_processor_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_module, "_is_native", lambda dtype: dtype == "float32")
    assert Device("cpu", dtype="auto").dtype is torch.float32
    with pytest.raises(JobError, match=r"compute\.dtype is bfloat16") as caught:
        Device("cpu", dtype="bfloat16")
    assert "float32" in caught.value.hint
