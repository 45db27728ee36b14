"""A transformer from scratch: what it may look at, what it keeps, and that a job writes with it."""

import itertools
from datetime import date

import pytest
import torch
from click.testing import CliRunner
from tiny_lessons import write
from torch import nn
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM

from pipeline.cli.main import main
from pipeline.errors import JobError
from pipeline.job.file import load_job
from pipeline.learn.train.data import LabelledText, read_rows
from pipeline.learn.train.job import TrainData, TrainJob
from pipeline.learn.train.run import train_job
from pipeline.learn.train.trainer import HouseTrainer
from pipeline.learn.train.writer import new_writer, train_tokenizer
from pipeline.models.torch.auto import register
from pipeline.models.torch.scratch import (
    ScratchConfig,
    ScratchForConditionalGeneration,
    positions,
    shifted,
)
from pipeline.preview import Wanted, preview_rows
from pipeline.starter.dates import dates, ordinal, spoken

pytestmark = pytest.mark.unit

SIZES = {"d_model": 16, "nhead": 2, "dim_feedforward": 32, "max_position_embeddings": 64}


def tiny(vocabulary: int = 30, *, seed: int = 0, **config) -> ScratchForConditionalGeneration:
    torch.manual_seed(seed)
    made = ScratchForConditionalGeneration(ScratchConfig(vocab_size=vocabulary, **SIZES, **config))
    for parameter in made.parameters():
        parameter.data *= 2  # so that the first and the second choice are far apart
    return made.eval()


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def texts():
    ids = torch.randint(3, 30, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return ids.masked_fill(mask == 0, 0), mask


@torch.inference_mode()
def logits(model, ids, mask, written, **more):
    return model(input_ids=ids, attention_mask=mask, decoder_input_ids=written, **more).logits


def test_no_place_sees_what_comes_after_it(model, texts):
    written = torch.randint(3, 30, (3, 6), generator=torch.Generator().manual_seed(2))
    whole = logits(model, *texts, written)
    for at in range(1, 6):
        other = written.clone()
        other[:, at:] = (other[:, at:] + 1) % 27 + 3
        assert torch.allclose(whole[:, :at], logits(model, *texts, other)[:, :at], atol=1e-5)
        assert not torch.allclose(whole[:, at], logits(model, *texts, other)[:, at], atol=1e-3)


def test_every_place_sees_all_of_the_source_and_its_order(model, texts):
    ids, mask = texts
    written = torch.full((3, 1), 2)
    before = logits(model, ids, mask, written)
    turned = ids.clone()
    turned[0] = ids[0].flip(0)
    after = logits(model, turned, mask, written)
    assert not torch.allclose(before[0], after[0], atol=1e-3)
    assert torch.allclose(before[1:], after[1:], atol=1e-5)


def test_padding_changes_nothing(model, texts):
    ids, mask = texts
    written = torch.tensor([[2, 5, 9]])
    alone = logits(model, ids[1:2, :4], None, written)
    beside = logits(model, ids, mask, written.expand(3, -1))[1:2]
    assert torch.allclose(alone, beside, atol=1e-5)
    strange = ids.clone()
    strange[1, 4:] = 17
    again = logits(model, strange, mask, written.expand(3, -1))[1:2]
    assert torch.allclose(alone, again, atol=1e-5)


def test_a_step_with_what_is_kept_gives_what_all_places_give(model, texts):
    written = torch.randint(3, 30, (3, 6), generator=torch.Generator().manual_seed(3))
    whole = logits(model, *texts, written)
    kept, steps = None, []
    with torch.inference_mode():
        read = model.get_encoder()(*texts)
        for at in (slice(0, 2), slice(2, 3), slice(3, 6)):
            out = model(
                encoder_outputs=read, attention_mask=texts[1], decoder_input_ids=written[:, at],
                past_key_values=kept, use_cache=True,
            )  # fmt: skip
            kept = out.past_key_values
            steps.append(out.logits)
    assert torch.allclose(whole, torch.cat(steps, dim=1), atol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_writing_with_what_is_kept_equals_writing_without(beams, model, texts):
    ids, mask = texts
    found = [
        model.generate(
            input_ids=ids, attention_mask=mask, num_beams=beams, max_new_tokens=10, use_cache=kept
        )
        for kept in (True, False)
    ]
    assert torch.equal(*found)


def test_a_beam_of_one_is_greedy(model, texts):
    ids, mask = texts
    written = torch.full((3, 1), 2)
    for _ in range(8):
        best = logits(model, ids, mask, written)[:, -1].argmax(-1)
        written = torch.cat([written, best[:, None]], dim=1)
    found = model.generate(input_ids=ids, attention_mask=mask, num_beams=1, max_new_tokens=8)
    for row, mine in zip(found.tolist(), written.tolist(), strict=True):
        end = mine.index(1) + 1 if 1 in mine else len(mine)
        assert row[:end] == mine[:end]


def test_a_beam_as_wide_as_all_that_can_be_written_finds_the_likeliest():
    model = tiny(6, seed=4)
    model.generation_config.eos_token_id = None
    ids = torch.tensor([[3, 4, 5, 3]])
    every = torch.tensor([[2, *tail] for tail in itertools.product(range(6), repeat=3)])
    scores = logits(model, ids.expand(len(every), -1), None, every[:, :-1]).log_softmax(-1)
    total = scores.gather(-1, every[:, 1:, None]).sum((1, 2))
    found = model.generate(input_ids=ids, num_beams=36, max_new_tokens=3, length_penalty=0.0)
    assert found[0].tolist() == every[total.argmax()].tolist()


def test_its_forward_is_that_of_torchs_own_transformer(model, texts):
    ids, mask = texts
    written = torch.tensor([[2, 5, 9, 4]]).expand(3, -1)
    theirs = nn.Transformer(16, 2, 2, 2, 32, 0.1, batch_first=True, norm_first=True).eval()
    theirs.load_state_dict(model.transformer.state_dict())
    with torch.inference_mode():
        states = theirs(
            model.embed(ids),
            model.embed(written),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(4),
            src_key_padding_mask=mask == 0,
            memory_key_padding_mask=mask == 0,
        )
        wanted = functional.linear(states, model.embeddings.weight)
    assert torch.allclose(logits(model, ids, mask, written), wanted, atol=1e-5)
    kept = logits(model, ids, mask, written, use_cache=True)
    assert torch.allclose(kept, wanted, atol=1e-5)


def test_places_are_told_apart_and_a_step_is_the_same_turn_everywhere():
    table = positions(60, 16)
    assert torch.equal(table[20:30], positions(10, 16, first=20))
    near = table @ table.T
    assert (near.argmax(-1) == torch.arange(60)).all()
    steps = torch.tensor([near[at, at + 3] for at in range(57)])
    assert torch.allclose(steps, steps[0].expand(57), atol=1e-4)


def test_the_decoder_is_given_the_target_a_place_later():
    labels = torch.tensor([[7, 8, 1], [9, 1, -100]])
    assert shifted(labels, ScratchConfig()).tolist() == [[2, 7, 8], [2, 9, 1]]


def test_it_is_saved_and_loaded_as_any_other_model(model, texts, tmp_path):
    model.save_pretrained(tmp_path)
    register()
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    written = torch.full((3, 1), 2)
    assert torch.equal(logits(model, *texts, written), logits(again, *texts, written))


def test_smoothing_is_torchs_and_padding_is_not_learned():
    trainer = HouseTrainer.__new__(HouseTrainer)
    found = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, -100], [3, 0, 4]])
    theirs = nn.CrossEntropyLoss(label_smoothing=0.1)(found.flatten(0, 1), labels.flatten())
    assert torch.allclose(trainer._loss({"logits": found}, labels, 0.1), theirs)


@pytest.mark.parametrize("text", ["plain", "Žluťoučký kůň 12 \n\t", "😀👩‍👩‍👧", "  two  spaces "])
def test_any_text_has_tokens_that_give_it_back(text):
    tokenizer = train_tokenizer(["some plain text", "12"], vocabulary=300, max_tokens=64)
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer("2026")["input_ids"]) == 5


def test_dates_are_said_as_they_are_and_each_once():
    assert [spoken(year) for year in (1900, 1905, 1984, 2000, 2007, 2026, 2090)] == [
        "nineteen hundred", "nineteen oh five", "nineteen eighty-four", "two thousand",
        "two thousand and seven", "twenty twenty-six", "twenty ninety",
    ]  # fmt: skip
    assert len({ordinal(day) for day in range(1, 32)}) == 31
    rows = dates(500, seed=2)
    assert len({row["text"] for row in rows}) == 500
    assert all(date.fromisoformat(row["iso"]) for row in rows)
    assert rows == dates(500, seed=2)


def scratch_job(data, output, **parts) -> TrainJob:
    return TrainJob.model_validate(
        {
            "name": "tiny",
            "base": "scratch",
            "task": {"kind": "write"},
            "data": {"path": str(data), "text": "text", "label": "iso"},
            "scratch": {"d_model": 16, "heads": 2, "feed_forward": 32, "max_tokens": 48},
            "train": {"epochs": 2, "learning_rate": 0.01, "checks": 1},
            "output": {"path": str(output)},
            **parts,
        }
    )


def test_a_job_trains_it_and_a_translate_job_writes_what_it_writes(tmp_path):
    data = write(tmp_path / "in/dates.parquet", dates(80, seed=0))
    wanted = scratch_job(data, tmp_path / "model")
    record = train_job(wanted, command="c", say=lambda line: None)
    losses = [line["loss"] for line in record["losses"] if "loss" in line]
    assert losses[-1] < losses[0]
    assert set(record["figures"]["metrics"]) >= {"exact_match", "chrf"}
    assert "From nothing" in (tmp_path / "model/README.md").read_text()
    (tmp_path / "job.yaml").write_text(
        f"name: j\ninput: {{path: {tmp_path}/in}}\noutput: {{path: {tmp_path}/out}}\n"
        f"tasks: {{iso_8601: {{kind: translate, model: {tmp_path}/model}}}}\n"
    )
    found = preview_rows(load_job(tmp_path / "job.yaml"), Wanted(rows=4))
    got = [row["iso_8601"]["text"] for table in found.tables for row in table.to_pylist()]
    register()
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").eval()
    writer = new_writer(wanted, read_rows(wanted.data, seed=0, kind="write").train)
    for text, row in zip(got, dates(80, seed=0), strict=False):
        ids = torch.tensor([writer.tokenizer(row["text"])["input_ids"]])
        ours = model.generate(input_ids=ids, max_new_tokens=47, do_sample=False)[0]
        assert text == writer.tokenizer.decode(ours, skip_special_tokens=True).strip()


def test_what_a_writer_answers_does_not_depend_on_the_batch(tmp_path):
    rows = [LabelledText(row["text"], (row["iso"],)) for row in dates(12, seed=1)]
    writer = new_writer(scratch_job(tmp_path, tmp_path / "model"), rows)
    together = writer.answers(rows, batch=12)
    assert together == [writer.answers([row], batch=1)[0] for row in rows]


def test_a_wrong_job_is_told_before_the_start(tmp_path):
    ready = "jobs/train_scratch.yaml"
    for override, said in {
        "base=starter/minilm": "needs base: scratch",
        "task.kind=classify": "needs base: scratch",
        "scratch.heads=3": "a multiple of heads",
        "scratch.d_model=9": "must be even",
        "scratch.vocabulary=10": "at least 260",
        "train.freeze={all_but_last: 1}": "neither frozen layers nor classes",
    }.items():
        done = CliRunner().invoke(main, ["train", ready, "--set", override])
        assert (done.exit_code, said in done.output) == (2, True), done.output
    rows = [{"text": "one", "iso": ["1"]}, {"text": "two", "iso": ["2"]}]
    data = write(tmp_path / "lists.parquet", rows)
    given = TrainData(path=str(data), label="iso", validation=0.0, test=0.0)
    with pytest.raises(JobError, match="not texts to write"):
        read_rows(given, seed=0, kind="write")
