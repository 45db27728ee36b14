"""Annotations equal those of Hugging Face's own pipelines on the same weights, by every engine."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import transformers
from onnx_export import exported
from tiny_encoders import byte_level_tokenizer

from pipeline.models.device import Device
from pipeline.models.engines import ENGINES
from pipeline.models.heads import Models
from pipeline.models.resolve import look_up
from pipeline.models.text.windows import cut
from pipeline.starter import catalog
from pipeline.starter.samples import write_reviews
from pipeline.tasks import TASKS

pytestmark = [
    pytest.mark.integration,
    # The pipeline's own remark on tokenizers without word marks, and on running on a CPU.
    pytest.mark.filterwarnings("ignore:Tokenizer does not support real words"),
]

STRATEGIES = ("none", "simple", "first", "average", "max")
# What becomes of a model's scores does not depend on the engine.
BY_ENGINE = [*(("torch", strategy) for strategy in STRATEGIES), ("onnxruntime", "first")]
PERSONAL = [
    "My name is Anna Schmidt and I live at 12 Baker Street, London.",
    "Call me on (555) 123-4567 or write to anna.schmidt@example.com!",
    "Nothing personal here.",
    "Passport X1234567, SSN 078-05-1120, see https://example.com/a?b=c.",
    "  Dr.  Müller-Lüdenscheidt 🙂 met O'Brien\tand 李小龍 in São Paulo\n on 3/4/1999 ",
    "IBAN DE89 3704 0044 0532 0130 00; card 4111 1111 1111 1111; PIN 0000",
    "x",
]
Load = Callable[..., Any]


@pytest.fixture(scope="module")
def device() -> Device:
    return Device("cpu")


@pytest.fixture(scope="module", params=ENGINES)
def load(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, device: Device
) -> Load:
    """Loads a task; models are shared, as a worker shares them."""
    engine = ENGINES[request.param]
    held: dict[str, Models] = {}
    folders: dict[str, str] = {}

    def its_own(kind: str, model: str) -> str:
        """The same model, as the engine takes it."""
        if request.param == "torch":
            return model
        if model not in folders:
            folder = catalog.folder(model) if model in catalog.STARTERS else Path(model)
            made = tmp_path_factory.mktemp("exported") / "model"
            folders[model] = str(exported(folder, made, kind=kind))
        return folders[model]

    def loaded(kind: str, model: str, **options: Any) -> Any:
        name = its_own(kind, model)
        if name not in held:
            held[name] = engine.open({name: look_up(name, weights=engine.weights)}, device=device)
        task = TASKS[kind]
        return task(task.Options(kind=kind, model=name, **options)).load(held[name])

    return loaded


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("reviews")
    files = write_reviews(folder, rows=500, shards=2)
    return [text for file in files for text in pq.read_table(file)["text"].to_pylist()]


@pytest.fixture(scope="module")
def fitting(reviews: list[str]) -> list[str]:
    """300 real reviews that each starter takes whole; few of them long, for the time it takes."""
    tokenizers = [
        transformers.AutoTokenizer.from_pretrained(catalog.folder(name))
        for name in ("starter/sentiment", "starter/pii")
    ]
    lengths = [max(len(t(text)["input_ids"]) for t in tokenizers) for text in reviews]
    sized = list(zip(reviews, lengths, strict=True))
    short = [text for text, length in sized if length <= 128]
    long = [text for text, length in sized if 128 < length <= 512]
    assert len(short) >= 285
    assert len(long) >= 15
    return short[:285] + long[:15]


def reference(task: str, folder: Path | str) -> Any:
    return transformers.pipeline(task, model=str(folder), device="cpu", dtype=torch.float32)


def check_classes(got: Sequence[dict[str, Any]], expected: Sequence[list[dict[str, Any]]]) -> None:
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine["label"] == theirs[0]["label"]
        assert mine["score"] == pytest.approx(theirs[0]["score"], abs=1e-4)
        scores = {one["label"]: one["score"] for one in mine["scores"]}
        assert scores == pytest.approx({one["label"]: one["score"] for one in theirs}, abs=1e-4)
        assert [one["score"] for one in mine["scores"]] == sorted(scores.values(), reverse=True)


def check_spans(
    texts: Sequence[str],
    got: Sequence[list[dict[str, Any]]],
    expected: Sequence[list[dict[str, Any]]],
) -> int:
    """How many spans there were, all alike."""
    assert len(got) == len(expected) == len(texts)
    found = 0
    for text, mine, theirs in zip(texts, got, expected, strict=True):
        label = "entity" if theirs and "entity" in theirs[0] else "entity_group"
        assert [(e["label"], e["start"], e["end"]) for e in mine] == [
            (e[label], e["start"], e["end"]) for e in theirs
        ], text
        assert [e["score"] for e in mine] == pytest.approx(
            [float(e["score"]) for e in theirs], abs=1e-4
        )
        assert all(text[e["start"] : e["end"]] == e["text"] for e in mine)
        found += len(mine)
    return found


@pytest.fixture(scope="module")
def ranked(fitting: list[str]) -> Any:
    """The pipeline's own labels and scores, made once for all engines."""
    pipe = reference("text-classification", catalog.folder("starter/sentiment"))
    return pipe(fitting, top_k=None)


def test_classify_gives_the_labels_and_scores_of_the_pipeline(
    load: Load, fitting: list[str], ranked: Any
) -> None:
    answer = load("classify", "starter/sentiment").annotate(fitting)
    assert answer.failures == {}
    check_classes(answer.column.to_pylist(), ranked)
    assert len({row["label"] for row in answer.column.to_pylist()}) == 2


@pytest.fixture(scope="module")
def pii() -> Any:
    return reference("token-classification", catalog.folder("starter/pii"))


@pytest.fixture(scope="module")
def pii_outputs(pii: Any, fitting: list[str]) -> list[Any]:
    """The pipeline's own predictions, made once: strategies differ in what follows them."""
    return [
        pii.forward(inputs)
        for text in [*fitting, *PERSONAL]
        for inputs in pii.preprocess(text, is_split_into_words=False)
    ]


@pytest.mark.parametrize(("load", "strategy"), BY_ENGINE, indirect=["load"])
def test_ner_gives_the_spans_of_the_pipeline(
    load: Load, pii: Any, pii_outputs: list[Any], fitting: list[str], strategy: str
) -> None:
    texts = [*fitting, *PERSONAL]
    answer = load("ner", "starter/pii", aggregation=strategy).annotate(texts)
    how = transformers.pipelines.token_classification.AggregationStrategy(strategy)
    expected = [pii.postprocess([dict(out)], aggregation_strategy=how) for out in pii_outputs]
    assert answer.failures == {}
    assert check_spans(texts, answer.column.to_pylist(), expected) > 50


def test_ner_gives_what_a_call_of_the_pipeline_gives(load: Load, pii: Any) -> None:
    answer = load("ner", "starter/pii", aggregation="first").annotate(PERSONAL)
    expected = [pii(text, aggregation_strategy="first") for text in PERSONAL]
    assert check_spans(PERSONAL, answer.column.to_pylist(), expected) > 5


LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")


@pytest.fixture(scope="module", params=[True, False], ids=["trimmed", "with-spaces"])
def roberta(
    request: pytest.FixtureRequest, reviews: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny random RoBERTa with byte-level BPE, whose tokens do not mark continuations."""
    folder = tmp_path_factory.mktemp("roberta")
    tokenizer = byte_level_tokenizer(reviews, length=510, trim_offsets=request.param)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=600,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
        pad_token_id=1,
        initializer_range=0.5,  # so that predictions are mixed and sure
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    transformers.RobertaForTokenClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("load", "strategy"), BY_ENGINE, indirect=["load"])
def test_ner_follows_the_pipelines_word_rule_for_byte_level_tokens(
    load: Load, roberta: Path, fitting: list[str], strategy: str
) -> None:
    texts = [text for text in fitting if len(text) < 300][:60] + PERSONAL
    answer = load("ner", str(roberta), aggregation=strategy).annotate(texts)
    pipe = reference("token-classification", roberta)
    expected = [pipe(text, aggregation_strategy=strategy) for text in texts]
    assert check_spans(texts, answer.column.to_pylist(), expected) > 100


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None, int], Path]:
    """Makes tiny random classifiers for a ``problem_type``."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(catalog.folder("starter/minilm"))

    def make(problem: str | None, labels: int) -> Path:
        folder = tmp_path_factory.mktemp("classifier")
        torch.manual_seed(1)
        config = transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            initializer_range=0.3,
            problem_type=problem,
            num_labels=labels,
        )
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize(
    ("problem", "labels", "adds_up"),
    [
        ("multi_label_classification", 5, False),
        ("single_label_classification", 5, True),
        (None, 5, True),
        (None, 1, False),
        ("regression", 1, False),
    ],
)
def test_classify_applies_what_the_pipeline_applies_to_the_logits(
    load: Load,
    classifier: Callable[[str | None, int], Path],
    fitting: list[str],
    problem: str | None,
    labels: int,
    *,
    adds_up: bool,
) -> None:
    folder = classifier(problem, labels)
    texts = fitting[:40]
    answer = load("classify", str(folder)).annotate(texts)
    expected = reference("text-classification", folder)(texts, top_k=None)
    check_classes(answer.column.to_pylist(), expected)
    totals = [sum(one["score"] for one in row["scores"]) for row in answer.column.to_pylist()]
    assert all((abs(total - 1) < 1e-4) == adds_up for total in totals)


@pytest.mark.parametrize("top_k", [1, 3, 50])
def test_classify_keeps_as_many_scores_as_asked(
    load: Load, classifier: Callable[[str | None, int], Path], fitting: list[str], top_k: int
) -> None:
    folder = classifier(None, 5)
    rows = load("classify", str(folder), top_k=top_k).annotate(fitting[:10]).column.to_pylist()
    expected = reference("text-classification", folder)(fitting[:10], top_k=top_k)
    for mine, theirs in zip(rows, expected, strict=True):
        assert [one["label"] for one in mine["scores"]] == [one["label"] for one in theirs]


@pytest.fixture(scope="module")
def long_texts(reviews: list[str]) -> list[str]:
    """Texts of about 600 to 2,000 tokens, and short ones between them."""
    longest = sorted(reviews, key=len, reverse=True)
    return [
        "\n".join(longest[:2]),
        "Short and sweet.",
        "\n".join(longest[2:4]),
        "\n\n".join(longest[4:8]),
        "Dull.",
    ]


@pytest.mark.parametrize("merge", ["mean", "max"])
def test_windows_of_a_long_text_are_merged_as_by_hand(
    load: Load, long_texts: list[str], merge: str
) -> None:
    rows = load("classify", "starter/sentiment", merge=merge).annotate(long_texts)
    pipe = reference("text-classification", catalog.folder("starter/sentiment"))
    tokenizer, module = pipe.tokenizer, pipe.model
    counts = []
    for text, got in zip(long_texts, rows.column.to_pylist(), strict=True):
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        windows = cut(len(ids), size=510)
        scores, weights = [], []
        for window in windows:
            inside = ids[window.start : window.stop]
            whole = [tokenizer.cls_token_id, *inside, tokenizer.sep_token_id]
            with torch.inference_mode():
                logits = module(input_ids=torch.tensor([whole])).logits[0]
            scores.append(logits.softmax(-1))
            weights.append(len(inside))
        counts.append(len(windows))
        if merge == "max":
            by_hand = torch.stack(scores).amax(dim=0)
        else:
            by_hand = sum(s * w for s, w in zip(scores, weights, strict=True)) / sum(weights)
        best = int(by_hand.argmax())
        assert got["label"] == module.config.id2label[best]
        assert {one["label"]: one["score"] for one in got["scores"]} == pytest.approx(
            {module.config.id2label[i]: float(s) for i, s in enumerate(by_hand)}, abs=1e-4
        )
    assert min(counts) == 1
    assert max(counts) > 2


def test_the_first_window_of_a_long_text_is_what_the_pipeline_keeps_when_it_truncates(
    load: Load, long_texts: list[str]
) -> None:
    rows = load("classify", "starter/sentiment", merge="first").annotate(long_texts)
    pipe = reference("text-classification", catalog.folder("starter/sentiment"))
    expected = pipe(long_texts, top_k=None, truncation=True)
    check_classes(rows.column.to_pylist(), expected)


@pytest.mark.parametrize(("load", "strategy"), BY_ENGINE, indirect=["load"])
def test_entities_of_a_long_text_are_exact_and_do_not_overlap(
    load: Load, long_texts: list[str], strategy: str
) -> None:
    chance = random.Random(0)
    texts = []
    for text in long_texts:
        lines = text.split(". ")
        for line in PERSONAL * 4:
            lines.insert(chance.randrange(len(lines) + 1), line)
        texts.append(". ".join(lines))
    answer = load("ner", "starter/pii", aggregation=strategy).annotate(texts)
    for text, entities in zip(texts, answer.column.to_pylist(), strict=True):
        assert len(entities) > 5
        for entity in entities:
            assert text[entity["start"] : entity["end"]] == entity["text"] != ""
        ends = [0, *(entity["end"] for entity in entities)]
        assert all(end <= e["start"] for end, e in zip(ends, entities, strict=False))


FILLER = ["the", "weather", "was", "fine", "and", "nothing", "at", "all", "had", "happened", "."]
NAME = ["My", "name", "is", "Anna", "Schmidt", "and"]


@pytest.mark.parametrize(
    ("load", "strategy"),
    [("torch", "simple"), ("torch", "first"), ("onnxruntime", "first")],
    indirect=["load"],
)
def test_an_entity_on_the_border_of_two_windows_is_found_once_and_whole(
    load: Load, strategy: str
) -> None:
    ner = load("ner", "starter/pii", aggregation=strategy)
    words = (FILLER * 50)[:600]
    texts = []
    # The name moves word by word over the border, and through the overlap around it.
    for at in [*range(270, 320, 12), *range(291, 302)]:
        texts.append(" ".join([*words[:at], *NAME, *words[at:]]))
    counts = {len(cut(n, size=510, overlap=64)) for n in ner.text.encode(texts).lengths.tolist()}
    assert counts == {2}
    for entities in ner.annotate(texts).column.to_pylist():
        assert [e["text"] for e in entities if e["label"] == "GIVEN_NAME"] == ["Anna"]
        assert [e["text"] for e in entities if e["label"] == "SURNAME"] == ["Schmidt"]


def test_a_text_has_the_same_entities_alone_and_among_long_ones(
    load: Load, long_texts: list[str]
) -> None:
    ner = load("ner", "starter/pii", aggregation="first")
    mixed = [*long_texts, *PERSONAL, *long_texts]
    together = ner.annotate(mixed).column.to_pylist()[len(long_texts) :][: len(PERSONAL)]
    for text, entities in zip(PERSONAL, together, strict=True):
        (alone,) = ner.annotate([text]).column.to_pylist()
        assert [(e["label"], e["start"], e["end"]) for e in entities] == [
            (e["label"], e["start"], e["end"]) for e in alone
        ]
        assert [e["score"] for e in entities] == pytest.approx(
            [e["score"] for e in alone], abs=1e-4
        )
