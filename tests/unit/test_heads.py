"""Every engine gives for each sequence what transformers' own model gives for it alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_families
import torch
from onnx_export import exported
from tokenizers import Tokenizer

from pipeline.errors import WorkerLost
from pipeline.models.device import Device
from pipeline.models.engines import ENGINES
from pipeline.models.heads import HeadName, Models
from pipeline.models.inference import Inference
from pipeline.models.resolve import look_up
from pipeline.models.text.pairs import Pairs
from pipeline.models.text.side import TextSide

pytestmark = pytest.mark.unit

TEMPLATE = ("<s> $A </s>", "<s>:0 $A:0 </s>:0 $B:1 </s>:1")
# With types, without, and one that counts its positions from the padding token on.
FAMILIES = ("bert", "distilbert", "roberta")
TEXTS = (
    "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12",
    "w20",
    "w3 <fill> w4 w5 w6",
    " ".join(f"w{at % 90}" for at in range(150)),  # longer than the model takes
    "w7 w8 w9 w1",
)
CLAIMS = ("w40 w41", "w42 w43 w44 w45 w46", "w47", "w49", "w51 w52 w53")
TOLERANCE = 2e-5

# Of each engine the heads that it has, by what an exporter calls them, and families to try.
HEADS: dict[str, dict[HeadName, str]] = {
    "torch": {
        "sequence-classification": "",
        "token-classification": "",
        "question-answering": "",
        "encoder": "",
    },
    "onnxruntime": {
        "sequence-classification": "classify",
        "token-classification": "ner",
        "encoder": "embed",
    },
}
TRIED = {"torch": FAMILIES, "onnxruntime": ("bert", "roberta")}
CASES = [
    (engine, head, family)
    for engine, heads in HEADS.items()
    for head in heads
    for family in TRIED[engine]
]


class Reference:
    """transformers' own module on one row."""

    def __init__(self, folder: Path, module: Any) -> None:
        self.module = module
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.typed = getattr(module.config, "type_vocab_size", 0) > 1

    def __call__(self, ids: Sequence[int], types: Sequence[int] | None = None) -> Any:
        given = {"input_ids": torch.tensor([list(ids)])}
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        if types is not None and self.typed:
            given["token_type_ids"] = torch.tensor([list(types)])
        with torch.inference_mode():
            return self.module(**given)


Made = tuple[Path, Reference]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Made]:
    """A random model of a family with a head, saved once."""
    held: dict[tuple[str, str], Made] = {}

    def one(head: str, family: str) -> Made:
        if (head, family) not in held:
            folder = tmp_path_factory.mktemp(f"{family}-{head}")
            labels = 2 if head == "question-answering" else 3
            # As those that are published have it, other than the config class.
            more = {"type_vocab_size": 1} if family == "roberta" else {}
            config = tiny_families.config(family, num_labels=labels, **more)
            module = tiny_families.module(head, family, config)
            module.save_pretrained(folder)
            tiny_families.tokenizer(*TEMPLATE).save_pretrained(folder)
            held[head, family] = folder, Reference(folder, module)
        return held[head, family]

    return one


def opened(engine: str, head: HeadName, folder: Path) -> Models:
    """The models of an engine: the one in a folder of transformers, exported where need be."""
    kind = HEADS[engine][head]
    if kind:
        other = folder.with_name(f"{folder.name}-onnx")
        folder = other if other.exists() else exported(folder, other, kind=kind)
    made = ENGINES[engine]
    info = look_up(str(folder), weights=made.weights)
    return made.open({info.reference: info}, device=Device("cpu"), budget=256)


def ask(models: Models, head: str) -> tuple[TextSide, Callable[[Any], Inference[np.ndarray]]]:
    """A head's text side, and what is asked of it."""
    (reference,) = models.infos
    if head == "sequence-classification":
        classifier = models.classifier(reference)
        return classifier.text, classifier.logits
    if head == "token-classification":
        tagger = models.token_classifier(reference)
        return tagger.text, tagger.scores
    if head == "question-answering":
        scorer = models.span_scorer(reference)
        return scorer.text, scorer.logits
    encoder = models.encoder(reference)
    return encoder.text, lambda sequences: encoder.vectors(sequences, pooling="mean")


def expected(out: Any, head: str) -> np.ndarray:
    if head == "sequence-classification":
        return np.asarray(out.logits[0].numpy())
    if head == "token-classification":
        return np.asarray(out.logits[0].softmax(-1).numpy())
    if head == "question-answering":
        return np.stack([out.start_logits[0].numpy(), out.end_logits[0].numpy()])
    return np.asarray(out.last_hidden_state[0].mean(dim=0).numpy())


def compare(found: Inference[np.ndarray], rows: Sequence[np.ndarray]) -> None:
    assert found.failures == {}
    assert len(found.results) == len(rows)
    for result, row in zip(found.results, rows, strict=True):
        assert result is not None
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, row, atol=TOLERANCE)


@pytest.mark.parametrize(("engine", "head", "family"), CASES)
def test_a_sequence_gets_what_transformers_gives_for_it_alone(
    made: Callable[[str, str], Made], engine: str, head: HeadName, family: str
) -> None:
    folder, reference = made(head, family)
    text, infer = ask(opened(engine, head, folder), head)
    sequences, cuts = text.windows(text.encode(TEXTS))
    assert cuts.counts.tolist() == [1, 1, 1, 3, 1]
    rows = [sequences.flat([at])[0] for at in range(len(sequences))]
    assert max(map(len, rows)) <= text.max_tokens
    found = infer(sequences)
    compare(found, [expected(reference(row), head) for row in rows])
    assert found.tokens == sum(map(len, rows)) < found.padded_tokens
    nothing = infer(sequences.take(np.zeros(0, dtype=np.int64)))
    assert (list(nothing.results), nothing.failures, nothing.tokens) == ([], {}, 0)


@pytest.mark.parametrize(
    ("engine", "head", "family"),
    [case for case in CASES if case[1] in ("sequence-classification", "question-answering")],
)
def test_of_two_texts_a_model_is_told_which_is_which(
    made: Callable[[str, str], Made], engine: str, head: HeadName, family: str
) -> None:
    folder, reference = made(head, family)
    text, infer = ask(opened(engine, head, folder), head)
    pairs = Pairs(text)
    assert pairs.typed == (family == "bert")
    texts = [" ".join(one.split()[:50]) for one in TEXTS]
    rows, wanted = [], []
    for first, second, both in zip(
        pairs.each(texts), pairs.each(CLAIMS), zip(texts, CLAIMS, strict=True), strict=True
    ):
        rows.append(pairs.join(pairs.code(first, second=False), pairs.code(second, second=True)))
        encoding = reference.tokenizer.encode(*both)
        wanted.append(expected(reference(encoding.ids, encoding.type_ids), head))
    compare(infer(pairs.sequences(rows)), wanted)


@pytest.mark.parametrize(("engine", "head", "family"), CASES)
def test_a_sequence_that_the_model_can_not_take_fails_alone(
    made: Callable[[str, str], Made], engine: str, head: HeadName, family: str
) -> None:
    folder, reference = made(head, family)
    text, infer = ask(opened(engine, head, folder), head)
    sequences, _ = text.windows(text.encode(TEXTS), size=1000)
    found = infer(sequences)
    assert {at: error.code for at, error in found.failures.items()} == {3: "model_error"}
    assert [at for at, row in enumerate(found.results) if row is None] == [3]
    good = [0, 1, 2, 4]
    for at in good:
        row = expected(reference(sequences.flat([at])[0]), head)
        np.testing.assert_allclose(found.results[at], row, atol=TOLERANCE)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("engine", HEADS)
def test_token_vectors_become_one_as_was_asked(
    made: Callable[[str, str], Made], engine: str, pooling: Any
) -> None:
    folder, reference = made("encoder", "bert")
    models = opened(engine, "encoder", folder)
    encoder = models.encoder(*models.infos)
    sequences, _ = encoder.text.windows(encoder.text.encode(TEXTS))
    rows = []
    for at in range(len(sequences)):
        hidden = reference(sequences.flat([at])[0]).last_hidden_state[0]
        pooled = {"mean": hidden.mean(dim=0), "cls": hidden[0], "max": hidden.amax(dim=0)}
        rows.append(pooled[pooling].numpy())
    compare(encoder.vectors(sequences, pooling=pooling), rows)


@pytest.mark.parametrize("engine", HEADS)
def test_what_is_text_about_a_model_is_the_same_for_every_engine(
    made: Callable[[str, str], Made], engine: str
) -> None:
    seen = {}
    for family in TRIED[engine]:
        folder, _ = made("sequence-classification", family)
        models = opened(engine, "sequence-classification", folder)
        (reference,) = models.infos
        text = models.classifier(reference).text
        seen[family] = text.max_tokens, text.room, text.pad_id, text.typed, Pairs(text).typed
        assert text.labels == ["LABEL_0", "LABEL_1", "LABEL_2"]
        assert (text.prefix, text.suffix) == ([1], [2])
        assert str(text.folder) == reference
    expected = {
        "bert": (64, 62, 0, False, True),
        "distilbert": (64, 62, 0, False, False),
        "roberta": (63, 61, 0, False, False),
    }
    assert seen == {family: expected[family] for family in TRIED[engine]}


@pytest.mark.parametrize("engine", HEADS)
def test_heads_of_one_tokenizer_share_it_so_that_texts_are_tokenized_once(
    made: Callable[[str, str], Made], engine: str
) -> None:
    folder, _ = made("sequence-classification", "bert")
    models = opened(engine, "sequence-classification", folder)
    (reference,) = models.infos
    one, other = (models.classifier(reference) for _ in range(2))
    assert one.text is other.text
    assert models.with_adapter(None).classifier(reference).text is one.text


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_model_that_the_device_has_no_room_for_is_no_mistake_of_the_job(
    made: Callable[[str, str], Made], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    folder, _ = made("sequence-classification", "bert")

    def full(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(WorkerLost, match="there is no memory for model") as caught:
        opened("torch", "sequence-classification", folder).classifier(str(folder))
    assert str(folder) in caught.value.message
    assert "take a smaller model" in caught.value.hint
