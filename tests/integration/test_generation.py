"""Writing with models: what `model.generate` writes for each row alone, whatever the batch."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import tiny_writers as tiny
import torch
from transformers import AutoTokenizer

from pipeline.errors import JobError
from pipeline.models.device import Device
from pipeline.models.generation import Writer
from pipeline.models.load import Models
from pipeline.models.prompts import plain_frame
from pipeline.models.resolve import look_up
from pipeline.tasks import TASKS

pytestmark = pytest.mark.integration

# From one word to as many as fit beside what is written.
LENGTHS = (1, 9, 2, 14, 5, 1, 12, 3)
TEXTS = [tiny.sentences(n, start=7 * n + i) for i, n in enumerate(LENGTHS)] + ["w7", "w8 w9"]
LETTERS = ["a b", "the film is long", "x", "loud and dull. so.", "a joy 7", "no", "w1 w2 w3."]
NEW = 20

Load = Callable[..., Any]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Random models by how they are made, each made once."""
    held: dict[str, str] = {}

    def folder(family: str, **how: Any) -> str:
        key = f"{family} {how}"
        if key not in held:
            path = tmp_path_factory.mktemp(family)
            held[key] = str(getattr(tiny, family)(path, **how))
        return held[key]

    return folder


@pytest.fixture(scope="module")
def load() -> Load:
    """A task that is loaded; models are loaded once."""
    models: dict[tuple[str, int | None], Models] = {}

    def loaded(reference: str, *, budget: int | None = None, **options: Any) -> Any:
        task = TASKS[options["kind"]]
        made = task(task.Options.model_validate({"model": reference, **options}))
        info = look_up(reference)
        made.check_model(info)
        key = reference, budget
        if key not in models:
            models[key] = Models({reference: info}, device=Device("cpu"), budget=budget)
        return made.load(models[key])

    return loaded


def rows(annotate: Any, texts: Sequence[str]) -> list[dict[str, Any]]:
    answer = annotate.annotate(texts)
    assert answer.failures == {}
    found: list[dict[str, Any]] = answer.column.to_pylist()
    return found


def alone(annotate: Any, ids: Sequence[int], **how: Any) -> tuple[str, int]:
    """What transformers writes for one prompt without a batch: text, and tokens before the end."""
    module, tokenizer = annotate.writer.model.module, annotate.writer.model.tokenizer
    prompt = torch.tensor([list(ids)])
    with torch.inference_mode():
        out = module.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            num_beams=1,
            **{"max_new_tokens": NEW} | how,
        )[0].tolist()
    written = out[1:] if module.config.is_encoder_decoder else out[len(ids) :]
    if written[:1] == [how.get("forced_bos_token_id")]:
        written = written[1:]
    ends = set(module.generation_config.eos_token_id)
    count = next((at for at, token in enumerate(written) if token in ends), len(written))
    return tokenizer.decode(written[:count], skip_special_tokens=True).strip(), count


def check_parity(
    annotate: Any, texts: Sequence[str], prompt: Callable[[str], list[int]], **how: Any
) -> None:
    """Each row is what transformers writes for it alone; and rows differ, in length too."""
    found = rows(annotate, texts)
    for text, row in zip(texts, found, strict=True):
        expected = alone(annotate, prompt(text), **how)
        assert (row["text"], row["output_tokens"]) == expected
        assert (row["windows"], row["input_tokens"] > 0) == (1, True)
    assert len({row["text"] for row in found}) > len(texts) // 2
    assert len({row["output_tokens"] for row in found}) > 2


def test_bart_summarizes_each_text_as_alone(folders: Any, load: Load) -> None:
    own = {"num_beams": 4, "no_repeat_ngram_size": 3, "min_length": 4, "forced_bos_token_id": 5}
    reference = folders("bart", **own)
    annotate = load(reference, kind="summarize", method="abstractive", max_new_tokens=NEW)
    tokenizer = AutoTokenizer.from_pretrained(reference)
    check_parity(annotate, TEXTS, lambda text: tokenizer(text)["input_ids"], forced_bos_token_id=5)


def test_t5_summarizes_each_text_behind_its_prefix_as_alone(folders: Any, load: Load) -> None:
    reference = folders("t5")
    annotate = load(
        reference,
        kind="summarize",
        method="abstractive",
        instruction="summarize: ",
        max_new_tokens=NEW,
    )
    tokenizer = AutoTokenizer.from_pretrained(reference)
    check_parity(annotate, TEXTS, lambda text: tokenizer(f"summarize: {text}")["input_ids"])


def test_marian_translates_each_text_as_alone(folders: Any, load: Load) -> None:
    reference = folders("marian")
    annotate = load(reference, kind="translate", max_new_tokens=60)
    tokenizer = AutoTokenizer.from_pretrained(reference)
    check_parity(annotate, TEXTS, lambda text: tokenizer(text)["input_ids"], max_new_tokens=60)


def test_a_marian_of_several_languages_is_told_the_target_first(folders: Any, load: Load) -> None:
    reference = folders("marian", targets=("fra", "spa"))
    tokenizer = AutoTokenizer.from_pretrained(reference)
    spanish = load(reference, kind="translate", target="spa", max_new_tokens=60)
    check_parity(
        spanish, TEXTS, lambda text: tokenizer(f">>spa<< {text}")["input_ids"], max_new_tokens=60
    )
    french = load(reference, kind="translate", target="fra", max_new_tokens=60)
    assert rows(french, TEXTS) != rows(spanish, TEXTS)


@pytest.mark.parametrize(("source", "target"), [("eng_Latn", "deu_Latn"), ("fra_Latn", "zul_Latn")])
def test_nllb_translates_each_text_as_alone(
    folders: Any, load: Load, source: str, target: str
) -> None:
    reference = folders("nllb")
    annotate = load(reference, kind="translate", source=source, target=target, max_new_tokens=40)
    tokenizer = AutoTokenizer.from_pretrained(reference, src_lang=source)
    assert tokenizer("a")["input_ids"][0] == tokenizer.convert_tokens_to_ids(source)
    first = tokenizer.convert_tokens_to_ids(target)
    found = rows(annotate, LETTERS)
    for text, row in zip(LETTERS, found, strict=True):
        expected = alone(
            annotate, tokenizer(text)["input_ids"], forced_bos_token_id=first, max_new_tokens=40
        )
        assert (row["text"], row["output_tokens"]) == expected
    assert len({row["output_tokens"] for row in found}) > 2


def test_the_first_mbart_starts_to_write_from_the_target_language(folders: Any, load: Load) -> None:
    reference = folders("mbart")
    annotate = load(reference, kind="translate", source="fr", target="de_DE", max_new_tokens=40)
    tokenizer = AutoTokenizer.from_pretrained(reference, src_lang="fr_XX")
    assert tokenizer("a")["input_ids"][-1] == tokenizer.convert_tokens_to_ids("fr_XX")
    check_parity(
        annotate,
        LETTERS,
        lambda text: tokenizer(text)["input_ids"],
        decoder_start_token_id=tokenizer.convert_tokens_to_ids("de_DE"),
        max_new_tokens=40,
    )


def test_t5_translates_by_its_prefix_and_refuses_a_pair_it_was_not_trained_for(
    folders: Any, load: Load
) -> None:
    params = {"translation_en_to_de": {"prefix": "translate English to German: "}}
    reference = folders("t5", params=params)
    options = {"kind": "translate", "source": "English", "max_new_tokens": 60}
    annotate = load(reference, **options, target="German")
    tokenizer = AutoTokenizer.from_pretrained(reference)
    check_parity(
        annotate,
        TEXTS,
        lambda text: tokenizer(f"translate English to German: {text}")["input_ids"],
        max_new_tokens=60,
    )
    with pytest.raises(JobError, match="not trained to translate English to Welsh") as caught:
        load(reference, **options, target="Welsh")
    assert "English to German" in caught.value.mend


@pytest.mark.parametrize("chat", [False, True])
def test_a_decoder_answers_each_prompt_as_alone(folders: Any, load: Load, chat: bool) -> None:
    reference = folders("llama", chat=chat)
    told = {"instruction": "say it short", "system": "w5 w6"} if chat else {}
    annotate = load(reference, kind="generate", max_new_tokens=NEW, **told)
    tokenizer = AutoTokenizer.from_pretrained(reference)

    def prompt(text: str) -> list[int]:
        if not chat:
            return list(tokenizer(text)["input_ids"])
        messages = [
            {"role": "system", "content": "w5 w6"},
            {"role": "user", "content": f"{text}\n\nsay it short"},
        ]
        laid = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(laid, add_special_tokens=False)["input_ids"])

    check_parity(annotate, TEXTS, prompt)


def test_smollm2_answers_as_transformers_does_with_its_chat_template(load: Load) -> None:
    annotate = load("starter/smollm2", kind="generate", max_new_tokens=10)
    tokenizer = annotate.writer.model.tokenizer
    prompts = ["What is the capital of France?", "  Name a colour.\n", 'Say: {"a": 1}. Then stop.']
    for text, row in zip(prompts, rows(annotate, prompts), strict=True):
        messages = [{"role": "user", "content": text}]
        laid = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(laid, add_special_tokens=False)["input_ids"]
        module = annotate.writer.model.module
        with torch.inference_mode():
            out = module.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=10,
                do_sample=False,
            )[0]
        assert row["text"] == tokenizer.decode(out[len(ids) :], skip_special_tokens=True).strip()


SAMPLED = {"kind": "generate", "max_new_tokens": NEW, "temperature": 0.9, "top_p": 0.95}


def test_sampled_texts_do_not_depend_on_batch_order_or_neighbours(folders: Any, load: Load) -> None:
    reference = folders("llama")
    texts = [tiny.sentences(1 + i % 12, start=i) for i in range(40)]
    together = rows(load(reference, **SAMPLED), texts)
    small = rows(load(reference, budget=8, **SAMPLED), texts)
    back = rows(load(reference, **SAMPLED), texts[::-1])[::-1]
    single = [rows(load(reference, **SAMPLED), [text])[0] for text in texts[:8]]
    assert together == small == back
    assert together[:8] == single
    greedy = rows(load(reference, kind="generate", max_new_tokens=NEW), texts)
    assert sum(a["text"] != b["text"] for a, b in zip(together, greedy, strict=True)) > 30


def test_another_seed_gives_other_texts_and_the_same_seed_the_same(
    folders: Any, load: Load
) -> None:
    reference = folders("llama")
    first = rows(load(reference, **SAMPLED), TEXTS)
    assert first == rows(load(reference, **SAMPLED, seed=0), TEXTS)
    other = rows(load(reference, **SAMPLED, seed=1), TEXTS)
    assert sum(a["text"] != b["text"] for a, b in zip(first, other, strict=True)) > 6


def test_an_encoder_decoder_draws_by_row_too(folders: Any, load: Load) -> None:
    reference = folders("t5")
    together = rows(load(reference, **SAMPLED), TEXTS)
    assert together == rows(load(reference, **SAMPLED), TEXTS[::-1])[::-1]
    assert together == [rows(load(reference, **SAMPLED), [text])[0] for text in TEXTS]


def test_only_the_top_k_are_drawn(folders: Any, load: Load) -> None:
    reference = folders("llama")
    greedy = rows(load(reference, kind="generate", max_new_tokens=NEW), TEXTS)
    one = {"kind": "generate", "max_new_tokens": NEW, "temperature": 5.0, "top_k": 1}
    assert rows(load(reference, **one), TEXTS) == greedy


def test_a_stop_string_ends_the_text_and_the_writing(folders: Any, load: Load) -> None:
    reference = folders("llama")
    free = rows(load(reference, kind="generate", max_new_tokens=NEW), TEXTS)
    row = max(range(len(TEXTS)), key=lambda at: free[at]["output_tokens"])
    words = free[row]["text"].split()
    stop = f"{words[4]} {words[5]}"
    stopped = rows(load(reference, kind="generate", max_new_tokens=NEW, stop=[stop]), TEXTS)
    for before, after in zip(free, stopped, strict=True):
        assert after["text"] == before["text"].partition(stop)[0].strip()
        if stop not in before["text"]:
            assert after == before
    assert stopped[row]["output_tokens"] <= 6 < free[row]["output_tokens"]


def test_more_tokens_than_the_model_can_write_are_refused_when_it_is_loaded(
    folders: Any, load: Load
) -> None:
    with pytest.raises(JobError, match="writes at most 63") as caught:
        load(folders("bart"), kind="summarize", method="abstractive", max_new_tokens=64)
    assert "at most 63" in caught.value.mend
    with pytest.raises(JobError, match="leave no room") as caught:
        load(folders("llama"), kind="generate", max_new_tokens=128)
    assert "Lower max_new_tokens" in caught.value.mend
    load(folders("bart"), kind="summarize", method="abstractive", max_new_tokens=63)


@pytest.mark.parametrize("kind", ["MarianTokenizer", "M2M100Tokenizer"])
def test_tokenizer_json_serves_where_transformers_has_no_fast_class(
    load: Load, tmp_path: Path, kind: str
) -> None:
    tiny.marian(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    said = json.loads(config.read_text()) | {"tokenizer_class": kind}
    config.write_text(json.dumps(said))
    annotate = load(str(tmp_path), kind="translate", max_new_tokens=60)
    assert annotate.writer.model.tokenizer.is_fast
    (tmp_path / "tokenizer.json").rename(tmp_path / "source.spm")
    with pytest.raises(JobError, match="no fast tokenizer") as caught:
        Models({"m": look_up(str(tmp_path))}, device=Device("cpu")).get("m", head="seq2seq")
    assert "Marian" in caught.value.mend


# Long texts


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_text_of_a_hundred_thousand_tokens_is_summarized_without_leaving_anything_out(
    folders: Any, load: Load, family: str
) -> None:
    annotate = load(folders(family), kind="summarize", method="abstractive", max_new_tokens=8)
    short, long = rows(annotate, ["w1 w2.", tiny.sentences(25_000)])
    assert long["input_tokens"] == 100_000
    assert long["truncated"] is False
    assert long["windows"] > 100_000 / 64
    assert 0 < long["output_tokens"] <= 8
    assert (short["windows"], short["truncated"]) == (1, False)


def test_a_summary_of_summaries_is_what_its_steps_give_by_hand(folders: Any, load: Load) -> None:
    annotate = load(folders("t5"), kind="summarize", method="abstractive", max_new_tokens=8)
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


def test_summaries_that_get_no_shorter_come_to_an_end_and_say_so(folders: Any, load: Load) -> None:
    annotate = load(
        folders("bart", eos_token_id=[1]), kind="summarize", method="abstractive", max_new_tokens=62
    )
    (row,) = rows(annotate, [tiny.sentences(60)])
    assert row["windows"] < 40
    assert row["truncated"] is True


def test_truncate_leaves_out_the_end_and_says_so(folders: Any, load: Load) -> None:
    options = {"kind": "summarize", "method": "abstractive", "max_new_tokens": 8}
    annotate = load(folders("t5"), **options, merge="truncate")
    text = tiny.sentences(200)
    cut, first = rows(annotate, [text, " ".join(text.replace(".", " .").split()[:63])])
    assert (cut["truncated"], cut["windows"], cut["input_tokens"]) == (True, 1, 800)
    assert first["truncated"] is False
    assert cut["text"] == first["text"]


def test_a_long_text_is_translated_window_by_window_and_keeps_its_paragraphs(
    folders: Any, load: Load
) -> None:
    annotate = load(folders("marian"), kind="translate", max_new_tokens=60)
    # 10 sentences are 40 tokens, just what a window holds.
    parts = [tiny.sentences(10), tiny.sentences(10, start=40)]
    (row,) = rows(annotate, ["\n\n".join(parts)])
    expected = rows(annotate, parts)
    assert row["text"] == "\n\n".join(part["text"] for part in expected)
    assert row["windows"] == 2
    assert row["output_tokens"] == sum(part["output_tokens"] for part in expected)


def test_a_translation_that_was_not_finished_says_so(folders: Any, load: Load) -> None:
    reference = folders("marian")
    long = rows(load(reference, kind="translate", max_new_tokens=60), ["w1 w2 w3."])[0]
    assert long["truncated"] is False
    most = long["output_tokens"] - 1
    assert most > 4, "more tokens than the text has, or windows would be made"
    short = rows(load(reference, kind="translate", max_new_tokens=most), ["w1 w2 w3."])[0]
    assert short["truncated"] is True


def test_of_a_long_prompt_the_middle_is_left_out(folders: Any, load: Load) -> None:
    annotate = load(folders("llama"), kind="generate", max_new_tokens=28)
    room = 128 - 28
    words = [f"w{i % 120}" for i in range(500)]
    kept = [*words[: room // 2], *words[-(room // 2) :]]
    cut, whole = rows(annotate, [" ".join(words), " ".join(kept)])
    assert (cut["truncated"], whole["truncated"]) == (True, False)
    assert cut["text"] == whole["text"]
    assert (cut["input_tokens"], whole["input_tokens"]) == (500, 100)


# Languages


@pytest.mark.parametrize(
    ("family", "how", "options", "message", "mend"),
    [
        ("nllb", {}, {"source": "eng_Latn"}, "needs `target`", "ace_Arab"),
        ("nllb", {}, {"target": "eng_Latn"}, "needs `source`", "ace_Arab"),
        ("nllb", {}, {"source": "eng_Latn", "target": "tlh"}, "does not know", "and 194 more"),
        ("nllb", {}, {"source": "eng_Latn", "target": "zho"}, "several", "zho_Hans, zho_Hant"),
        ("mbart", {}, {"source": "en_XX", "target": "klingon"}, "does not know", "ar_AR"),
        ("marian", {"targets": ("fra", "spa")}, {"target": "deu"}, "does not know", "fra, spa"),
        ("marian", {"targets": ("fra", "spa")}, {}, "needs `target`", "fra, spa"),
        ("marian", {}, {"target": "deu"}, "one pair", "Remove target"),
        ("t5", {}, {"target": "German"}, "in words", "source and target"),
        ("llama", {"chat": True}, {}, "must be told the language", "German"),
    ],
)
def test_a_language_that_the_model_does_not_know_is_named_with_some_that_it_does(
    folders: Any, load: Load, family: str, how: Any, options: Any, message: str, mend: str
) -> None:
    with pytest.raises(JobError, match=message) as caught:
        load(folders(family, **how), kind="translate", **options)
    assert mend in caught.value.mend


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
    folders: Any, load: Load, temperature: float
) -> None:
    reference = folders("llama", letters=True, length=512)
    options = {"kind": "generate", "format": "json", "json_schema": OPINION}
    annotate = load(reference, **options, max_new_tokens=300, temperature=temperature)
    texts = ["A joy.", "Dull and long 🙂.", "x" * 40, "这部电影很精彩。"]
    found = rows(annotate, texts)
    for row in found:
        jsonschema.validate(json.loads(row["text"]), OPINION)
        assert json.loads(row["text"]) == row["value"]
    assert len({row["text"] for row in found}) > 1
    assert found == [rows(annotate, [text])[0] for text in texts]


def test_json_that_is_not_complete_in_time_is_a_row_error(folders: Any, load: Load) -> None:
    reference = folders("llama", letters=True, length=512)
    options = {"kind": "generate", "format": "json", "json_schema": OPINION}
    answer = load(reference, **options, max_new_tokens=12).annotate(["A joy.", "Dull."])
    assert {at: error.code for at, error in answer.failures.items()} == dict.fromkeys(
        (0, 1), "invalid_json"
    )
    assert answer.column.to_pylist() == [None, None]


def test_a_schema_that_can_not_be_followed_is_refused_when_the_model_is_loaded(
    folders: Any, load: Load
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)b"}}}
    options = {"kind": "generate", "format": "json", "json_schema": schema}
    with pytest.raises(JobError, match="can't be followed"):
        load(folders("llama", letters=True, length=512), **options)


def test_smollm2_fills_in_a_form(load: Load) -> None:
    annotate = load(
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


def test_a_writer_serves_other_tasks_with_greedy_answers(folders: Any, load: Load) -> None:
    model = load(folders("llama"), kind="generate", max_new_tokens=4).writer.model
    writer = Writer(model, plain_frame(model, after=" w5"), max_new_tokens=4)
    laid = writer.prompts.lay_out(["w1 w2", "w3"], long="end")
    assert [ids.tolist() for ids in laid.ids] == [[6, 7, 10], [8, 10]]
    written = writer.write(laid.ids)
    assert all(text is not None and len(text.ids) <= 4 for text in written.texts)
    assert writer.write([]).texts == []
    assert isinstance(laid.ids[0], np.ndarray)
