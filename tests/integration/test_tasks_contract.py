"""What every task keeps to, whatever it annotates: a row out per row in, of the declared type."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
import tiny_writers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pipeline.cli.render import TEXT_WIDTH, brief
from pipeline.models.device import Device
from pipeline.models.resolve import look_up
from pipeline.models.torch.load import TorchModels
from pipeline.tasks import TASKS

pytestmark = pytest.mark.integration

TEXTS = [
    "A wonderful film. I would see it again. The cast is great. The ending less so.",
    "Dull.",
    "My name is Anna Schmidt and I live at 12 Baker Street, London. Call me on (555) 123-4567.",
    "🙂👩‍👩‍👧‍👦🇩🇪 emoji only 🏳️‍🌈. And more 🙂. And yet more 🙂🙂. Enough.",
    "这部电影很精彩。我会再看一遍。演员很好。结尾稍差。李小龙住在香港。",
    "هذا الفيلم رائع. سأشاهده مرة أخرى. الممثلون جيدون. النهاية أقل.",
    "e\u0301te\u0301 \ufeff zero\u200bwidth\u00a0space. \u202eright to left\u202c. \x00. \ud7ff.",
    "x" * 3_000,
    "one\n\ntwo\r\nthree\ttabs   spaces . . . ! ? ; four. five. six. seven.",
    "\u200b",
]
CASES = {
    f"{kind}-{example.name}".rstrip("-"): (kind, example)
    for kind, task in TASKS.items()
    for example in task.examples
}


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random sequence-to-sequence model of some kilobytes."""
    folder = tmp_path_factory.mktemp("t5")
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    for text in TEXTS:
        for word in text.split():
            vocabulary.setdefault(word, len(vocabulary))
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(vocabulary),
        d_model=32,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        initializer_factor=5.0,
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


Load = Callable[..., tuple[Any, Any]]
HEADS = {
    "some/nli": ("ForSequenceClassification", ("contradiction", "entailment")),
    "some/question-answering": ("ForQuestionAnswering", ()),
    # Of 200 pages a model's own size says nothing; these have the heads of the starter models.
    "BertForSequenceClassification": ("ForSequenceClassification", ("negative", "positive")),
    "BertForTokenClassification": (
        "ForTokenClassification",
        ("O", "B-SURNAME", "I-SURNAME", "PHONE"),
    ),
    "BertModel": ("Model", ()),
}


@pytest.fixture(scope="module")
def tiny(tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models, by the kind that an example asks for."""
    folder = tmp_path_factory.mktemp
    made = {name: folder("tiny") for name in HEADS}
    for name, (head, labels) in HEADS.items():
        tiny_encoders.bert(made[name], head, labels=labels, length=64)
    return made | {
        "some/sequence-to-sequence": tiny_t5,
        "some/chat": tiny_encoders.decoder(folder("chat")),
        # A byte a token.
        "some/decoder": tiny_writers.llama(folder("letters"), letters=True, length=512),
    }


@pytest.fixture(scope="module")
def load(tiny: dict[str, Path]) -> Load:
    """A case's task, and the same loaded, on a small model if asked; each is loaded once."""
    held: dict[tuple[str, bool], tuple[Any, Any]] = {}

    def loaded(case: str, *, small: bool = False) -> tuple[Any, Any]:
        if (case, small) not in held:
            name, example = CASES[case]
            reference = str(tiny.get(example.model, example.model))
            info = look_up(reference)
            if small and example.model not in tiny:
                reference = str(tiny[info.architectures[0]])
                info = look_up(reference)
            kind = TASKS[name]
            options = {**example.options, "kind": name, "model": reference}
            task = kind(kind.Options.model_validate(options))
            task.bind(info)
            task.check_model(info)
            held[case, small] = (
                task,
                task.load(TorchModels({reference: info}, device=Device("cpu"))),
            )
        return held[case, small]

    return loaded


def texts_of(case: str) -> list[str]:
    return [*TEXTS, *CASES[case][1].texts]


def same(left: Any, right: Any) -> bool:
    """Equal, with scores within 1e-4."""
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) <= 1e-4
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def test_every_example_tells_itself_from_the_others_of_its_kind() -> None:
    assert len(CASES) == sum(len(task.examples) for task in TASKS.values())
    assert set(TASKS) <= set(CASES), "the first example of a kind has no name"


@pytest.mark.parametrize("case", CASES)
def test_a_row_comes_out_per_row_in_of_the_declared_type(load: Load, case: str) -> None:
    task, annotate = load(case)
    texts = texts_of(case)
    answer = annotate.annotate(texts)
    assert len(answer.column) == len(texts)
    assert answer.column.type == task.output_type()
    assert answer.failures == {}
    assert answer.column.null_count == 0
    # What is written counts as tokens too, beside what is read.
    assert 0 < answer.tokens <= answer.padded_tokens or task.writes
    answer.column.validate(full=True)


@pytest.mark.parametrize("case", CASES)
def test_a_batch_of_many_equals_batches_of_one(load: Load, case: str) -> None:
    _, annotate = load(case)
    together = annotate.annotate(texts_of(case)).column.to_pylist()
    for text, got in zip(texts_of(case), together, strict=True):
        (alone,) = annotate.annotate([text]).column.to_pylist()
        assert same(got, alone), (got, alone)


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_texts_does_not_change_their_annotations(load: Load, case: str) -> None:
    _, annotate = load(case)
    forth = annotate.annotate(texts_of(case)).column.to_pylist()
    back = annotate.annotate(texts_of(case)[::-1]).column.to_pylist()
    assert same(forth, back[::-1])


@pytest.mark.parametrize("case", CASES)
def test_no_texts_give_an_empty_column_of_the_declared_type(load: Load, case: str) -> None:
    task, annotate = load(case)
    answer = annotate.annotate([])
    assert len(answer.column) == 0
    assert answer.column.type == task.output_type()


@pytest.mark.parametrize("case", CASES)
def test_a_very_long_text_is_annotated_whole_or_says_that_it_was_cut(load: Load, case: str) -> None:
    _, annotate = load(case, small=True)
    words = " ".join(TEXTS[:3]).split()
    # 200 pages for one case of each kind.
    count = 100_000 if case in TASKS else 5_000
    text = " ".join((words * (count // len(words) + 1))[:count])
    answer = annotate.annotate(["Short. One.", text, "Dull."])
    assert answer.failures == {}
    short, long, _ = answer.column.to_pylist()
    assert short is not None
    assert answer.tokens > count or long["truncated"] is True
    if isinstance(long, dict) and "input_tokens" in long:
        assert long["input_tokens"] >= count
        assert long["truncated"] or long["windows"] > count / 1_000
    for span in spans_of(long):
        assert text[span["start"] : span["end"]] == span["text"]


def test_entities_are_found_to_the_end_of_a_very_long_text(load: Load) -> None:
    _, annotate = load("ner", small=True)
    text = " ".join(" ".join(TEXTS[:3]).split() * 200)
    (entities,) = annotate.annotate([text]).column.to_pylist()
    assert max(entity["end"] for entity in entities) > len(text) * 0.95


@pytest.mark.parametrize("case", CASES)
def test_options_come_back_from_what_is_written_of_them(load: Load, case: str) -> None:
    task, _ = load(case)
    options = task.options
    for mode in ("python", "json"):
        assert type(options).model_validate(options.model_dump(mode=mode)) == options
    assert type(options).model_validate_json(options.model_dump_json()) == options
    assert "model" not in task.dump()


def spans_of(value: Any) -> list[dict[str, Any]]:
    """What of an annotation says where it stands in the text."""
    parts = value if isinstance(value, list) else [value]
    placed = [part for part in parts if isinstance(part, dict) and {"text", "start"} <= part.keys()]
    return [part for part in placed if part["start"] is not None]


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_to_stand_in_a_text_stands_there_in_any_script(load: Load, case: str) -> None:
    _, annotate = load(case)
    texts = texts_of(case)
    for text, found in zip(texts, annotate.annotate(texts).column.to_pylist(), strict=True):
        for span in spans_of(found):
            assert text[span["start"] : span["end"]] == span["text"] != ""
            assert span["score"] <= 1


@pytest.mark.parametrize("case", CASES)
def test_an_annotation_is_shown_in_a_few_short_lines(load: Load, case: str) -> None:
    _, annotate = load(case)
    for value in annotate.annotate(texts_of(case)).column.to_pylist():
        lines = brief(value).splitlines()
        assert 0 < len(lines) <= 7
        assert max(map(len, lines)) < TEXT_WIDTH + 80


def test_extracted_sentences_are_the_texts_own_in_their_order(load: Load) -> None:
    _, annotate = load("summarize")
    rows = annotate.annotate(TEXTS[:3]).column.to_pylist()
    assert rows[1]["text"] == "Dull."
    assert rows[1]["windows"] == 0
    first, second = rows[0]["text"].split(". ", 1)
    assert 0 <= TEXTS[0].index(first) < TEXTS[0].index(second)
    assert 0 < rows[0]["output_tokens"] < rows[0]["input_tokens"]


def test_a_small_t5_writes_what_it_writes_for_each_text_alone(load: Load) -> None:
    _, annotate = load("summarize-abstractive")
    held = annotate.writer.generator.model
    tokenizer, module = held.text.tokenizer, held.module
    rows = annotate.annotate(TEXTS).column.to_pylist()
    for text, row in zip(TEXTS, rows, strict=True):
        inputs = tokenizer(text, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            written = module.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=8,
                do_sample=False,
            )[0]
        assert row["text"] == tokenizer.decode(written, skip_special_tokens=True).strip()
        assert row["input_tokens"] == len(text.split())
    assert len({row["text"] for row in rows}) > 1, "it does look at the text"


def test_a_chat_model_writes_greedily_what_it_writes_for_each_text_alone() -> None:
    reference = "starter/smollm2"
    kind = TASKS["summarize"]
    options = kind.Options.model_validate(
        {"kind": "summarize", "model": reference, "method": "abstractive", "max_new_tokens": 16}
    )
    held = TorchModels({reference: look_up(reference)}, device=Device("cpu"))
    annotate = kind(options).load(held)
    texts = [
        "The film is long, loud and dull, and I left before it ended.",
        "A joy. My children laughed all the way through and want to see it again tomorrow.",
    ]
    answer = annotate.annotate(texts)
    held = annotate.writer.generator.model
    tokenizer, module = held.text.tokenizer, held.module
    for text, row in zip(texts, answer.column.to_pylist(), strict=True):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{text}\n\n{_instruction()}"}],
            tokenize=False,
            add_generation_prompt=True,
        )
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            out = module.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=16,
                do_sample=False,
            )[0]
        written = tokenizer.decode(out[ids.shape[1] :], skip_special_tokens=True).strip()
        assert row["text"] == written != ""
        assert 0 < row["output_tokens"] <= 16
        assert row["truncated"] is (int(out[-1]) != tokenizer.eos_token_id)


def _instruction() -> str:
    from pipeline.tasks.writing.summarize import INSTRUCTION

    return INSTRUCTION
