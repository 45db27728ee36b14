"""Embed, zero_shot, answer and redact, against what they stand for, on the same weights."""

import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sentence_transformers
import tiny_encoders
import torch
import transformers

from pipeline.errors import JobError
from pipeline.models.device import Device
from pipeline.models.resolve import look_up
from pipeline.models.text.texts import TaskInput
from pipeline.models.text.windows import cut
from pipeline.models.torch.load import TorchModels
from pipeline.starter import catalog
from pipeline.starter.reviews import load_reviews
from pipeline.tasks import TASKS

pytestmark = pytest.mark.integration

MINILM, SMOLLM2, PII = "starter/minilm", "starter/smollm2", "starter/pii"
PERSONAL = [
    "My name is Anna Schmidt and I live at 12 Baker Street, London.",
    "Call me on (555) 123-4567 or write to anna.schmidt@example.com!",
    "Nothing personal here.",
    "🙂 Dr. Müller-Lüdenscheidt met O'Brien\tand Anna in São Paulo\n on 3/4/1999 ",
]
Load = Callable[..., Any]
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def load() -> Load:
    """Loads a task; models are shared, as a worker shares them."""
    device = Device("cpu")
    held: dict[str, TorchModels] = {}

    def loaded(kind: str, model: str | Path, **options: Any) -> Any:
        name = str(model)
        if name not in held:
            held[name] = TorchModels({name: look_up(name)}, device=device)
        task = TASKS[kind](TASKS[kind].Options(kind=kind, model=name, **options))
        task.bind(held[name].infos[name])
        task.check_model(held[name].infos[name])
        return task.load(held[name])

    return loaded


@pytest.fixture(scope="module")
def reviews() -> list[str]:
    """Real texts of 20 to 900 characters, and some long ones at the end."""
    texts = [item.text for item in load_reviews().dev]
    short = [text for text in texts if 20 < len(text) < 900]
    return short[:60] + sorted(texts, key=len)[-3:]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a tiny model of ``tiny_encoders``."""

    def made(family: str, *arguments: Any, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp(family)
        return Path(getattr(tiny_encoders, family)(folder, *arguments, **options))

    return made


def rows_of(annotate: Any, texts: Sequence[str]) -> list[Any]:
    answer = annotate.annotate(texts)
    assert answer.failures == {}
    rows: list[Any] = answer.column.to_pylist()
    return rows


# Embed


def sentence_vectors(folder: Path, texts: Sequence[str]) -> np.ndarray:
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    return np.asarray(model.encode(list(texts), show_progress_bar=False))


def test_embed_gives_the_vectors_of_sentence_transformers(load: Load, reviews: list[str]) -> None:
    texts = [*reviews[:40], "x", "🙂", "这部电影很精彩"]
    got = np.array(rows_of(load("embed", MINILM), texts))
    expected = sentence_vectors(catalog.folder(MINILM), texts)
    assert np.abs(got - expected).max() <= 1e-5
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("modules", [("Normalize",), (), ("Dropout", "Normalize")])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_embed_pools_and_normalises_as_the_models_files_say(
    load: Load, make: Make, reviews: list[str], pooling: str, modules: tuple[str, ...]
) -> None:
    folder = make("bert", "Model")
    tiny_encoders.sentence_files(folder, pooling=pooling, modules=modules)
    if "Dropout" in modules:
        (folder / "2_Dropout").mkdir()
        (folder / "2_Dropout" / "config.json").write_text(json.dumps({"dropout": 0.5}))
    got = np.array(rows_of(load("embed", folder), reviews[:20]))
    assert np.abs(got - sentence_vectors(folder, reviews[:20])).max() <= 1e-5
    by_name = rows_of(load("embed", folder, pooling=pooling), reviews[:20])
    assert np.array_equal(np.array(by_name), got)
    assert (np.abs(np.linalg.norm(got, axis=1) - 1).max() < 1e-4) == ("Normalize" in modules)


def test_embed_puts_the_models_own_prompt_before_each_text_and_lowercases_if_it_says_so(
    load: Load, make: Make, reviews: list[str]
) -> None:
    folder = make("bert", "Model")
    tiny_encoders.sentence_files(
        folder,
        sizes={"max_seq_length": 128, "do_lower_case": True},
        prompts={"prompts": {"q": "Represent: "}, "default_prompt_name": "q"},
    )
    texts = [text for text in reviews if len(text) < 300][:12]
    got = np.array(rows_of(load("embed", folder), texts))
    assert np.abs(got - sentence_vectors(folder, texts)).max() <= 1e-5


def model_of(annotate: Any) -> Any:
    """What computes a loaded task's head."""
    held = getattr(annotate, "scorer", annotate)
    for name in ("classifier", "encoder", "encoder"):
        held = getattr(held, name, held)
    return held.model


def hidden_of(annotate: Any, text: str, size: int) -> list[np.ndarray]:
    """Token vectors of each window of a text, special tokens included."""
    model = model_of(annotate)
    ids = model.text.tokens.ids(text)
    out = []
    for window in cut(len(ids), size=size):
        whole = torch.tensor(
            [[*model.text.prefix, *ids[window.start : window.stop], *model.text.suffix]]
        )
        with torch.inference_mode():
            out.append(model.module(input_ids=whole).last_hidden_state[0].numpy())
    return out


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_the_vector_of_a_long_text_is_pooled_over_all_its_tokens(
    load: Load, make: Make, reviews: list[str], pooling: str
) -> None:
    folder = make("bert", "Model", length=64)
    embed = load("embed", folder, pooling=pooling)
    text = " ".join(reviews)
    windows = hidden_of(embed, text, 62)
    assert len(windows) > 50
    every = np.concatenate(windows)
    by_hand = {
        "mean": every.mean(axis=0),
        "max": every.max(axis=0),
        "cls": np.average([w[0] for w in windows], axis=0, weights=[len(w) for w in windows]),
    }
    _, got, _ = rows_of(embed, ["Short.", text, "Dull."])
    assert np.allclose(got, by_hand[pooling], atol=1e-5)


def test_windows_are_as_long_as_the_encoder_was_made_for(load: Load, reviews: list[str]) -> None:
    embed = load("embed", MINILM)  # trained on 256 tokens, has positions for 512
    text = " ".join(reviews[-2:])
    windows = hidden_of(embed, text, 254)
    mean = np.concatenate(windows).mean(axis=0)
    (got,) = rows_of(embed, [text])
    assert np.allclose(got, mean / np.linalg.norm(mean), atol=1e-5)


def test_the_dimension_is_known_before_weights_are_loaded(make: Make, load: Load) -> None:
    folder = make("bert", "Model")
    task = TASKS["embed"](
        TASKS["embed"].Options(kind="embed", model=str(folder), precision="float16")
    )
    task.bind(look_up(str(folder)))
    (folder / "model.safetensors").rename(folder / "elsewhere.safetensors")
    assert task.output_type() == pa.list_(pa.float16(), 32)
    (folder / "elsewhere.safetensors").rename(folder / "model.safetensors")
    half = load("embed", folder, precision="float16").annotate(PERSONAL).column
    full = load("embed", folder).annotate(PERSONAL).column
    assert half.type == task.output_type()
    assert np.allclose(half.to_pylist(), full.to_pylist(), atol=1e-3, rtol=1e-3)


def test_another_pooling_is_another_revision_of_the_model(make: Make) -> None:
    folder = make("bert", "Model")
    plain = look_up(str(folder)).revision()
    found = {plain}
    for pooling in ("mean", "cls"):
        tiny_encoders.sentence_files(folder, pooling=pooling)
        found.add(look_up(str(folder)).revision())
    assert len(found) == 3


@pytest.mark.parametrize(
    ("pooling", "modules", "reason"),
    [("mean", ("Dense",), "Dense module"), ("mean_sqrt_len", (), "mean_sqrt_len_tokens")],
)
def test_an_encoder_with_parts_that_are_not_built_here_is_refused(
    load: Load, make: Make, pooling: str, modules: tuple[str, ...], reason: str
) -> None:
    folder = make("bert", "Model")
    tiny_encoders.sentence_files(folder, pooling=pooling, modules=modules)
    with pytest.raises(JobError, match=reason):
        load("embed", folder)


# Zero-shot by entailment

NLI = ("contradiction", "neutral", "entailment")
GENRES = ["comedy", "science fiction", "war", "a love story"]


@pytest.fixture(scope="module")
def entailers(make: Make, reviews: list[str]) -> dict[str, Path]:
    head = "ForSequenceClassification"
    return {
        "bert": make("bert", head, labels=NLI, length=128),
        "bert-reversed": make("bert", head, labels=("ENTAILMENT", "other"), length=128),
        "roberta": make("roberta", head, reviews, labels=NLI),
    }


def check_rankings(got: Sequence[Any], expected: Sequence[Any]) -> None:
    for mine, theirs in zip(got, expected, strict=True):
        named = dict(zip(theirs["labels"], theirs["scores"], strict=True))
        assert {one["label"]: one["score"] for one in mine["scores"]} == pytest.approx(
            named, abs=1e-5
        )
        assert (mine["label"], mine["score"]) == (
            mine["scores"][0]["label"],
            mine["scores"][0]["score"],
        )
        assert mine["score"] == pytest.approx(theirs["scores"][0], abs=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("name", ["bert", "bert-reversed", "roberta"])
def test_zero_shot_by_entailment_equals_the_pipeline_also_where_it_truncates(
    load: Load, entailers: dict[str, Path], reviews: list[str], name: str, multi_label: bool
) -> None:
    texts = reviews[:12] + reviews[-2:]
    folder = entailers[name]
    pipe = transformers.pipeline("zero-shot-classification", model=str(folder), device="cpu")
    task = load("zero_shot", folder, labels=GENRES, multi_label=multi_label, merge="first")
    lengths = model_of(task).text.encode(texts).lengths
    assert lengths.min() < 60
    assert lengths.max() > 200
    expected = [pipe(text, candidate_labels=GENRES, multi_label=multi_label) for text in texts]
    got = rows_of(task, texts)
    check_rankings(got, expected)
    assert len({row["label"] for row in got}) > 1, "it does look at the text"


def test_one_label_is_weighed_against_its_contradiction_and_a_template_is_filled(
    load: Load, entailers: dict[str, Path], reviews: list[str]
) -> None:
    template = "The film in this review is a {}!"
    pipe = transformers.pipeline(
        "zero-shot-classification", model=str(entailers["bert"]), device="cpu"
    )
    texts = [text for text in reviews if len(text) < 300][:5]
    for labels in (["war"], ["war", "comedy"]):
        got = rows_of(
            load("zero_shot", entailers["bert"], labels=labels, hypothesis_template=template), texts
        )
        expected = [pipe(t, candidate_labels=labels, hypothesis_template=template) for t in texts]
        check_rankings(got, expected)


def test_descriptions_stand_for_labels_and_top_k_keeps_the_best(
    load: Load, entailers: dict[str, Path], reviews: list[str]
) -> None:
    described = {"a": "comedy", "b": "war", "c": "science fiction"}
    texts = reviews[:4]
    plain = rows_of(load("zero_shot", entailers["bert"], labels=list(described.values())), texts)
    named = rows_of(load("zero_shot", entailers["bert"], labels=described, top_k=2), texts)
    for one, other in zip(plain, named, strict=True):
        assert described[other["label"]] == one["label"]
        assert [described[s["label"]] for s in other["scores"]] == [
            s["label"] for s in one["scores"][:2]
        ]


@pytest.mark.parametrize("merge", ["mean", "max"])
def test_windows_of_a_long_premise_are_merged_as_the_job_says(
    load: Load, entailers: dict[str, Path], reviews: list[str], merge: str
) -> None:
    folder = entailers["bert"]
    task = load("zero_shot", folder, labels=GENRES, merge=merge)
    text = reviews[-1]
    ids = model_of(task).text.tokens.ids(text)
    frames = [model_of(task).text.tokens.ids(f"This example is {label}.") for label in GENRES]
    room = 128 - 3 - max(map(len, frames))
    scores, weights = [], []
    cls, sep = (
        model_of(task).text.tokenizer.cls_token_id,
        model_of(task).text.tokenizer.sep_token_id,
    )
    for window in cut(len(ids), size=room):
        logits = []
        for frame in frames:
            premise = [cls, *ids[window.start : window.stop], sep]
            whole = torch.tensor([[*premise, *frame, sep]])
            types = torch.tensor([[0] * len(premise) + [1] * (len(frame) + 1)])
            with torch.inference_mode():
                out = model_of(task).module(input_ids=whole, token_type_ids=types).logits[0, 2]
            logits.append(float(out))
        scores.append(np.exp(logits) / np.exp(logits).sum())
        weights.append(window.stop - window.start)
    assert len(scores) > 3
    by_hand = np.max(scores, axis=0) if merge == "max" else np.average(scores, 0, weights)
    (got,) = rows_of(task, [text])
    assert {s["label"]: s["score"] for s in got["scores"]} == pytest.approx(
        dict(zip(GENRES, by_hand, strict=True)), abs=1e-5
    )


# Zero-shot by embedding


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_by_embedding_ranks_labels_by_the_cosine(
    load: Load, reviews: list[str], multi_label: bool
) -> None:
    described = {"war": "a war film with soldiers", "fun": "a comedy that makes you laugh"}
    texts = [text for text in reviews if len(text) < 400][:10]
    model = sentence_transformers.SentenceTransformer(str(catalog.folder(MINILM)), device="cpu")
    cosines = model.encode(texts) @ model.encode(list(described.values())).T
    shares = np.exp(cosines / 0.1)
    expected = np.clip(cosines, 0, 1) if multi_label else shares / shares.sum(1, keepdims=True)
    task = load("zero_shot", MINILM, labels=described, multi_label=multi_label, temperature=0.1)
    for row, scores in zip(rows_of(task, texts), expected, strict=True):
        assert {s["label"]: s["score"] for s in row["scores"]} == pytest.approx(
            dict(zip(described, scores, strict=True)), abs=1e-4
        )


def test_an_encoder_tells_topics_apart_by_their_description(load: Load) -> None:
    labels = {"food": "cooking and eating", "space": "planets, stars and rockets"}
    texts = ["The soup needs salt and an onion.", "The probe entered the orbit of Saturn."]
    found = rows_of(load("zero_shot", MINILM, labels=labels), texts)
    assert [row["label"] for row in found] == ["food", "space"]


# Zero-shot by likelihood

ANSWERS = ["good", "terrible and boring", "good enough", "war", "science fiction"]


def likelihoods(model: Any, text: str, instruction: str, answers: Sequence[str]) -> np.ndarray:
    """Log-likelihood of each answer after the prompt, a whole sequence at a time."""
    prompt = model.text.tokenizer.apply_chat_template(
        [{"role": "user", "content": f"{text}\n\n{instruction}"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    before = model.text.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    out = []
    for answer in answers:
        ids = model.text.tokenizer(answer, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = model.module(input_ids=torch.tensor([[*before, *ids]])).logits[0]
        steps = logits.log_softmax(-1)
        at = range(len(before) - 1, len(before) + len(ids) - 1)
        out.append(sum(float(steps[i, token]) for i, token in zip(at, ids, strict=True)))
    return np.array(out)


@pytest.mark.parametrize("family", ["Llama", "Mistral"])
def test_a_chat_models_scores_are_the_likelihoods_of_the_answers(
    load: Load, make: Make, reviews: list[str], family: str
) -> None:
    # Mistral's cache slides over the prompt and can't be taken back after an answer.
    window = {"sliding_window": 24} if family == "Mistral" else {}
    folder = make("decoder", family, **window)
    texts = [text for text in reviews if len(text) < 250][:5]
    task = load(
        "zero_shot",
        folder,
        labels=ANSWERS,
        instruction="How is it?",
        answer_template="{}",
        calibrate=False,
    )
    for text, row in zip(texts, rows_of(task, texts), strict=True):
        sums = likelihoods(task.scorer.head.model, text, "How is it?", ANSWERS)
        shares = np.exp(sums - sums.max())
        expected = dict(zip(ANSWERS, shares / shares.sum(), strict=True))
        assert {s["label"]: s["score"] for s in row["scores"]} == pytest.approx(expected, abs=1e-5)


def test_calibration_subtracts_what_each_answer_has_without_a_text(
    load: Load, make: Make, reviews: list[str]
) -> None:
    from pipeline.tasks.labels.likelihood import CONTENT_FREE

    folder = make("decoder")
    task = load("zero_shot", folder, labels=ANSWERS, instruction="How is it?")
    texts = [CONTENT_FREE, *[text for text in reviews if len(text) < 250][:3]]
    rows = rows_of(task, texts)
    assert [s["score"] for s in rows[0]["scores"]] == pytest.approx([0.2] * 5, abs=1e-5)
    free = likelihoods(task.scorer.head.model, CONTENT_FREE, "How is it?", ANSWERS)
    lengths = np.array([len(task.scorer.head.text.tokens.ids(answer)) for answer in ANSWERS])
    for text, row in zip(texts, rows, strict=True):
        ratio = (likelihoods(task.scorer.head.model, text, "How is it?", ANSWERS) - free) / lengths
        shares = np.exp(ratio) / np.exp(ratio).sum()
        expected = dict(zip(ANSWERS, shares, strict=True))
        assert {s["label"]: s["score"] for s in row["scores"]} == pytest.approx(expected, abs=1e-5)


def test_a_small_chat_model_tells_good_reviews_from_bad_ones(load: Load) -> None:
    task = load(
        "zero_shot",
        SMOLLM2,
        labels=["negative", "positive"],
        instruction="What is the sentiment of this movie review?",
        answer_template="The sentiment of this movie review is {}",
    )
    texts = ["A joy from start to end.", "An awful, boring mess.", "I loved every minute of it."]
    found = [row["label"] for row in rows_of(task, texts)]
    assert found == ["positive", "negative", "positive"]


# Answer


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_a_pair_is_classified_as_the_pipeline_classifies_it(
    load: Load, entailers: dict[str, Path], reviews: list[str], name: str
) -> None:
    folder = entailers[name]
    texts = [text for text in reviews if len(text) < 200][:20]
    seconds = [f"This is about {genre}." for genre in GENRES] * 20
    seconds = seconds[: len(texts)]
    pipe = transformers.pipeline("text-classification", str(folder), device="cpu", top_k=None)
    expected = [
        pipe({"text": text, "text_pair": second})
        for text, second in zip(texts, seconds, strict=True)
    ]
    got = rows_of(load("classify", folder, pair="claim"), TaskInput(texts, {"claim": seconds}))
    for mine, theirs in zip(got, expected, strict=True):
        assert mine["label"] == theirs[0]["label"]
        assert [one["score"] for one in mine["scores"]] == pytest.approx(
            [one["score"] for one in theirs], abs=1e-5
        )
    alone = rows_of(load("classify", folder), texts)
    assert [one["score"] for one in alone] != pytest.approx([one["score"] for one in got])


def test_a_pair_without_a_second_text_is_a_bad_row_and_a_long_first_text_is_read_in_windows(
    load: Load, entailers: dict[str, Path], reviews: list[str]
) -> None:
    task = load("classify", entailers["bert"], pair="claim")
    long = reviews[-1]
    claims = ["A claim.", None, " ", "word " * 600, "A claim."]
    answer = task.annotate(TaskInput(["Short."] * 4 + [long], {"claim": claims}))
    codes = {row: error.code for row, error in answer.failures.items()}
    assert codes == {1: "no_pair", 2: "no_pair", 3: "pair_too_long"}
    rows = answer.column.to_pylist()
    assert [row is None for row in rows] == [False, True, True, True, False]
    ids, claim = model_of(task).text.tokens.ids(long), model_of(task).text.tokens.ids("A claim.")
    cls, sep = (
        model_of(task).text.tokenizer.cls_token_id,
        model_of(task).text.tokenizer.sep_token_id,
    )
    scores, weights = [], []
    for window in cut(len(ids), size=model_of(task).text.max_tokens - 3 - len(claim)):
        first = [cls, *ids[window.start : window.stop], sep]
        with torch.inference_mode():
            logits = (
                model_of(task)
                .module(
                    input_ids=torch.tensor([[*first, *claim, sep]]),
                    token_type_ids=torch.tensor([[0] * len(first) + [1] * (len(claim) + 1)]),
                )
                .logits[0]
            )
        scores.append(logits.softmax(dim=0).numpy())
        weights.append(window.stop - window.start)
    assert len(weights) > 2
    expected = np.average(scores, axis=0, weights=weights)
    assert rows[4]["score"] == pytest.approx(expected.max(), abs=1e-5)


QUESTIONS = ["What is the film about?", "Who plays the lead?", "Is it any good?"]


def span_search(
    model: Any, question: str, context: str, *, null_answers: bool, longest: int, overlap: int = 0
) -> dict[str, Any]:
    """The rule of transformers 4.57's question-answering pipeline, span by span."""
    tokenizer = model.text.tokenizer
    asked = tokenizer(question, add_special_tokens=False)["input_ids"]
    size = model.text.max_tokens - len(asked) - 3
    whole = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, offsets, words = whole["input_ids"], whole["offset_mapping"], whole.word_ids()
    found: list[dict[str, Any]] = []
    null_score = 1_000_000.0
    for window in cut(len(ids), size=size, overlap=overlap):
        head = [tokenizer.cls_token_id, *asked, tokenizer.sep_token_id]
        inside = ids[window.start : window.stop]
        types = [0] * len(head) + [1] * (len(inside) + 1)
        with torch.inference_mode():
            out = model.module(
                input_ids=torch.tensor([[*head, *inside, tokenizer.sep_token_id]]),
                token_type_ids=torch.tensor([types]),
            )
        allowed = [True] + [False] * (len(head) - 1) + [True] * len(inside) + [False]
        shares = []
        for logits in (out.start_logits[0], out.end_logits[0]):
            masked = [float(x) if ok else -10_000.0 for x, ok in zip(logits, allowed, strict=True)]
            exp = np.exp(np.array(masked) - max(masked))
            shares.append((exp / exp.sum()).tolist())
        start, end = shares
        null_score = min(null_score, start[0] * end[0])
        spans = [
            (start[s] * end[e], s, e)
            for s in range(len(head), len(head) + len(inside))
            for e in range(s, min(s + longest, len(head) + len(inside)))
        ]
        for score, s, e in sorted(spans, key=lambda span: -span[0])[:12]:
            first, last = s - len(head) + window.start, e - len(head) + window.start
            start_at = min(offsets[i][0] for i, w in enumerate(words) if w == words[first])
            end_at = max(offsets[i][1] for i, w in enumerate(words) if w == words[last])
            text = context[start_at:end_at]
            same = [one for one in found if one["text"].lower() == text.lower()]
            if same:
                same[0]["score"] += score
            else:
                found.append({"text": text, "start": start_at, "end": end_at, "score": score})
    if null_answers:
        found.append({"text": None, "start": None, "end": None, "score": null_score})
    return max(found, key=lambda one: one["score"])


def check_answers(got: Sequence[Any], expected: Sequence[Any]) -> None:
    for mine, theirs in zip(got, expected, strict=True):
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert {**mine, "score": 0} == {**theirs, "score": 0, "truncated": False}


@pytest.fixture(scope="module")
def finder(make: Make) -> Path:
    return make("bert", "ForQuestionAnswering", initializer_range=0.2, seed=3)


@pytest.mark.parametrize("null_answers", [False, True])
@pytest.mark.parametrize("longest", [15, 3])
def test_answers_are_those_of_the_span_search_of_transformers_4(
    load: Load, finder: Path, reviews: list[str], null_answers: bool, longest: int
) -> None:
    texts = [text for text in reviews if len(text) < 900][:30]
    asked = [QUESTIONS[at % 3] for at in range(len(texts))]
    options = {"null_answers": True} if null_answers else {}
    task = load("answer", finder, question_column="q", max_answer_tokens=longest, **options)
    got = rows_of(task, TaskInput(texts, {"q": asked}))
    expected = [
        span_search(model_of(task), q, text, null_answers=null_answers, longest=longest)
        for q, text in zip(asked, texts, strict=True)
    ]
    check_answers(got, expected)
    assert len({row["text"] for row in got}) > 10
    if not null_answers:
        fixed = load("answer", finder, question=QUESTIONS[1], max_answer_tokens=longest)
        check_answers(rows_of(fixed, texts)[1::3], got[1::3])


def test_a_text_may_have_no_answer(load: Load, make: Make, reviews: list[str]) -> None:
    folder = make("bert", "ForQuestionAnswering", initializer_range=1.5, seed=5)
    texts = [text for text in reviews if len(text) < 900][:30]
    task = load("answer", folder, question=QUESTIONS[0], null_answers=True)
    got = rows_of(task, texts)
    check_answers(
        got,
        [
            span_search(model_of(task), QUESTIONS[0], t, null_answers=True, longest=15)
            for t in texts
        ],
    )
    nulls = [row for row in got if row["text"] is None]
    assert 0 < len(nulls) < len(got)
    assert all(row["start"] is None and row["end"] is None for row in nulls)


def test_the_best_answer_of_a_long_text_is_the_best_over_its_windows(
    load: Load, make: Make, reviews: list[str]
) -> None:
    folder = make("bert", "ForQuestionAnswering", length=64, initializer_range=0.2)
    texts = [" ".join(reviews[:8]), reviews[12]]
    for null_answers in (False, True):
        options = {"null_answers": True} if null_answers else {}
        task = load("answer", folder, question=QUESTIONS[0], **options)
        asked = len(model_of(task).text.tokens.ids(QUESTIONS[0]))
        overlap = (64 - asked - 3) // 2
        expected = [
            span_search(
                model_of(task),
                QUESTIONS[0],
                text,
                null_answers=null_answers,
                longest=15,
                overlap=overlap,
            )
            for text in texts
        ]
        check_answers(rows_of(task, texts), expected)


def test_a_row_without_a_question_is_a_bad_row_and_the_others_are_answered(
    load: Load, finder: Path
) -> None:
    task = load("answer", finder, question_column="q")
    questions = ["Who?", None, "  ", "word " * 600, "Where?"]
    answer = task.annotate(TaskInput(["Anna lives in London."] * 5, {"q": questions}))
    codes = {row: error.code for row, error in answer.failures.items()}
    assert codes == {1: "no_question", 2: "no_question", 3: "question_too_long"}
    assert [row is None for row in answer.column.to_pylist()] == [False, True, True, True, False]


def test_a_chat_model_answers_what_it_writes_for_each_text_alone(load: Load) -> None:
    task = load("answer", SMOLLM2, question_column="q", max_answer_tokens=8)
    texts = ["Anna lives in Oslo and Ben in Rome.", "The train to Bern leaves at nine."]
    questions = ["Where does Anna live?", "When does the train leave?"]
    rows = rows_of(task, TaskInput(texts, {"q": questions}))
    model = task.writer.generator.model
    tokenizer = model.text.tokenizer
    for text, question, row in zip(texts, questions, rows, strict=True):
        asked = f"{text}\n\n{question} Answer from the text above, in a few words."
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            out = model.module.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=8,
                do_sample=False,
                pad_token_id=model.text.pad_id,
            )[0]
        written = tokenizer.decode(out[ids.shape[1] :], skip_special_tokens=True).strip()
        expected = {"text": written, "start": None, "end": None, "score": None}
        cut = int(out[-1]) != tokenizer.eos_token_id
        assert row == {**expected, "truncated": cut}
        assert written


def test_a_chat_model_reads_a_long_text_in_windows_and_asks_again_about_the_answers(
    load: Load, make: Make, reviews: list[str]
) -> None:
    folder = make("decoder")
    task = load("answer", folder, question="What?", max_answer_tokens=4)
    calls: list[int] = []
    write = task.writer.write
    task.writer.write = lambda prompts: calls.append(len(prompts)) or write(prompts)
    text = "\n\n".join(reviews)
    rows = rows_of(task, ["Short.", text])
    assert all(row["start"] is None for row in rows)
    assert calls[0] > 20
    assert calls[-1] == 1


# Redact


def joined(entities: Sequence[Any]) -> list[Any]:
    """Those of one label that touch are one."""
    found: list[Any] = []
    for entity in entities:
        last = found[-1] if found else None
        if last and (last["label"], last["end"]) == (entity["label"], entity["start"]):
            found[-1] = last | {"end": entity["end"]}
        else:
            found.append(entity)
    return found


def masked_by_hand(text: str, entities: Sequence[Any], mask: Callable[[Any], str]) -> str:
    for entity in reversed(entities):
        text = text[: entity["start"]] + mask(entity) + text[entity["end"] :]
    return text


def test_redact_masks_what_ner_finds_and_nothing_else(load: Load) -> None:
    entities = rows_of(load("ner", PII), PERSONAL)
    rows = rows_of(load("redact", PII), PERSONAL)
    for text, found, row in zip(PERSONAL, entities, rows, strict=True):
        one = joined(found)
        expected = masked_by_hand(text, one, lambda e: f"[{e['label']}]")
        assert row == {"text": expected, "spans": len(one)}
    assert rows[0]["text"].startswith("My name is [GIVEN_NAME] [SURNAME] and I live at ")
    assert rows[2] == {"text": PERSONAL[2], "spans": 0}


def test_redact_masks_only_the_labels_and_scores_that_the_job_asks_for(load: Load) -> None:
    entities = rows_of(load("ner", PII), PERSONAL)
    least = sorted(e["score"] for row in entities for e in row)[3]
    task = load("redact", PII, labels=["SURNAME", "EMAIL"], replace_with="█", min_score=least)
    for text, found, row in zip(PERSONAL, entities, rows_of(task, PERSONAL), strict=True):
        asked = [e for e in found if e["label"] in ("SURNAME", "EMAIL") and e["score"] >= least]
        wanted = joined(asked)
        assert row == {"text": masked_by_hand(text, wanted, lambda e: "█"), "spans": len(wanted)}


def test_redact_gives_one_name_one_digest_and_keeps_the_key_out_of_the_job(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDACT_TEST_KEY", "open sesame")
    task = load("redact", PII, labels=["GIVEN_NAME"], hash_key="${env:REDACT_TEST_KEY}")
    digest = hmac.new(b"open sesame", b"Anna", hashlib.sha256).hexdigest()[:16]
    rows = rows_of(task, PERSONAL)
    assert f"[GIVEN_NAME:{digest}]" in rows[0]["text"]
    kind = TASKS["redact"]
    options = kind.Options(kind="redact", model=PII, hash_key="${env:REDACT_TEST_KEY}")
    assert "sesame" not in json.dumps(kind(options).dump())
    assert "REDACT_TEST_KEY" in json.dumps(kind(options).dump())
    monkeypatch.delenv("REDACT_TEST_KEY")
    with pytest.raises(JobError, match="REDACT_TEST_KEY is not set"):
        load("redact", PII, hash_key="${env:REDACT_TEST_KEY}")


def test_redact_refuses_labels_that_the_model_does_not_know(load: Load) -> None:
    with pytest.raises(JobError, match=r"knows no label 'PERSON'.*GIVEN_NAME"):
        load("redact", PII, labels=["PERSON"])
