"""Tasks that write need a generator and nothing else: here it is plain Python."""

import json
from typing import Any

import numpy as np
import pytest
from fake_writers import FakeGenerator, FakeScorer, loaded
from helpers import loaded_by

from pipeline.errors import JobError, RowError
from pipeline.models.decoding import Sampling
from pipeline.models.text.texts import TaskInput

pytestmark = pytest.mark.unit

WORDS = [f"w{i}" for i in range(60)]
CHAT = [*WORDS, "user", "system", "assistant", "short", "Who?", "Where?", "in", "words"]


def text_of(count: int) -> str:
    """Sentences of two words and a full stop: three tokens each."""
    return " ".join(f"w{2 * i % 60} w{(2 * i + 1) % 60}." for i in range(count))


def first_words(prompt: str) -> str:
    """The first word of each sentence."""
    return " ".join(part.split()[0] for part in prompt.split(".") if part.split())


def test_a_long_text_is_summarized_in_windows_and_their_summaries_together() -> None:
    model = FakeGenerator(WORDS, first_words, is_encoder_decoder=True, length=16)
    task = loaded(model, kind="summarize", method="abstractive", max_new_tokens=8)
    answer = task.annotate(["w7 w8.", text_of(10)])
    short, long = answer.column.to_pylist()
    assert short == {
        "text": "w7",
        "input_tokens": 3,
        "output_tokens": 1,
        "windows": 1,
        "truncated": False,
    }
    # Two windows of five sentences are summarized, then ten words in one prompt: of no full stop.
    assert (long["windows"], long["input_tokens"]) == (3, 30)
    assert long["text"] == "w0"
    windows = [prompt for prompt in model.heard[0][0] if prompt != "w7 w8 ."]
    assert " ".join(windows) == text_of(10).replace(".", " .")
    assert answer.tokens == 3 + 1 + 1 + 2 * (15 + 1) + 10 + (10 + 1) + 1


def test_a_summary_that_stops_at_the_limit_of_tokens_says_so() -> None:
    model = FakeGenerator(WORDS, first_words, is_encoder_decoder=True)
    task = loaded(model, kind="summarize", method="abstractive", max_new_tokens=2)
    (row,) = task.annotate([text_of(4)]).column.to_pylist()
    assert (row["text"], row["output_tokens"], row["truncated"]) == ("w0 w2", 2, True)


def test_what_fails_in_one_window_fails_the_text_and_no_other() -> None:
    def says(prompt: str) -> str:
        if "w19" in prompt:
            raise RowError("no", code="fake")
        return "w1"

    model = FakeGenerator(WORDS, says, is_encoder_decoder=True, length=16)
    for options in (
        {"kind": "summarize", "method": "abstractive", "max_new_tokens": 8},
        {"kind": "translate", "max_new_tokens": 12},
        {"kind": "generate", "max_new_tokens": 12, "merge": "join"},
    ):
        answer = loaded(model, **options).annotate(["w2.", text_of(10), "w3."])
        assert {at: error.code for at, error in answer.failures.items()} == {1: "fake"}
        found = answer.column.to_pylist()
        assert [row and row["text"] for row in found] == ["w1", None, "w1"]


def test_a_chat_model_is_told_system_and_instruction_around_the_text() -> None:
    model = FakeGenerator(CHAT, lambda prompt: prompt)
    task = loaded(
        model, kind="generate", system="w1", instruction="short", max_new_tokens=20, stop=["w9"]
    )
    (row,) = task.annotate(["w5 w9 w6"]).column.to_pylist()
    ((prompts, decoding),) = model.heard
    assert prompts == ["system w1 user w5 w9 w6 short assistant"]
    assert (decoding.stops, decoding.sampling, decoding.grammar) == (("w9",), None, None)
    assert (row["text"], row["truncated"]) == ("system w1 user w5", False)


def test_of_a_long_prompt_the_middle_is_left_out_beside_what_is_to_be_written() -> None:
    model = FakeGenerator(CHAT, lambda prompt: "w1", length=16)
    task = loaded(model, kind="generate", max_new_tokens=8)
    (row,) = task.annotate([" ".join(WORDS)]).column.to_pylist()
    assert model.heard[0][0] == ["user w0 w1 w2 w57 w58 w59 assistant"]
    assert (row["truncated"], row["input_tokens"]) == (True, 60)


def test_how_tokens_are_drawn_is_said_to_the_generator() -> None:
    model = FakeGenerator(CHAT, lambda prompt: "w1")
    task = loaded(model, kind="generate", max_new_tokens=4, temperature=0.5, top_k=7, seed=3)
    task.annotate(["w1"])
    sampling = model.heard[0][1].sampling
    assert sampling == Sampling(seed=3, temperature=0.5, top_k=7)


SCHEMA = {
    "type": "object",
    "properties": {"stars": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["stars"],
}


def test_json_comes_with_a_grammar_and_is_parsed_or_a_row_error() -> None:
    said = {"a": '{"stars": 4}', "b": '{"stars": 40', "c": '{"stars": null}'}
    model = FakeGenerator([], lambda prompt: said[prompt], length=64, letters=True)
    task = loaded(model, kind="generate", max_new_tokens=12, format="json", json_schema=SCHEMA)
    answer = task.annotate(["a", "b", "c"])
    codes = {at: error.code for at, error in answer.failures.items()}
    assert codes == {1: "invalid_json", 2: "invalid_json"}
    assert answer.column.to_pylist()[0]["value"] == {"stars": 4}


def test_a_grammar_allows_what_leads_to_a_document_and_then_the_end() -> None:
    model = FakeGenerator([], lambda prompt: "{}", length=64, letters=True)
    loaded(model, kind="generate", max_new_tokens=20, format="json", json_schema=SCHEMA).annotate(
        ["a"]
    )
    grammar = model.heard[0][1].grammar
    assert grammar is not None
    written = json.dumps({"stars": 4})
    ids = model.text.tokens.ids(written)
    documents, both = grammar.documents(), np.arange(2)
    documents.begin(both)

    def allowed() -> np.ndarray:
        return np.unpackbits(documents.allowed(both), axis=1, bitorder="little") == 1

    for at, token in enumerate(ids):
        found = allowed()
        assert len(found) == 2
        assert found[0, token]
        assert not found[0, 1], "the end, before the document is whole"
        # The second stands where it stood: its document is another.
        documents.take(both[:1], np.array([token]))
        assert allowed()[1, ids[0]], f"nothing is written of it, after {at} of the other"
    assert allowed()[0].nonzero()[0].tolist() == [1]
    documents.take(both, np.array([1, ids[0]]))
    assert allowed()[0].all(), "behind the end anything is padding"
    assert allowed()[1].nonzero()[0].tolist() == [ids[1]]
    assert allowed()[1].nonzero()[0].tolist() == [ids[1]], "asking changes nothing"
    documents.begin(both)
    assert allowed()[:, ids[0]].all(), "anew"


@pytest.mark.parametrize(
    ("model_type", "tokens", "start", "options", "prompt", "told"),
    [
        ("marian", [">>fra<<", ">>spa<<"], None, {"target": "spa"}, [">>spa<<"], {}),
        (
            "m2m_100",
            ["eng_Latn", "deu_Latn"],
            None,
            {"source": "eng_Latn", "target": "deu_Latn"},
            ["eng_Latn"],
            {"first_token": "deu_Latn"},
        ),
        (
            "mbart",
            ["en_XX", "de_DE"],
            "en_XX",
            {"source": "en_XX", "target": "de"},
            ["en_XX"],
            {"start_token": "de_DE"},
        ),
    ],
)
def test_a_translation_model_is_told_its_languages_as_its_family_wants_it(
    model_type: str, tokens: list[str], start: str | None, options: Any, prompt: Any, told: Any
) -> None:
    number = 4 + len(WORDS) + (tokens.index(start) if start else 0)
    model = FakeGenerator(
        [*WORDS, *tokens],
        lambda prompt: "w9",
        model_type=model_type,
        is_encoder_decoder=True,
        start_token=number if start else None,
    )
    task = loaded(model, kind="translate", max_new_tokens=20, **options)
    assert task.annotate(["w1 w2"]).column.to_pylist()[0]["text"] == "w9"
    ((prompts, decoding),) = model.heard
    assert [word for word in prompts[0].split() if word not in WORDS] == prompt
    vocabulary = model.text.tokenizer.get_vocab()
    for name in ("first_token", "start_token"):
        assert getattr(decoding, name) == vocabulary.get(told.get(name))


def test_a_long_text_is_translated_window_by_window_and_white_space_between_them_is_kept() -> None:
    model = FakeGenerator(
        WORDS,
        lambda prompt: prompt.replace(" .", "."),
        model_type="marian",
        is_encoder_decoder=True,
    )
    task = loaded(model, kind="translate", max_new_tokens=9)
    text = "\n\n".join([text_of(2), text_of(2), text_of(2)])
    (row,) = task.annotate([text]).column.to_pylist()
    assert row["text"] == text
    assert (row["windows"], row["truncated"], row["output_tokens"]) == (3, False, 18)


def test_more_than_a_model_can_write_or_read_is_refused_when_the_task_is_loaded() -> None:
    apart = FakeGenerator(WORDS, str, is_encoder_decoder=True, most_new_tokens=9)
    with pytest.raises(JobError, match="writes at most 9"):
        loaded(apart, kind="generate", max_new_tokens=10)
    with pytest.raises(JobError, match="leave no room"):
        loaded(FakeGenerator(CHAT, str, length=16), kind="generate", max_new_tokens=14)


def test_a_chat_model_answers_each_texts_own_question() -> None:
    model = FakeGenerator(CHAT, lambda prompt: prompt.split()[-3])
    task = loaded(
        model,
        kind="answer",
        question_column="q",
        instruction="{question} short",
        max_answer_tokens=4,
    )
    asked = TaskInput(["w1", "w2", "w3", "w4"], {"q": ["Who?", None, "Where?", "w5 " * 40]})
    answer = task.annotate(asked)
    codes = {at: error.code for at, error in answer.failures.items()}
    assert codes == {1: "no_question", 3: "question_too_long"}
    found = [row and row["text"] for row in answer.column.to_pylist()]
    assert found == ["Who?", None, "Where?", None]


def test_labels_are_weighed_by_an_answer_scorer() -> None:
    task = loaded(
        FakeScorer(CHAT),
        kind="zero_shot",
        labels={"one": "w1 w2", "three": "w1 w3"},
        instruction="short",
        calibrate=False,
        merge="max",
    )
    # The second is longer than the prompt has room for: its last window alone says w3.
    texts = ["w2 w2 w9", "w4 " * 100 + "w3"]
    rows = task.annotate(texts).column.to_pylist()
    assert [row["label"] for row in rows] == ["one", "three"]
    assert rows[0]["score"] == pytest.approx(3 / 4)


def test_no_inference_library_is_loaded_to_write_with_another_engine() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import fake_writers as fake\n"
        "model = fake.FakeGenerator(['user', 'assistant', 'yes'], lambda prompt: 'yes')\n"
        "for kind in ('generate', 'translate', 'answer', 'summarize'):\n"
        "    more = {'translate': {'target': 'French'}, 'answer': {'question': 'Who?'},\n"
        "            'summarize': {'method': 'abstractive'}}.get(kind, {})\n"
        "    limit = 'max_answer_tokens' if kind == 'answer' else 'max_new_tokens'\n"
        "    task = fake.loaded(model, kind=kind, **more, **{limit: 4})\n"
        "    assert task.annotate(['yes']).column.to_pylist()[0]['text'] == 'yes'\n"
    )
    assert loaded_by(code) & {"torch", "onnxruntime", "ray", "datasets"} == set()


HOSTILE = [
    "w1",
    ".",
    "... . .. !",
    "w1" * 500,
    "w1 " * 500,
    "\u200b\u202e\x00\ufeff",
    "🙂👩‍👩‍👧‍👦🇩🇪" * 40,
    "这部电影很精彩。" * 60,
    "\n\n\t w2.\r\n" * 60,
    "</s> <pad> </s>",
    "user assistant system",
    "{question} {text} {{}}",
]


@pytest.mark.parametrize("letters", [False, True], ids=["words", "bytes"])
@pytest.mark.parametrize(
    "says",
    [lambda prompt: prompt, lambda prompt: "", lambda prompt: " \n ", lambda prompt: "w1 " * 99],
    ids=["the prompt again", "nothing", "white space", "too much"],
)
@pytest.mark.parametrize(
    "options",
    [
        {"kind": "summarize", "method": "abstractive"},
        {"kind": "summarize", "method": "abstractive", "merge": "truncate"},
        {"kind": "translate"},
        {"kind": "generate", "stop": [".", "\n"]},
        {"kind": "generate", "merge": "join"},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_whatever_a_text_is_and_a_model_writes_each_row_comes_to_an_end(
    options: Any, says: Any, letters: bool
) -> None:
    model = FakeGenerator(WORDS, says, is_encoder_decoder=True, letters=letters, length=48)
    found = loaded(model, max_new_tokens=24, **options).annotate(HOSTILE)
    assert found.failures == {}
    for text, row in zip(HOSTILE, found.column.to_pylist(), strict=True):
        assert row["output_tokens"] >= 0
        assert row["windows"] >= 1
        assert row["text"] == row["text"].strip()
        # What does not fit one prompt takes several, or says that something was left out.
        if row["input_tokens"] > 48 and text.strip():
            assert row["windows"] > 1 or row["truncated"]
