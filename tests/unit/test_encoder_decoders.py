"""Encoder-decoders written with in slots: the scores of `generate` for each row alone."""

from typing import Any

import numpy as np
import pytest
import tiny_families as tiny
import torch

from pipeline.models.torch.configured import HEARD, AsConfigured, asked_for
from pipeline.models.torch.decoder_layers import BART_KIND, T5_KIND, decoder_of
from pipeline.models.torch.encoder_decoder import EncoderDecoderSteps
from pipeline.models.torch.loop import Loop
from pipeline.models.torch.rules import Live
from pipeline.models.torch.steps import WritingRoom

pytestmark = pytest.mark.unit

NEW, SLOTS, START = 12, 3, 1
LENGTHS = (9, 4, 7, 7, 2)


def of(name: str) -> Any:
    """A random model that never ends by itself."""
    module = tiny.module("seq2seq", name, tiny.config(name))
    for field in ("eos_token_id", "forced_bos_token_id", "forced_eos_token_id", "max_length"):
        setattr(module.generation_config, field, None)
    return module


def generated(module: Any, prompt: np.ndarray) -> Any:
    """What `generate` gives for a prompt alone."""
    ids = torch.from_numpy(prompt)[None]
    return module.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW,
        do_sample=False,
        num_beams=1,
        decoder_start_token_id=START,
        return_dict_in_generate=True,
        output_logits=True,
        output_scores=True,
    )


def alone(module: Any, prompt: np.ndarray) -> tuple[list[int], torch.Tensor]:
    """What `generate` writes, and the scores that it chose from."""
    out = generated(module, prompt)
    return out.sequences[0, 1:].tolist(), torch.stack(out.logits)[:, 0]


def steps_of(module: Any, prompts: list[np.ndarray]) -> EncoderDecoderSteps:
    decoder = decoder_of(module)
    assert decoder is not None
    return EncoderDecoderSteps(
        module,
        decoder,
        prompts,
        range(len(prompts)),
        slots=SLOTS,
        most=NEW,
        start=START,
        pad_id=0,
    )


@torch.inference_mode()
@pytest.mark.parametrize("name", sorted(BART_KIND | T5_KIND))
def test_rows_that_come_and_go_have_the_scores_of_each_alone(name: str) -> None:
    module, chance = of(name), np.random.default_rng(0)
    prompts = [chance.integers(6, tiny.VOCABULARY, length) for length in LENGTHS]
    expected = [alone(module, prompt) for prompt in prompts]
    steps = steps_of(module, prompts)
    live, waiting, at = [0, 1], [2, 3, 4], dict.fromkeys(range(5), 0)

    def check(rows: list[int], scores: torch.Tensor) -> None:
        for row, found in zip(rows, scores, strict=True):
            # The words that it writes are given to it: near a tie it may choose another.
            torch.testing.assert_close(found, expected[row][1][at[row]], atol=2e-5, rtol=1e-4)
            at[row] += 1

    check(live, steps.admit(live, range(2)))
    while live:
        check(live, steps.step(np.array([expected[row][0][at[row] - 1] for row in live])))
        # The second row is the first to leave, so that another has to move.
        for row in [row for row in live if at[row] == NEW or (row == 1 and at[row] == 5)]:
            hole = live.index(row)
            if hole < len(live) - 1:
                steps.move(len(live) - 1, hole)
                live[hole] = live[-1]
            live.pop()
        joining = waiting[: SLOTS - len(live)] if at[0] > 2 else []
        if joining:
            slots = range(len(live), len(live) + len(joining))
            check(joining, steps.admit(joining, slots))
            live, waiting = live + joining, waiting[len(joining) :]
    assert sorted(at.values()) == [5, NEW, NEW, NEW, NEW]


@torch.inference_mode()
def test_a_step_that_failed_may_be_made_again_with_fewer_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = of("bart")
    prompts = [np.array([9, 8, 7]), np.array([30, 31, 32, 33])]
    expected = [alone(module, prompt) for prompt in prompts]
    steps = steps_of(module, prompts)
    steps.admit([0, 1], [0, 1])
    last = module.get_decoder().layers[-1]
    with monkeypatch.context() as patch:
        patch.setattr(last.fc2, "forward", lambda states: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            steps.step(np.array([row[0][0] for row in expected]))
    found = steps.step(np.array([expected[0][0][0]]))
    torch.testing.assert_close(found[0], expected[0][1][1], atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_what_is_no_number_stays_in_its_row() -> None:
    module = of("bart")
    prompts = [np.array([9, 8, 7, 6, 5]), np.array([30, 31])]
    expected = alone(module, prompts[1])
    weight = module.get_encoder().embed_tokens.weight
    held, steps = weight[9].clone(), steps_of(module, prompts)
    weight[9] = torch.nan
    assert steps.admit([0], [0]).isnan().all()
    steps.step(np.array([9]))
    weight[9] = held
    found = [steps.admit([1], [0])[0], steps.step(np.array([expected[0][0]]))[0]]
    torch.testing.assert_close(torch.stack(found), expected[1][:2], atol=2e-5, rtol=1e-4)


def test_other_families_are_left_to_generate() -> None:
    for name in ("led", "prophetnet", "umt5", "switch_transformers"):
        assert decoder_of(tiny.module("seq2seq", name, tiny.config(name))) is None
    module = of("t5").to(torch.float16)
    assert decoder_of(module) is None, "whose layers cut what grew too large"


OWN: dict[str, Any] = {
    "no_repeat_ngram_size": 2,
    "repetition_penalty": 1.3,
    "bad_words_ids": [[7], [9, 10]],
    "min_length": 6,
    "forced_bos_token_id": 12,
    "forced_eos_token_id": 2,
    "suppress_tokens": [30, 31],
}


@torch.inference_mode()
def test_what_a_config_asks_for_is_asked_of_rows_at_different_steps() -> None:
    module, chance = of("bart"), np.random.default_rng(0)
    for name, value in OWN.items():
        setattr(module.generation_config, name, value)
    module.generation_config.eos_token_id = 2
    prompts = [chance.integers(6, tiny.VOCABULARY, length) for length in LENGTHS]
    for prompt in prompts:
        out = generated(module, prompt)
        written = out.sequences[:, 1:].numpy()
        count = len(out.logits)
        # All steps of the row at once, as if they were rows that each are at another.
        live = Live(
            np.arange(count),
            np.arange(count),
            np.stack([np.pad(written[0, :at], (0, NEW - at)) for at in range(count)]),
        )
        rule = AsConfigured(OWN, before=lambda row: np.array([START]), most=NEW, ends=2)
        found = rule(live, torch.cat(out.logits).float())
        assert torch.equal(found, torch.cat(out.scores))


def test_a_config_that_asks_for_something_else_is_left_to_generate() -> None:
    assert asked_for(of("bart").generation_config).keys() <= HEARD
    for name, value in {"encoder_no_repeat_ngram_size": 3, "stop_strings": ["w1"]}.items():
        module = of("bart")
        setattr(module.generation_config, name, value)
        assert not asked_for(module.generation_config).keys() <= HEARD


class Faulty:
    """Steps that fail for a row, and for want of memory where there are more than so many."""

    def __init__(self, steps: EncoderDecoderSteps, *, bad: int, most: int) -> None:
        self.steps, self.bad, self.most = steps, bad, most
        self.slots, self.widest = steps.slots, 0

    def admit(self, rows: Any, slots: Any) -> Any:
        if self.bad in rows:
            raise ValueError("no such word")
        return self.steps.admit(rows, slots)

    def step(self, tokens: np.ndarray) -> Any:
        if len(tokens) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.widest = max(self.widest, len(tokens))
        return self.steps.step(tokens)

    def move(self, source: int, target: int) -> None:
        self.steps.move(source, target)


@torch.inference_mode()
def test_the_loop_isolates_a_bad_row_and_narrows_for_want_of_memory() -> None:
    module, chance = of("bart"), np.random.default_rng(0)
    prompts = [chance.integers(6, tiny.VOCABULARY, length) for length in LENGTHS]
    expected = [alone(module, prompt)[0] for prompt in prompts]
    heard: list[float] = []
    loop = Loop(
        np.array(LENGTHS),
        most=NEW,
        ends=[],
        rules=list,
        room=WritingRoom(tokens=1000, rows=100),
        report=heard.append,
    )
    made: list[Faulty] = []

    def make(rows: Any) -> Faulty:
        made.append(Faulty(steps_of(module, prompts), bad=3, most=1))
        return made[-1]

    loop.run(lambda: [[0, 1, 2, 3, 4]], make)
    assert list(loop.failures) == [3]
    for row in (0, 1, 2, 4):
        assert loop.written[row].tolist() == expected[row]
    assert max(one.widest for one in made) == 1
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
