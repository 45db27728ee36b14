"""Batches given to a device that computes while the thread goes on: overlap, order, bad rows."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_families
import torch
import transformers
from fake_stream import FakeStream, LateTransfer
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import OutOfMemory, SplitError, WorkerLost
from pipeline.models.batching import Sequences
from pipeline.models.device import Device
from pipeline.models.inference import BatchRunner, Inference
from pipeline.models.text.side import TextSide
from pipeline.models.torch.heads import TorchClassifier, TorchEncoder, TorchTokenClassifier
from pipeline.models.torch.model import Model
from pipeline.models.torch.packed import packed
from pipeline.models.torch.transfer import Direct

pytestmark = pytest.mark.unit

WHERE = ["launch", "read"]
FATAL = [WorkerLost("the device is broken"), SplitError("the file is gone"), KeyboardInterrupt()]


@pytest.fixture(scope="module")
def device() -> Device:
    return Device("cpu")


def stream(device: Device, *, budget: int, **options: Any) -> FakeStream:
    return FakeStream(BatchRunner(device, budget=budget), **options)


def raises(error: BaseException, when: Callable[[Sequence[int]], bool]) -> Callable[..., None]:
    def trouble(batch: Sequence[int]) -> None:
        if when(batch):
            raise error

    return trouble


def test_a_batch_is_given_before_the_one_before_it_is_read_back(device: Device) -> None:
    fake = stream(device, budget=4)
    out = fake.infer([4, 4, 4, 4])
    assert out.results == [0, 10, 20, 30]
    assert fake.log == [
        ("launch", 0),
        ("launch", 1),
        ("read", 0),
        ("launch", 2),
        ("read", 1),
        ("launch", 3),
        ("read", 2),
        ("read", 3),
    ]


def test_a_device_that_waits_for_two_batches_gets_them(device: Device) -> None:
    assert stream(device, budget=4, together=2).infer([4] * 5).results == [0, 10, 20, 30, 40]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 40), st.integers(1, 4))
def test_results_are_those_of_the_rows_whatever_the_batches(
    lengths: list[int], budget: int, depth: int
) -> None:
    fake = stream(Device("cpu"), budget=budget)
    fake.runner.depth = depth
    out = fake.infer(lengths)
    assert out.results == [10 * row for row in range(len(lengths))]
    assert out.tokens == out.padded_tokens == sum(lengths)
    assert set(fake.rows.values()) == {1}
    in_flight = 0
    for event, _ in fake.log:
        in_flight += 1 if event == "launch" else -1
        assert in_flight <= depth


@pytest.mark.parametrize("where", WHERE)
@settings(deadline=None, max_examples=30)
@given(bad=st.sets(st.integers(0, 15), max_size=3), budget=st.integers(1, 64))
def test_a_bad_row_stands_alone_wherever_it_shows(where: str, bad: set[int], budget: int) -> None:
    trouble = raises(IndexError("no such token"), lambda batch: bool(bad & set(batch)))
    fake = stream(Device("cpu"), budget=budget, **{where: trouble})
    out = fake.infer([4] * 16)
    assert set(out.failures) == bad
    assert {error.code for error in out.failures.values()} <= {"model_error"}
    assert out.results == [None if row in bad else 10 * row for row in range(16)]
    assert all(fake.rows[row] == (row not in bad) for row in range(16)), "none is computed twice"


@pytest.mark.parametrize("where", WHERE)
def test_a_batch_that_does_not_fit_gives_back_its_rows_and_no_others(
    device: Device, where: str
) -> None:
    trouble = raises(OutOfMemory("full"), lambda batch: len(batch) > 2)
    fake = stream(device, budget=32, **{where: trouble})
    out = fake.infer([4] * 32)
    assert not out.failures
    assert out.results == [10 * row for row in range(32)]
    assert fake.runner.budget == 8
    assert set(fake.rows.values()) == {1}


@pytest.mark.parametrize("where", WHERE)
def test_a_row_that_does_not_fit_alone_fails_alone(device: Device, where: str) -> None:
    trouble = raises(OutOfMemory("full"), lambda batch: 3 in batch)
    out = stream(device, budget=8, **{where: trouble}).infer([4] * 6)
    assert {row: error.code for row, error in out.failures.items()} == {3: "out_of_memory"}
    assert out.results == [0, 10, 20, None, 40, 50]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("error", FATAL, ids=lambda error: type(error).__name__)
def test_what_no_halving_heals_ends_it_and_what_flies_is_let_go(
    where: str, error: BaseException
) -> None:
    device = Device("cpu", threads=1)
    fake = stream(device, budget=4, **{where: raises(error, lambda batch: 1 in batch)})
    with pytest.raises(type(error)):
        fake.infer([4] * 5)
    events = [event for event, _ in fake.log]
    assert events.count("launch") == 2 if where == "launch" else 3
    given = {row for event, row in fake.log if event == "launch"}
    assert given == {row for event, row in fake.log if event != "launch"} | (
        {1} if where == "launch" else set()
    ), "each is read or let go"
    before = device.busy_seconds
    with device.hold():
        pass
    assert device.busy_seconds - before < 1.0, "nothing is left on it"
    assert stream(device, budget=4).infer([4, 4]).results == [0, 10], "and it goes on"


def test_a_broken_device_that_shows_at_read_back_ends_the_worker() -> None:
    model, late = late_model("ForSequenceClassification", pack=False)

    def broken(tensor: Any) -> Callable[[], np.ndarray]:
        def wait() -> np.ndarray:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")

        return wait

    late.fetch = broken  # type: ignore[method-assign]
    with pytest.raises(WorkerLost, match="device-side assert"):
        TorchClassifier(model).logits(Sequences.of(texts()))


def test_the_thread_hears_of_a_batch_when_it_was_read_back(device: Device) -> None:
    heard: list[float] = []
    fake = stream(device, budget=4, read=lambda batch: heard.append(float(batch[0])))
    with device.reporting(heard.append):
        fake.infer([4, 4, 4, 4])
    assert heard == [0.0, 0.25, 1.0, 0.5, 2.0, 0.75, 3.0, 1.0]


def test_a_device_is_free_for_others_while_it_computes() -> None:
    device = Device("cpu", threads=1)
    with device.hold(tokens=3, padded=4) as first:
        first.stay()
    with device.hold(tokens=5, padded=5) as second:
        second.stay()
    assert (device.tokens, device.padded_tokens) == (0, 0), "counted when it is through"
    first.land()
    first.land()
    second.land()
    assert (device.tokens, device.padded_tokens) == (8, 9)


def test_a_device_is_busy_as_long_as_any_batch_is_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("pipeline.models.device.time.perf_counter", lambda: now[0])
    device = Device("cpu", threads=1)
    with device.hold() as first:
        now[0] = 1.0
        first.stay()
    now[0] = 2.0
    with device.hold() as second:
        second.stay()
    now[0] = 3.0
    first.land()
    now[0] = 5.0
    second.land()
    now[0] = 9.0
    with device.hold():
        now[0] = 10.0
    assert device.busy_seconds == 6.0


def test_a_batch_that_raises_as_it_is_given_is_not_on_the_device() -> None:
    device = Device("cpu", threads=1)
    held = []

    def give() -> None:
        with device.hold(tokens=3) as hold:
            held.append(hold)
            hold.stay()
            raise SplitError("no")

    with pytest.raises(SplitError):
        give()
    assert device.tokens == 3
    assert held[0].landed


def texts() -> list[np.ndarray]:
    dice = np.random.default_rng(0)
    return [dice.integers(5, 40, size=length) for length in (3, 9, 1, 7, 7, 2, 12, 5)]


def late_model(head: str, *, pack: bool) -> tuple[Model, LateTransfer]:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=tiny_families.tokenizer().vocab_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
    )
    module = getattr(transformers, f"Bert{head}")(config).eval()
    text = TextSide(tiny_families.tokenizer(), module.config, folder=Path("nowhere"))
    model = Model(module, text, BatchRunner(Device("cpu", threads=1), budget=16))
    model.packed = packed(module) if pack else None
    late = LateTransfer()
    model.transfer = late
    model.runner.depth = late.depth
    return model, late


def results(head: str, model: Model) -> Inference[np.ndarray]:
    sequences = Sequences.of(texts())
    if head == "Model":
        return TorchEncoder(model).vectors(sequences, pooling="mean")
    if head == "ForSequenceClassification":
        return TorchClassifier(model).logits(sequences)
    return TorchTokenClassifier(model).scores(sequences)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification", "ForTokenClassification"])
def test_a_head_reads_back_what_it_would_have_waited_for(head: str, *, pack: bool) -> None:
    model, late = late_model(head, pack=pack)
    found = results(head, model)
    assert late.log[:3] == [("ask", 0), ("ask", 1), ("read", 0)]
    plain, _ = late_model(head, pack=pack)
    plain.transfer, plain.runner.depth = Direct(), 1
    wanted = results(head, plain)
    assert (found.tokens, found.padded_tokens) == (wanted.tokens, wanted.padded_tokens)
    for one, other, text in zip(found.results, wanted.results, texts(), strict=True):
        np.testing.assert_array_equal(one, other)
        if head == "ForTokenClassification":
            assert len(one) == len(text)
