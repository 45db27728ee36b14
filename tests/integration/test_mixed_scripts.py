"""Offsets count characters of the text as it came, whatever it is written in: 1,000 texts each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.device import Device
from pipeline.models.resolve import look_up
from pipeline.models.torch.load import TorchModels
from pipeline.starter.reviews import load_reviews
from pipeline.tasks import TASKS

pytestmark = pytest.mark.integration

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
PIECES = [
    *("Anna Schmidt", "İstanbul", "ﬁancé", "STRASSE", "ß", "12-34", "a.b@c.de", "don't", "##ing"),
    *("🙂", "👩‍👩‍👧‍👦", "🇩🇪", "🏳️‍🌈", "👍🏽", "e\u0301", "n\u0303", "Z͑ͫ̓ͪ̂ͫ̽", "\u0301"),
    *("李小龙", "東京タワー", "서울", "हिन्दी", "ไทย", "שלום", "مرحبا", "Привет", "ǅ"),
    *("\x00", "\u200b", "\u200d", "\ufeff", "\u202e", "\u202c", "\u00a0", "\u3000", "\x85"),
    *(
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        ".",
        ",",
        "-",
        "[SEP]",
        "[CLS]",
        "[UNK]",
        "</s>",
        "\U0001d518\U0001d52b",  # Fraktur letters
        "\U0001f9ff",
    ),
]
LETTERS = st.characters(exclude_categories=["Cs", "Co"])
PARTS = st.one_of(st.sampled_from(PIECES), st.text(LETTERS, max_size=4))
TEXTS = (
    st.lists(PARTS, min_size=1, max_size=14)
    .map("".join)
    .filter(lambda text: bool(text) and not text.isspace())
)
# 25 examples of 40 texts: 1,000, in batches as a job has them.
BATCHES = st.lists(TEXTS, min_size=40, max_size=40)
thousand_texts = settings(max_examples=25, deadline=None, derandomize=True, database=None)
Load = Callable[..., Any]


@pytest.fixture(scope="module", params=["wordpiece", "bytes"])
def load(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Loads tasks on random models of words without case and accents, or of bytes."""
    folders: dict[str, Path] = {}

    def loaded(kind: str, head: str, **options: Any) -> Any:
        if head not in folders:
            folder = tmp_path_factory.mktemp(head)
            labels = LABELS if head == "ForTokenClassification" else ()
            if request.param == "wordpiece":
                tiny_encoders.bert(folder, head, labels=labels, length=48)
            else:
                texts = [item.text for item in load_reviews().dev[:200]]
                tiny_encoders.roberta(folder, head, [*texts, *PIECES], labels=labels)
            folders[head] = folder
        name = str(folders[head])
        task = TASKS[kind]
        made = task(task.Options(kind=kind, model=name, **options))
        return made.load(TorchModels({name: look_up(name)}, device=Device("cpu")))

    return loaded


@pytest.mark.parametrize("aggregation", ["none", "simple", "first", "average", "max"])
def test_an_entity_is_the_text_between_its_offsets(load: Load, aggregation: str) -> None:
    ner = load("ner", "ForTokenClassification", aggregation=aggregation)
    found = 0

    @thousand_texts
    @given(BATCHES)
    def check(texts: list[str]) -> None:
        nonlocal found
        answer = ner.annotate(texts)
        assert answer.failures == {}
        for text, entities in zip(texts, answer.column.to_pylist(), strict=True):
            for entity in entities:
                assert 0 <= entity["start"] <= entity["end"] <= len(text)
                assert text[entity["start"] : entity["end"]] == entity["text"]
                found += 1

    check()
    assert found > 500


@pytest.mark.parametrize("null_answers", [False, True])
def test_an_answer_is_the_text_between_its_offsets(load: Load, null_answers: bool) -> None:
    options = {"null_answers": True} if null_answers else {}
    answers = load("answer", "ForQuestionAnswering", question="Who?", **options)
    found = 0

    @thousand_texts
    @given(BATCHES)
    def check(texts: list[str]) -> None:
        nonlocal found
        answer = answers.annotate(texts)
        assert answer.failures == {}
        for text, row in zip(texts, answer.column.to_pylist(), strict=True):
            if row["text"] is None:
                assert (row["start"], row["end"]) == (None, None)
                continue
            assert 0 <= row["start"] <= row["end"] <= len(text)
            assert text[row["start"] : row["end"]] == row["text"]
            found += 1

    check()
    assert found > 500


def test_redact_leaves_all_that_is_no_entity_as_it_was(load: Load) -> None:
    options = {"aggregation": "first"}
    ner = load("ner", "ForTokenClassification", **options)
    mark = "\ue000"  # of no text
    redact = load(
        "redact", "ForTokenClassification", labels=["PER", "MISC"], replace_with=mark, **options
    )
    masked = 0

    @thousand_texts
    @given(BATCHES)
    def check(texts: list[str]) -> None:
        nonlocal masked
        entities = ner.annotate(texts).column.to_pylist()
        rows = redact.annotate(texts).column.to_pylist()
        for text, found, row in zip(texts, entities, rows, strict=True):
            hidden = {
                at
                for e in found
                if e["label"] in ("PER", "MISC")
                for at in range(e["start"], e["end"])
            }
            rest = "".join(letter for at, letter in enumerate(text) if at not in hidden)
            assert row["text"].replace(mark, "") == rest
            assert row["text"].count(mark) == row["spans"]
            masked += row["spans"]

    check()
    assert masked > 500
