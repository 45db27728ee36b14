"""What writing is made of, without weights: pieces of texts, draws, stop strings, languages."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sentencex
import tiny_writers as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import JobError
from pipeline.models.decoding import Sampling, cut_at
from pipeline.models.text import passages as passages_module
from pipeline.models.text.languages import Languages, languages_of
from pipeline.models.text.passages import pack, passages, sentences
from pipeline.models.text.prompts import PromptFrame, PromptMaker, chat_frame
from pipeline.models.text.texts import Tokenizer
from pipeline.models.torch import grammar
from pipeline.models.torch.rules import Live
from pipeline.models.torch.sampling import Race, gumbel, mixed
from pipeline.models.torch.stopping import StoppedRows, StopStrings
from pipeline.tasks.writing.generate import GenerateOptions
from pipeline.tasks.writing.summarize import SummarizeOptions
from pipeline.tasks.writing.translate import sentence_language

pytestmark = pytest.mark.unit

LETTERS = Tokenizer(tiny.byte_tokenizer())
WORDS = Tokenizer(tiny.word_tokenizer())


# Pieces of long texts


@given(
    text=st.text(alphabet=st.sampled_from("ab .!?\n\t。é🙂\u0301"), max_size=120),
    room=st.integers(4, 40),
)
@settings(max_examples=150, deadline=None)
def test_pieces_join_to_the_text_and_fit(text: str, room: int) -> None:
    pieces = passages(text, LETTERS, room=room, language="en")
    assert "".join(pieces) == text
    assert all(count <= room for count in LETTERS.encode(pieces).lengths)


def test_pieces_end_where_sentences_do() -> None:
    text = tiny.sentences(10)
    pieces = passages(text, WORDS, room=16, language="en")
    assert [piece.count(".") for piece in pieces] == [4, 3, 3]
    assert all(piece.rstrip().endswith(".") for piece in pieces)


def test_a_sentence_that_is_too_long_is_cut_at_white_space_and_a_word_anywhere() -> None:
    pieces = passages("aaaa bbbb cccc dddd " * 10, LETTERS, room=50, language="en")
    assert all(piece.endswith(" ") for piece in pieces)
    pieces = passages("x" * 1_000_000, LETTERS, room=500, language="en")
    assert max(map(len, pieces)) <= 500
    assert len(pieces) < 2_500


@given(
    text=st.text(alphabet=st.sampled_from('abA .!?\n\t。é🙂\u0301"'), max_size=200),
    block=st.integers(1, 50),
)
@settings(max_examples=150, deadline=None)
def test_sentences_join_to_the_text_however_small_the_blocks_are(text: str, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passages_module, "BLOCK", block)
        assert "".join(sentences(text, language="en")) == text


def test_sentences_are_the_same_in_blocks_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(f"Dr. No. {at} said so! Was it he? It was.\n\nOr so." for at in range(40))
    whole = list(sentences(text, language="en"))
    assert len(whole) > 100
    monkeypatch.setattr(passages_module, "BLOCK", 200)
    assert list(sentences(text, language="en")) == whole


@pytest.mark.parametrize(
    "text", ["漢。" * 100_000, "a" * 1_000_000, "A. " * 100_000, "." * 300_000]
)
def test_finding_sentences_is_work_that_grows_with_the_text_and_not_with_its_square(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    def segment(language: str, block: str) -> list[str]:
        given.append(len(block))
        return real(language, block)

    real = sentencex.segment
    monkeypatch.setattr(sentencex, "segment", segment)
    assert "".join(sentences(text, language="en")) == text
    assert sum(given) < 4 * len(text) + passages_module.BLOCK
    if "。" in text:
        assert max(given) == passages_module.BLOCK


def test_pieces_are_of_about_the_same_length() -> None:
    assert pack([4] * 25, room=63) == [(0, 13), (13, 25)]
    assert pack([10, 10, 70, 10], room=63) == [(0, 2), (2, 3), (3, 4)]
    assert pack([], room=5) == []


@given(counts=st.lists(st.integers(0, 12), max_size=60), room=st.integers(1, 30))
def test_each_part_is_packed_once_in_order_and_only_a_lone_part_exceeds_the_room(
    counts: list[int], room: int
) -> None:
    groups = pack(counts, room=room)
    assert [at for start, stop in groups for at in range(start, stop)] == list(range(len(counts)))
    for start, stop in groups:
        assert stop > start
        assert sum(counts[start:stop]) <= room or stop == start + 1


# Prompts


def maker(frame: PromptFrame, *, length: int = 20, **how: Any) -> PromptMaker:
    return PromptMaker(SimpleNamespace(tokens=WORDS, max_tokens=length), frame, **how)  # type: ignore[arg-type]


def test_only_the_text_is_cut_never_what_stands_around_it() -> None:
    made = maker(PromptFrame("w1 ", " w2", prefix=(3,), suffix=(1,)), length=10)
    text = " ".join(f"w{i}" for i in range(10, 30))
    assert made.room == 6
    (end,) = made.lay_out([text], long="end").ids
    assert end.tolist() == [3, 6, *range(15, 21), 7, 1]
    laid = made.lay_out([text, "w10"], long="middle")
    assert laid.ids[0].tolist() == [3, 6, 15, 16, 17, 32, 33, 34, 7, 1]
    assert (laid.cut, laid.owner) == ({0}, [0, 1])
    windows = made.lay_out([text, "w10"], long="windows")
    assert windows.cut == set()
    assert windows.owner == [0, 0, 0, 0, 1]
    assert sum(len(ids) - 4 for ids in windows.ids[:4]) == 20


def test_white_space_between_windows_is_kept() -> None:
    made = maker(PromptFrame(), length=4)
    laid = made.lay_out(["w1 w2.\n\n w3 w4 .  w5"], long="windows")
    assert [ids.tolist() for ids in laid.ids] == [[6, 7, 4], [8, 9, 4, 10]]
    assert laid.gaps == ["", "\n\n "]


def test_a_chat_template_that_drops_the_text_or_the_role_is_told() -> None:
    tokenizer = tiny.word_tokenizer()
    text: Any = SimpleNamespace(tokenizer=tokenizer)
    tokenizer.chat_template = "nothing of it"
    with pytest.raises(JobError, match="drops the user's text"):
        chat_frame(text, "say it")
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(JobError, match="no system role") as caught:
        chat_frame(text, system="be short")
    assert "system" in caught.value.hint


# Draws


def test_the_hash_is_the_finalizer_of_splitmix64() -> None:
    # The first outputs of SplitMix64 from seed 0, from its authors' reference implementation.
    golden = 0x9E3779B97F4A7C15
    states = [(golden * n) % 2**64 for n in (1, 2, 3)]
    signed = torch.tensor([s - 2**64 if s >> 63 else s for s in states])
    found = [int(value) % 2**64 for value in mixed(signed)]
    assert found == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_noise_is_finite_and_of_the_gumbel_distribution() -> None:
    noise = gumbel(mixed(torch.arange(400_000)))
    assert torch.isfinite(noise).all()
    assert torch.isfinite(gumbel(torch.tensor([0, -1, 2**63 - 1, -(2**63)]))).all()
    # Mean is Euler's constant, variance pi^2 / 6; standard errors are 0.002 and 0.005.
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.var()) == pytest.approx(np.pi**2 / 6, abs=0.03)


def at_step(step: int, rows: int) -> Live:
    return Live(np.arange(rows), np.full(rows, step), np.zeros((rows, 10), dtype=np.int64))


def test_tokens_are_drawn_with_the_probabilities_of_the_softmax() -> None:
    rows = 40_000
    shares = torch.tensor([0.5, 0.25, 0.2, 0.05, 0.0])
    scores = shares.log().expand(rows, -1)
    sampling = Sampling(seed=7)
    keys = [sampling.key(np.array([row])) for row in range(rows)]
    for step in (0, 5):
        drawn = Race(keys)(at_step(step, rows), scores).argmax(-1)
        found = torch.bincount(drawn, minlength=5) / rows
        assert torch.allclose(found, shares, atol=0.01)
        assert found[4] == 0


def test_a_draw_depends_on_seed_prompt_and_step_and_on_nothing_else() -> None:
    scores = torch.randn(1, 50).expand(200, -1)

    def drawn(seed: int, *, step: int = 0, rows: range = range(200)) -> list[int]:
        keys = [Sampling(seed=seed).key(np.array([1, row])) for row in rows]
        noisy = Race(keys)(at_step(step, len(rows)), scores[: len(rows)])
        return noisy.argmax(-1).tolist()

    first = drawn(1)
    assert drawn(1, rows=range(50, 60)) == first[50:60]
    assert len(set(first)) > 10
    for other in (drawn(2), drawn(1, step=1)):
        assert sum(a == b for a, b in zip(first, other, strict=True)) < 60


def test_rows_at_different_steps_draw_as_if_they_were_alone() -> None:
    scores = torch.randn(3, 50)
    race = Race([5, 6, 7])
    steps = np.array([4, 0, 9])
    mixed_steps = race(Live(np.array([2, 0, 1]), steps, np.zeros((3, 10))), scores)
    for at, (row, step) in enumerate(zip([2, 0, 1], steps, strict=True)):
        alone = race(
            Live(np.array([row]), np.array([step]), np.zeros((1, 10))), scores[at : at + 1]
        )
        assert torch.equal(mixed_steps[at], alone[0])


# Stop strings


def test_the_text_is_cut_at_the_first_stop_string() -> None:
    assert cut_at("one\ntwo END", ("END", "\n")) == "one"
    assert cut_at("one", ("END",)) == "one"


def test_a_stop_string_is_found_over_the_border_of_tokens_and_counted_once() -> None:
    tokenizer = tiny.byte_tokenizer()
    ids = tokenizer("a🙂b. Stop here")["input_ids"]
    strings = StopStrings(["🙂b", "Stop"], tokenizer)
    stops = StoppedRows(strings, start=1)
    ended = []
    for length in range(1, len(ids) + 1):
        rows = torch.tensor([[9, *ids[:length]], [9, *[5] * length]])
        ended.append(stops(rows, None).tolist())
    first = len(tokenizer("a🙂b")["input_ids"])
    assert ended == [[length >= first, False] for length in range(1, len(ids) + 1)]
    assert stops.ended == {0: first}
    written = np.array([ids, ids])
    live = Live(np.arange(2), np.array([first - 1, first]), written)
    assert strings(live).tolist() == [False, True]


# Languages


def test_a_language_may_be_said_short_if_only_one_is_meant() -> None:
    known = Languages({"de_DE": 5, "en_XX": 6, "zho_Hans": 7, "zho_Hant": 8}, paired=True)
    assert known.token("de_DE", field="target") == known.token("de", field="target") == 5
    with pytest.raises(JobError, match="several languages"):
        known.token("zho", field="target")


@pytest.mark.parametrize("saved", [(), (5,), (6,)])
def test_the_source_language_takes_the_place_of_the_one_the_tokenizer_was_saved_with(
    saved: tuple[int, ...],
) -> None:
    leading = Languages({"a": 5, "b": 6}, paired=True, leads=True)
    trailing = Languages({"a": 5, "b": 6}, paired=True, leads=False)
    assert leading.around([*saved, 1], [2], 6) == ((6, 1), (2,))
    assert leading.around([1], [2, *saved], 6) == ((6, 1), (2,))
    assert trailing.around([], [2, *saved], 6) == ((), (2, 6))
    assert trailing.around([*saved], [2], 6) == ((), (2, 6))


@pytest.mark.parametrize(
    ("kind", "token", "code"),
    [
        ("marian", ">>fra<<", "fra"),
        ("t5", "<2de>", "de"),
        ("mbart", "de_DE", "de_DE"),
        ("m2m_100", "__de__", "de"),
        ("m2m_100", "deu_Latn", "deu_Latn"),
    ],
)
def test_language_tokens_are_found_in_the_vocabulary(kind: str, token: str, code: str) -> None:
    tokenizer = tiny.word_tokenizer(more=[token])
    config = SimpleNamespace(model_type=kind)
    model: Any = SimpleNamespace(tokenizer=tokenizer, config=config, suffix=[])
    found = languages_of(model)
    assert found is not None
    assert dict(found.ids) == {code: tokenizer.convert_tokens_to_ids(token)}


def test_a_model_without_language_tokens_has_no_languages() -> None:
    for kind in ("marian", "llama"):
        model: Any = SimpleNamespace(
            tokenizer=tiny.word_tokenizer(), config=SimpleNamespace(model_type=kind)
        )
        assert languages_of(model) is None


def test_sentences_are_found_by_the_source_language() -> None:
    codes = {"de_DE": "de", "deu_Latn": "deu", "English": "en", None: "en", "fr": "fr"}
    assert {code: sentence_language(code) for code in codes} == codes


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "json"}, "need each other"),
        ({"json_schema": {"type": "string"}}, "need each other"),
        (
            {"format": "json", "json_schema": {"type": "string"}, "stop": ["x"]},
            "would cut the JSON",
        ),
        (
            {"format": "json", "json_schema": {"type": "string"}, "merge": "join"},
            "each window would write JSON of its own",
        ),
        ({"top_p": 0.9}, "no meaning at temperature 0"),
        ({"seed": 4}, "no meaning at temperature 0"),
        ({"stop": [""]}, "at least 1 character"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
        ({"temperature": -1.0}, "greater than or equal to 0"),
    ],
)
def test_options_of_generate_that_contradict_each_other_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        GenerateOptions.model_validate({"kind": "generate", "model": "m", **options})


def test_how_long_texts_merge_is_an_option_of_abstractive_summaries_alone() -> None:
    options = {"kind": "summarize", "model": "m", "method": "extractive", "merge": "truncate"}
    with pytest.raises(ValidationError, match="no meaning for method extractive"):
        SummarizeOptions.model_validate(options)


@pytest.mark.parametrize("vocabulary", [200, 256, 301])
@pytest.mark.parametrize("at_once", [False, True])
def test_what_a_grammar_forbids_can_not_be_chosen(
    vocabulary: int, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if at_once:  # as for a device that the scores are on
        monkeypatch.setattr(
            grammar, "_row_by_row", lambda s, a: grammar._at_once(torch.from_numpy(s), a)
        )
    chance = np.random.default_rng(0)
    allowed = chance.integers(0, 256, (3, 32), dtype=np.uint8)
    allowed[0] = 255
    scores = torch.from_numpy(chance.standard_normal((3, vocabulary), dtype=np.float32))
    before = scores.clone()
    grammar.forbid(scores, allowed)
    bits = np.zeros((3, 320), dtype=bool)
    bits[:, :256] = np.unpackbits(allowed, axis=1, bitorder="little")
    may = torch.from_numpy(bits[:, :vocabulary])
    assert torch.equal(scores, before.masked_fill(~may, -torch.inf))
