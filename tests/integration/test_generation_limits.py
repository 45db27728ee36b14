"""Writing at its limits: texts longer than the model, and JSON that must follow a schema."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tiny_writers as tiny
from tiny_writers import rows

from pipeline.tasks.writing.text_writer import TextWriter

pytestmark = pytest.mark.integration


# Long texts


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_text_of_a_hundred_thousand_tokens_is_summarized_without_leaving_anything_out(
    tiny_models: Any, load_task: Any, family: str
) -> None:
    annotate = load_task(
        tiny_models(family), kind="summarize", method="abstractive", max_new_tokens=8
    )
    short, long = rows(annotate, ["w1 w2.", tiny.sentences(25_000)])
    assert long["input_tokens"] == 100_000
    assert long["windows"] > 100_000 / 64
    assert 0 < long["output_tokens"] <= 8
    assert short["windows"] == 1


def test_a_summary_of_summaries_is_what_its_steps_give_by_hand(
    tiny_models: Any, load_task: Any
) -> None:
    annotate = load_task(
        tiny_models("t5"), kind="summarize", method="abstractive", max_new_tokens=8
    )
    # 30 sentences of 4 tokens are 120 tokens; 63 fit beside the end token.
    text = tiny.sentences(30)
    halves = [tiny.sentences(15), tiny.sentences(15, start=45)]
    assert " ".join(halves) == text
    parts = rows(annotate, halves)
    joined = "\n".join(part["text"] for part in parts)
    (whole,) = rows(annotate, [joined])
    (got,) = rows(annotate, [text])
    assert got["text"] == whole["text"]
    assert got["windows"] == 3


WRITERS = {
    "summary": ("t5", {"kind": "summarize", "method": "abstractive"}, "max_new_tokens"),
    "summary of a chat model": (
        "chat",
        {"kind": "summarize", "method": "abstractive"},
        "max_new_tokens",
    ),
    "truncated summary": (
        "t5",
        {"kind": "summarize", "method": "abstractive", "merge": "truncate"},
        "max_new_tokens",
    ),
    "generated text": ("llama", {"kind": "generate"}, "max_new_tokens"),
    "rewritten text": ("llama", {"kind": "generate", "merge": "join"}, "max_new_tokens"),
    "translation": ("marian", {"kind": "translate"}, "max_new_tokens"),
    "answer": ("chat", {"kind": "answer", "question": "w3"}, "max_answer_tokens"),
}


@pytest.mark.parametrize("case", WRITERS)
def test_what_stops_at_the_limit_of_tokens_says_truncated_and_what_ends_by_itself_does_not(
    tiny_models: Any, load_task: Any, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    family, options, limit = WRITERS[case]
    reference = tiny_models("llama", chat=True) if family == "chat" else tiny_models(family)
    written: list[int] = []
    write = TextWriter.write

    def watched(self: TextWriter, prompts: Any) -> Any:
        found = write(self, prompts)
        written.extend(generation.tokens for generation in found.results)
        return found

    monkeypatch.setattr(TextWriter, "write", watched)
    texts = [f"w{i} w{i + 1} w{i + 2}." for i in range(0, 60, 3)]
    whole = rows(load_task(reference, **options, **{limit: 40}), texts)
    ended = [(text, n) for text, row, n in zip(texts, whole, written, strict=True) if n < 40]
    assert all(row["truncated"] == (n == 40) for row, n in zip(whole, written, strict=True))
    text, tokens = max(ended, key=lambda found: found[1])
    assert tokens > 4
    (cut,) = rows(load_task(reference, **options, **{limit: tokens - 1}), [text])
    (enough,) = rows(load_task(reference, **options, **{limit: tokens + 1}), [text])
    assert (cut["truncated"], enough["truncated"]) == (True, False)
    assert enough["text"] == whole[texts.index(text)]["text"]
    assert cut["text"] != enough["text"]


def test_a_window_that_was_not_summarized_to_its_end_makes_the_whole_truncated(
    tiny_models: Any, load_task: Any
) -> None:
    options = {"kind": "summarize", "method": "abstractive", "max_new_tokens": 8}
    annotate = load_task(tiny_models("t5"), **options)
    # 30 sentences of 4 tokens are two windows, each summarized as it would be alone.
    for start in range(0, 40, 5):
        halves = [tiny.sentences(15, start=start), tiny.sentences(15, start=start + 45)]
        parts = rows(annotate, halves)
        joined = "\n".join(part["text"] for part in parts)
        last, got = rows(annotate, [joined, " ".join(halves)])
        assert got["windows"] == 3
        assert got["truncated"] == any(one["truncated"] for one in [*parts, last])


@pytest.mark.parametrize("whose", ["the job's", "the model's own"])
def test_a_text_that_ends_at_a_stop_string_is_whole(
    tiny_models: Any, load_task: Any, tmp_path: Path, whose: str
) -> None:
    reference, options = tiny_models("llama", letters=True), {"kind": "generate"}
    annotate = load_task(reference, **options, max_new_tokens=12)
    (whole,) = rows(annotate, ["w1 w2 w3."])
    assert whole["truncated"] is True
    stop = next(letter for letter in whole["text"][2:] if letter.isascii() and letter.isprintable())
    if whose == "the job's":
        annotate = load_task(reference, **options, max_new_tokens=12, stop=[stop])
    else:
        stopping = shutil.copytree(reference, tmp_path / "stopping")
        config = json.loads((stopping / "generation_config.json").read_text())
        (stopping / "generation_config.json").write_text(
            json.dumps({**config, "stop_strings": [stop]})
        )
        annotate = load_task(str(stopping), **options, max_new_tokens=12)
    (stopped,) = rows(annotate, ["w1 w2 w3."])
    assert stopped["truncated"] is False
    assert whole["text"].startswith(stopped["text"])
    assert stopped["text"] != whole["text"]


def test_summaries_that_get_no_shorter_come_to_an_end_and_say_so(
    tiny_models: Any, load_task: Any
) -> None:
    annotate = load_task(
        tiny_models("bart", eos_token_id=[1]),
        kind="summarize",
        method="abstractive",
        max_new_tokens=62,
    )
    (row,) = rows(annotate, [tiny.sentences(60)])
    assert row["windows"] < 40
    assert row["truncated"] is True


def test_truncate_leaves_out_the_end_and_says_so(tiny_models: Any, load_task: Any) -> None:
    options = {"kind": "summarize", "method": "abstractive", "max_new_tokens": 8}
    annotate = load_task(tiny_models("t5"), **options, merge="truncate")
    text = tiny.sentences(200)
    cut, first = rows(annotate, [text, " ".join(text.replace(".", " .").split()[:63])])
    assert (cut["truncated"], cut["windows"], cut["input_tokens"]) == (True, 1, 800)
    assert cut["text"] == first["text"]


def test_a_long_text_is_translated_window_by_window_and_keeps_its_paragraphs(
    tiny_models: Any, load_task: Any
) -> None:
    annotate = load_task(tiny_models("marian"), kind="translate", max_new_tokens=60)
    # 10 sentences are 40 tokens, just what a window holds.
    parts = [tiny.sentences(10), tiny.sentences(10, start=40)]
    (row,) = rows(annotate, ["\n\n".join(parts)])
    expected = rows(annotate, parts)
    assert row["text"] == "\n\n".join(part["text"] for part in expected)
    assert row["windows"] == 2
    assert row["output_tokens"] == sum(part["output_tokens"] for part in expected)


def test_a_text_of_a_hundred_thousand_tokens_is_translated_whole(
    tiny_models: Any, load_task: Any
) -> None:
    reference = tiny_models("marian", targets=("fra", "spa"))
    annotate = load_task(reference, kind="translate", target="fra", max_new_tokens=60)
    (row,) = rows(annotate, [tiny.sentences(25_000)])
    assert row["input_tokens"] == 100_000
    assert row["windows"] >= 100_000 / 40
    assert row["output_tokens"] > 10_000


def test_a_translation_that_was_not_finished_says_so(tiny_models: Any, load_task: Any) -> None:
    reference = tiny_models("marian")
    long = rows(load_task(reference, kind="translate", max_new_tokens=60), ["w1 w2 w3."])[0]
    assert long["truncated"] is False
    most = long["output_tokens"] - 1
    assert most > 4, "more tokens than the text has, or windows would be made"
    short = rows(load_task(reference, kind="translate", max_new_tokens=most), ["w1 w2 w3."])[0]
    assert short["truncated"] is True


def test_of_a_long_prompt_the_middle_is_left_out(tiny_models: Any, load_task: Any) -> None:
    annotate = load_task(tiny_models("llama"), kind="generate", max_new_tokens=28)
    room = 128 - 28
    words = [f"w{i % 120}" for i in range(500)]
    kept = [*words[: room // 2], *words[-(room // 2) :]]
    cut, whole = rows(annotate, [" ".join(words), " ".join(kept)])
    assert (cut["truncated"], whole["truncated"]) == (True, False)
    assert cut["text"] == whole["text"]
    assert (cut["input_tokens"], whole["input_tokens"]) == (500, 100)


def test_a_long_text_that_is_written_anew_is_joined_from_its_windows(
    tiny_models: Any, load_task: Any
) -> None:
    reference, options = tiny_models("llama"), {"kind": "generate", "max_new_tokens": 60}
    annotate = load_task(reference, **options, merge="join")
    # 10 sentences are 40 tokens, just what a window holds.
    parts = [tiny.sentences(10, start=40), tiny.sentences(10, start=20)]
    joined, *short = rows(annotate, ["\n\n".join(parts), *parts])
    assert all(part["text"] for part in short)
    assert joined["text"] == "\n\n".join(part["text"] for part in short)
    assert (joined["windows"], joined["input_tokens"]) == (2, 80)
    alone = rows(load_task(reference, **options), parts)
    assert [row["text"] for row in short] == [row["text"] for row in alone]


# JSON

OPINION = {
    "type": "object",
    "properties": {
        "opinion": {"enum": ["good", "bad"]},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 2},
        "author": {
            "type": "object",
            "properties": {
                "known": {"type": "boolean"},
                "age": {"type": ["number", "null"], "minimum": 0, "maximum": 99},
            },
            "required": ["known", "age"],
        },
    },
    "required": ["opinion", "stars", "words", "author"],
}


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_random_weights_write_json_that_follows_the_schema(
    tiny_models: Any, load_task: Any, temperature: float
) -> None:
    reference = tiny_models("llama", letters=True, length=512)
    options = {"kind": "generate", "format": "json", "json_schema": OPINION}
    annotate = load_task(reference, **options, max_new_tokens=300, temperature=temperature)
    texts = ["A joy.", "Dull and long 🙂.", "x" * 40, "这部电影很精彩。"]
    found = rows(annotate, texts)
    for row in found:
        jsonschema.validate(json.loads(row["text"]), OPINION)
        assert json.loads(row["text"]) == row["value"]
    assert len({row["text"] for row in found}) > 1
    assert found == [rows(annotate, [text])[0] for text in texts]


def test_json_that_is_not_complete_in_time_is_a_row_error(tiny_models: Any, load_task: Any) -> None:
    reference = tiny_models("llama", letters=True, length=512)
    options = {"kind": "generate", "format": "json", "json_schema": OPINION}
    answer = load_task(reference, **options, max_new_tokens=12).annotate(["A joy.", "Dull."])
    assert {at: error.code for at, error in answer.failures.items()} == dict.fromkeys(
        (0, 1), "invalid_json"
    )
    assert answer.column.to_pylist() == [None, None]


def test_a_schema_that_can_not_be_followed_is_refused_before_the_model_is_loaded(
    load_task: Any,
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)b"}}}
    options = {"kind": "generate", "format": "json", "json_schema": schema}
    with pytest.raises(ValueError, match=r"json_schema\.a: nothing can follow this"):
        load_task("no/such-model", **options)


def test_smollm2_fills_in_a_form(load_task: Any) -> None:
    annotate = load_task(
        "starter/smollm2",
        kind="generate",
        instruction="Is the writer's opinion of the film good or bad? Answer in JSON.",
        format="json",
        json_schema={
            "type": "object",
            "properties": {"opinion": {"enum": ["good", "bad"]}},
            "required": ["opinion"],
        },
        max_new_tokens=16,
    )
    texts = ["A joy from start to end. I loved it.", "Dull, long, badly acted. I hated it."]
    assert {row["value"]["opinion"] for row in rows(annotate, texts)} <= {"good", "bad"}
