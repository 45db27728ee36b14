"""Writing with models: what `model.generate` writes for each row alone, whatever the batch."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_writers as tiny
import torch
from tiny_writers import rows
from transformers import AutoTokenizer

from pipeline.errors import JobError
from pipeline.models.decoding import Decoding
from pipeline.models.device import Device
from pipeline.models.resolve import look_up
from pipeline.models.text.prompts import Prompts, plain_frame
from pipeline.models.torch.grammar import GrammarMask
from pipeline.models.torch.load import TorchModels
from pipeline.models.torch.rules import Live
from pipeline.tasks.writing.text_writer import TextWriter

pytestmark = pytest.mark.integration

# From one word to as many as fit beside what is written.
LENGTHS = (1, 9, 2, 14, 5, 1, 12, 3)
TEXTS = [tiny.sentences(n, start=7 * n + i) for i, n in enumerate(LENGTHS)] + ["w7", "w8 w9"]
LETTERS = ["a b", "the film is long", "x", "loud and dull. so.", "a joy 7", "no", "w1 w2 w3."]
NEW = 20


def model_of(annotate: Any) -> Any:
    """The torch model behind a loaded task."""
    return annotate.writer.generator.model


def alone(annotate: Any, ids: Sequence[int], **how: Any) -> tuple[str, int]:
    """What transformers writes for one prompt without a batch: text, and tokens before the end."""
    module, tokenizer = model_of(annotate).module, model_of(annotate).text.tokenizer
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


def test_bart_summarizes_each_text_as_alone(tiny_models: Any, load_task: Any) -> None:
    own = {"num_beams": 4, "no_repeat_ngram_size": 3, "min_length": 4, "forced_bos_token_id": 5}
    reference = tiny_models("bart", **own)
    annotate = load_task(reference, kind="summarize", method="abstractive", max_new_tokens=NEW)
    tokenizer = AutoTokenizer.from_pretrained(reference)
    check_parity(annotate, TEXTS, lambda text: tokenizer(text)["input_ids"], forced_bos_token_id=5)


def test_t5_summarizes_each_text_behind_its_prefix_as_alone(
    tiny_models: Any, load_task: Any
) -> None:
    reference = tiny_models("t5")
    annotate = load_task(
        reference,
        kind="summarize",
        method="abstractive",
        instruction="summarize: ",
        max_new_tokens=NEW,
    )
    tokenizer = AutoTokenizer.from_pretrained(reference)
    check_parity(annotate, TEXTS, lambda text: tokenizer(f"summarize: {text}")["input_ids"])


def test_marian_translates_each_text_as_alone(tiny_models: Any, load_task: Any) -> None:
    reference = tiny_models("marian")
    annotate = load_task(reference, kind="translate", max_new_tokens=60)
    tokenizer = AutoTokenizer.from_pretrained(reference)
    check_parity(annotate, TEXTS, lambda text: tokenizer(text)["input_ids"], max_new_tokens=60)


def test_a_marian_of_several_languages_is_told_the_target_first(
    tiny_models: Any, load_task: Any
) -> None:
    reference = tiny_models("marian", targets=("fra", "spa"))
    tokenizer = AutoTokenizer.from_pretrained(reference)
    spanish = load_task(reference, kind="translate", target="spa", max_new_tokens=60)
    check_parity(
        spanish, TEXTS, lambda text: tokenizer(f">>spa<< {text}")["input_ids"], max_new_tokens=60
    )
    french = load_task(reference, kind="translate", target="fra", max_new_tokens=60)
    assert rows(french, TEXTS) != rows(spanish, TEXTS)


@pytest.mark.parametrize(("source", "target"), [("eng_Latn", "deu_Latn"), ("fra_Latn", "zul_Latn")])
def test_nllb_translates_each_text_as_alone(
    tiny_models: Any, load_task: Any, source: str, target: str
) -> None:
    reference = tiny_models("nllb")
    annotate = load_task(
        reference, kind="translate", source=source, target=target, max_new_tokens=40
    )
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


def test_the_first_mbart_starts_to_write_from_the_target_language(
    tiny_models: Any, load_task: Any
) -> None:
    reference = tiny_models("mbart")
    annotate = load_task(
        reference, kind="translate", source="fr", target="de_DE", max_new_tokens=40
    )
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
    tiny_models: Any, load_task: Any
) -> None:
    params = {"translation_en_to_de": {"prefix": "translate English to German: "}}
    reference = tiny_models("t5", params=params)
    options = {"kind": "translate", "source": "English", "max_new_tokens": 60}
    annotate = load_task(reference, **options, target="German")
    tokenizer = AutoTokenizer.from_pretrained(reference)
    check_parity(
        annotate,
        TEXTS,
        lambda text: tokenizer(f"translate English to German: {text}")["input_ids"],
        max_new_tokens=60,
    )
    with pytest.raises(JobError, match="not trained to translate English to Welsh") as caught:
        load_task(reference, **options, target="Welsh")
    assert "English to German" in caught.value.hint


@pytest.mark.parametrize("chat", [False, True])
def test_a_decoder_answers_each_prompt_as_alone(
    tiny_models: Any, load_task: Any, chat: bool
) -> None:
    reference = tiny_models("llama", chat=chat)
    told = {"instruction": "say it short", "system": "w5 w6"} if chat else {}
    annotate = load_task(reference, kind="generate", max_new_tokens=NEW, **told)
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


def test_what_a_models_own_config_says_of_drawing_and_repeating_is_kept_apart(
    tiny_models: Any, load_task: Any
) -> None:
    # As Qwen2.5 has it: draws by default, and a penalty that must not see padding.
    own = {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.3}
    reference = tiny_models("llama", own=own)
    annotate = load_task(reference, kind="generate", max_new_tokens=NEW)
    tokenizer = AutoTokenizer.from_pretrained(reference)
    check_parity(annotate, TEXTS, lambda text: tokenizer(text)["input_ids"])
    plain = load_task(tiny_models("llama"), kind="generate", max_new_tokens=NEW)
    assert rows(plain, TEXTS) != rows(annotate, TEXTS)


def test_smollm2_answers_as_transformers_does_with_its_chat_template(load_task: Any) -> None:
    annotate = load_task("starter/smollm2", kind="generate", max_new_tokens=10)
    tokenizer = model_of(annotate).text.tokenizer
    prompts = ["What is the capital of France?", "  Name a colour.\n", 'Say: {"a": 1}. Then stop.']
    for text, row in zip(prompts, rows(annotate, prompts), strict=True):
        messages = [{"role": "user", "content": text}]
        laid = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(laid, add_special_tokens=False)["input_ids"]
        module = model_of(annotate).module
        with torch.inference_mode():
            out = module.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=10,
                do_sample=False,
            )[0]
        assert row["text"] == tokenizer.decode(out[len(ids) :], skip_special_tokens=True).strip()


SAMPLED = {"kind": "generate", "max_new_tokens": NEW, "temperature": 0.9, "top_p": 0.95}


def test_where_json_can_begin_in_one_way_alone_it_is_written_in_the_tokenizers_own_tokens(
    load_task: Any,
) -> None:
    annotate = load_task(
        "starter/smollm2",
        kind="generate",
        max_new_tokens=10,
        format="json",
        json_schema={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    )
    tokens = model_of(annotate).text.tokens
    (shorter,), (own,) = tokens.ids("{"), tokens.ids('{"')
    scores = torch.zeros((1, model_of(annotate).module.config.vocab_size))
    scores[0, shorter] = 9.0
    live = Live(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), np.zeros((1, 10), int))
    held = GrammarMask(annotate.writer.decoding.grammar)(live, scores)
    assert held[0].isfinite().nonzero().flatten().tolist() == [own]


def test_sampled_texts_do_not_depend_on_batch_order_or_neighbours(
    tiny_models: Any, load_task: Any
) -> None:
    reference = tiny_models("llama")
    texts = [tiny.sentences(1 + i % 12, start=i) for i in range(40)]
    together = rows(load_task(reference, **SAMPLED), texts)
    small = rows(load_task(reference, budget=8, **SAMPLED), texts)
    back = rows(load_task(reference, **SAMPLED), texts[::-1])[::-1]
    single = [rows(load_task(reference, **SAMPLED), [text])[0] for text in texts[:8]]
    assert together == small == back
    assert together[:8] == single
    greedy = rows(load_task(reference, kind="generate", max_new_tokens=NEW), texts)
    assert sum(a["text"] != b["text"] for a, b in zip(together, greedy, strict=True)) > 30


def test_another_seed_gives_other_texts_and_the_same_seed_the_same(
    tiny_models: Any, load_task: Any
) -> None:
    reference = tiny_models("llama")
    first = rows(load_task(reference, **SAMPLED), TEXTS)
    assert first == rows(load_task(reference, **SAMPLED, seed=0), TEXTS)
    other = rows(load_task(reference, **SAMPLED, seed=1), TEXTS)
    assert sum(a["text"] != b["text"] for a, b in zip(first, other, strict=True)) > 6


def test_an_encoder_decoder_draws_by_row_too(tiny_models: Any, load_task: Any) -> None:
    reference = tiny_models("t5")
    together = rows(load_task(reference, **SAMPLED), TEXTS)
    assert together == rows(load_task(reference, **SAMPLED), TEXTS[::-1])[::-1]
    assert together == [rows(load_task(reference, **SAMPLED), [text])[0] for text in TEXTS]


def test_only_the_top_k_are_drawn(tiny_models: Any, load_task: Any) -> None:
    reference = tiny_models("llama")
    greedy = rows(load_task(reference, kind="generate", max_new_tokens=NEW), TEXTS)
    one = {"kind": "generate", "max_new_tokens": NEW, "temperature": 5.0, "top_k": 1}
    assert rows(load_task(reference, **one), TEXTS) == greedy


def test_a_stop_string_ends_the_text_and_the_writing(tiny_models: Any, load_task: Any) -> None:
    reference = tiny_models("llama")
    free = rows(load_task(reference, kind="generate", max_new_tokens=NEW), TEXTS)
    row = max(range(len(TEXTS)), key=lambda at: free[at]["output_tokens"])
    words = free[row]["text"].split()
    stop = f"{words[4]} {words[5]}"
    stopped = rows(load_task(reference, kind="generate", max_new_tokens=NEW, stop=[stop]), TEXTS)
    for before, after in zip(free, stopped, strict=True):
        assert after["text"] == before["text"].partition(stop)[0].strip()
        if stop not in before["text"]:
            assert after == before
    assert stopped[row]["output_tokens"] <= 6 < free[row]["output_tokens"]


def test_more_tokens_than_the_model_can_write_are_refused_when_it_is_loaded(
    tiny_models: Any, load_task: Any
) -> None:
    with pytest.raises(JobError, match="writes at most 63") as caught:
        load_task(tiny_models("bart"), kind="summarize", method="abstractive", max_new_tokens=64)
    assert "at most 63" in caught.value.hint
    with pytest.raises(JobError, match="leave no room") as caught:
        load_task(tiny_models("llama"), kind="generate", max_new_tokens=128)
    assert "Lower max_new_tokens" in caught.value.hint
    load_task(tiny_models("bart"), kind="summarize", method="abstractive", max_new_tokens=63)


def test_each_step_of_writing_is_a_sign_of_life(tiny_models: Any, load_task: Any) -> None:
    # A budget of so few tokens that three rows at most are written at once.
    annotate = load_task(tiny_models("llama"), budget=16, kind="generate", max_new_tokens=NEW)
    heard: list[float] = []
    with model_of(annotate).device.reporting(heard.append):
        found = rows(annotate, TEXTS)
    assert len(heard) > 2 * max(row["output_tokens"] for row in found)
    assert heard == sorted(heard), "it never goes back"
    assert heard[0] > 0
    assert heard[-1] == 1.0


@pytest.mark.parametrize("kind", ["MarianTokenizer", "M2M100Tokenizer"])
def test_tokenizer_json_serves_where_transformers_has_no_fast_class(
    load_task: Any, tmp_path: Path, kind: str
) -> None:
    tiny.marian(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    said = json.loads(config.read_text()) | {"tokenizer_class": kind}
    config.write_text(json.dumps(said))
    annotate = load_task(str(tmp_path), kind="translate", max_new_tokens=60)
    assert model_of(annotate).text.tokenizer.is_fast
    (tmp_path / "tokenizer.json").rename(tmp_path / "source.spm")
    with pytest.raises(JobError, match=r"no tokenizer\.json, and from source\.spm") as caught:
        TorchModels({"m": look_up(str(tmp_path))}, device=Device("cpu")).get("m", head="seq2seq")
    assert "Marian" in caught.value.hint


# Languages


@pytest.mark.parametrize(
    ("family", "how", "options", "message", "hint"),
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
    tiny_models: Any, load_task: Any, family: str, how: Any, options: Any, message: str, hint: str
) -> None:
    with pytest.raises(JobError, match=message) as caught:
        load_task(tiny_models(family, **how), kind="translate", **options)
    assert hint in caught.value.hint


def test_a_writer_serves_other_tasks_with_greedy_answers(tiny_models: Any, load_task: Any) -> None:
    held = load_task(tiny_models("llama"), kind="generate", max_new_tokens=4).writer.generator
    writer = TextWriter(held, plain_frame(held.text, after=" w5"), Decoding(4))
    prompts = writer.maker.lay_out(["w1 w2", "w3"], long="end")
    assert [ids.tolist() for ids in prompts.ids] == [[6, 7, 10], [8, 10]]
    written = writer.write(prompts)
    assert all(one is not None and len(one.ids) <= 4 for one in written.results)
    assert writer.write(Prompts()).results == []
    assert isinstance(prompts.ids[0], np.ndarray)
