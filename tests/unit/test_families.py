"""One contract for all architectures: a row's result does not depend on what stands beside it.

Every architecture that transformers has a head of is either held to it here, or refused by name.
Models are random and of some kilobytes; the reference is transformers' own module, called on one
row alone with what the tokenizer says of it.
"""

import copy
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_families
import torch
from tokenizers import Tokenizer

from pipeline.errors import JobError
from pipeline.models.decoding import Decoding
from pipeline.models.device import Device
from pipeline.models.families import DECODERS, ENCODERS, TAKEN, WHY, WRITERS, check_family
from pipeline.models.heads import HeadName
from pipeline.models.sentence import SentenceEncoder
from pipeline.models.text.prompts import Prompts, plain_frame
from pipeline.models.torch.generation import TorchGenerator, until_end
from pipeline.models.torch.heads import (
    TorchClassifier,
    TorchEncoder,
    TorchSpanScorer,
    TorchTokenClassifier,
)
from pipeline.models.torch.load import ready
from pipeline.models.torch.model import Model
from pipeline.tasks.answers.answer import Answer
from pipeline.tasks.answers.extractive import AnswerSpans
from pipeline.tasks.answers.questions import Questions
from pipeline.tasks.labels.classify import Classify, ClassifyAnnotate
from pipeline.tasks.spans.ner import Ner, NerAnnotate
from pipeline.tasks.writing.text_writer import TextWriter

pytestmark = pytest.mark.unit

READING_HEADS = (
    "sequence-classification",
    "token-classification",
    "question-answering",
    "encoder",
)
READING = [
    (head, name)
    for head in READING_HEADS
    for name in tiny_families.MAPPINGS[head]
    if name in TAKEN[head]
]
WRITING = [
    (head, name)
    for head in ("causal", "seq2seq")
    for name in tiny_families.MAPPINGS[head]
    if name in TAKEN[head]
]
# The special tokens that each kind of family was trained with, and their types.
TEMPLATES = {
    "funnel": ("<s>:2 $A:0 </s>:0", "<s>:2 $A:0 </s>:0 $B:1 </s>:1"),
    "longformer": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "xlnet": ("$A:0 </s>:0 <s>:2", "$A:0 </s>:0 $B:1 </s>:1 <s>:2"),
}
BERT = ("<s> $A </s>", "<s>:0 $A:0 </s>:0 $B:1 </s>:1")
# Their forward adds the word of a type's number to each token.
WORDS_FOR_TYPES = ("flaubert", "xlm")
LABELS = {"id2label": {0: "LABEL_0", 1: "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
QUESTION = "w90 w91"
TEXTS = (
    "w1 w2 w3 w4 w5 w6 w7 w8 w9",
    "w80",
    " ".join(f"w{at}" for at in range(10, 62)),  # as long as the model takes, with a question
    "w11 w21 w31 w41 w51 w61 w71 w81 w2",  # of the first one's length
    "w5 <pad> w6 w7",
    "w70 w71 w72 <fill> w73 w74 w75 w76 w77 w78 w79 w80 w81 w82 w83",
    "w33 w34 w35 w36 w37",
    "w8 <pad>",
)


def tokenizer(name: str) -> Any:
    if name in DECODERS:
        return tiny_families.tokenizer()
    return tiny_families.tokenizer(*TEMPLATES.get(name, BERT))


def model_of(module: Any, made: Any, head: HeadName) -> Model:
    folder = Path("nowhere")
    ours = copy.deepcopy(module)
    return ready(ours, made, head=head, device=Device("cpu"), budget=128, folder=folder)


def more(name: str) -> dict[str, int]:
    """What the config class of some does not say by itself."""
    return {"decoder_start_token_id": 1} if name in WRITERS else {}


def fresh(module: Any) -> Any:
    """The module as it was loaded: BigBird's change with the first short batch."""
    changes = any(hasattr(part, "set_attention_type") for part in module.modules())
    return copy.deepcopy(module) if changes else module


class Reference:
    """transformers' own module on one row, as if it were the first."""

    def __init__(self, name: str, module: Any, made: Any) -> None:
        self.module = module
        self.backend: Tokenizer = made.backend_tokenizer
        takes = inspect.signature(module.forward).parameters
        types = getattr(module.config, "type_vocab_size", 2)
        self.takes_mask = "attention_mask" in takes
        self.takes_types = (
            "token_type_ids" in takes
            and name in ENCODERS
            and name not in WORDS_FOR_TYPES
            and types != 1
        )

    def __call__(self, *texts: str) -> tuple[Any, Any]:
        """The tokens of a row, and what the module gives for it."""
        row = self.backend.encode(*texts)
        given = {"input_ids": torch.tensor([row.ids])}
        if self.takes_mask:
            given["attention_mask"] = torch.ones_like(given["input_ids"])
        if self.takes_types:
            given["token_type_ids"] = torch.tensor([row.type_ids])
        with torch.inference_mode():
            return row, fresh(self.module)(**given)


def softmax(logits: Any) -> np.ndarray:
    return np.asarray(logits.double().softmax(-1).numpy())


def classes(model: Model, texts: Sequence[str]) -> list[Any]:
    options = Classify.Options(kind="classify", model="tiny")
    answer = ClassifyAnnotate(
        TorchClassifier(model), options, Classify(options).output_type()
    ).annotate(texts)
    assert answer.failures == {}
    return [
        [score for _, score in sorted((one["label"], one["score"]) for one in row["scores"])]
        for row in answer.column.to_pylist()
    ]


def expected_classes(call: Reference, text: str) -> Any:
    return softmax(call(text)[1].logits[0])


def spans(model: Model, texts: Sequence[str]) -> list[Any]:
    options = Ner.Options(kind="ner", model="tiny", aggregation="none")
    answer = NerAnnotate(TorchTokenClassifier(model), options, Ner(options).output_type()).annotate(
        texts
    )
    assert answer.failures == {}
    rows = answer.column.to_pylist()
    return [[(e["start"], e["label"] == "LABEL_1", e["score"]) for e in row] for row in rows]


def expected_spans(call: Reference, text: str) -> Any:
    row, out = call(text)
    inside = [at for at, part in enumerate(row.sequence_ids) if part is not None]
    shares = softmax(out.logits[0])[inside]
    starts = [row.offsets[at][0] for at in inside]
    return [
        (start, share.argmax(), share.max()) for start, share in zip(starts, shares, strict=True)
    ]


def answers(model: Model, texts: Sequence[str]) -> list[Any]:
    options = Answer.Options(kind="answer", model="tiny", question=QUESTION)
    finds = AnswerSpans(
        TorchSpanScorer(model),
        Questions(QUESTION, None),
        null_answers=False,
        longest=3,
        output_type=Answer(options).output_type(),
    )
    answer = finds.annotate(texts)
    assert answer.failures == {}
    return [(row["start"], row["end"], row["score"]) for row in answer.column.to_pylist()]


def expected_answer(call: Reference, text: str) -> Any:
    row, out = call(QUESTION, text)
    inside = [at for at, part in enumerate(row.sequence_ids) if part == 1]
    # The first token competes where it is the one that stands for no answer.
    places = [0, *inside] if row.ids[0] == 1 else inside
    start, end = (softmax(x[0, places]) for x in (out.start_logits, out.end_logits))
    shift = len(places) - len(inside)
    best = max(
        (start[shift + first] * end[shift + last], first, last)
        for first in range(len(inside))
        for last in range(first, min(first + 3, len(inside)))
    )
    return row.offsets[inside[best[1]]][0], row.offsets[inside[best[2]]][1], best[0]


def vectors(model: Model, texts: Sequence[str]) -> list[Any]:
    encoder = SentenceEncoder(TorchEncoder(model), reference="tiny")
    found = encoder.window_vectors(texts)
    assert found.failures == {}
    return list(encoder.merge(found, rows=len(texts)))


def expected_vector(call: Reference, text: str) -> Any:
    return call(text)[1].last_hidden_state[0].double().mean(dim=0).numpy()


RESULTS = {
    "sequence-classification": (classes, expected_classes),
    "token-classification": (spans, expected_spans),
    "question-answering": (answers, expected_answer),
    "encoder": (vectors, expected_vector),
}


# Kinds of positions, attention and pooling that published models have, and default configs do not.
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("sequence-classification", "deberta", RELATIVE),
    ("sequence-classification", "deberta-v2", RELATIVE | {"norm_rel_ebd": "layer_norm"}),
    ("token-classification", "deberta-v2", RELATIVE | {"conv_kernel_size": 3}),
    ("sequence-classification", "esm", {"token_dropout": True}),
    ("token-classification", "esm", {"position_embedding_type": "rotary"}),
    ("sequence-classification", "modernbert", {"classifier_pooling": "mean"}),
    ("sequence-classification", "distilbert", {"sinusoidal_pos_embds": True}),
    ("sequence-classification", "falcon", {"alibi": True, "new_decoder_architecture": False}),
    ("sequence-classification", "big_bird", {"attention_type": "original_full"}),
    ("sequence-classification", "xlnet", {"summary_type": "mean"}),
    ("sequence-classification", "xlm", {"summary_type": "last", "causal": True}),
    ("sequence-classification", "funnel", {"pooling_type": "max", "attention_type": "factorized"}),
    ("token-classification", "mobilebert", {"normalization_type": "layer_norm"}),
    ("token-classification", "albert", {"num_hidden_groups": 2}),
    ("sequence-classification", "gemma3_text", {"use_bidirectional_attention": True}),
    (
        "sequence-classification",
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 100.0}},
    ),
    (
        "sequence-classification",
        "phi3",
        {
            "original_max_position_embeddings": 16,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 100.0,
                "short_factor": [1.0] * 4,
                "long_factor": [3.0] * 4,
                "original_max_position_embeddings": 16,
            },
        },
    ),
]


@pytest.mark.parametrize(
    ("head", "name", "config"),
    [*((head, name, {}) for head, name in READING), *VARIANTS],
    ids=lambda value: str(value) if value else "",
)
def test_a_row_reads_the_same_alone_in_a_batch_and_to_transformers(
    head: str, name: str, config: dict[str, Any]
) -> None:
    made = tokenizer(name)
    small = tiny_families.config(name, **{**LABELS, **more(name), **config})
    module = tiny_families.module(head, name, small)
    call = Reference(name, module, made)
    ours, theirs = RESULTS[head]
    expected = [theirs(call, text) for text in TEXTS]
    model = model_of(module, made, head)
    together = ours(model, TEXTS)
    alone = [ours(model, [text])[0] for text in TEXTS]
    for batch, single, right in zip(together, alone, expected, strict=True):
        scale = max(1.0, float(np.abs(np.array(right, dtype=float)).max()) / 100)
        near = {"atol": 1e-4 * scale, "rtol": 0}
        np.testing.assert_allclose(np.array(batch, dtype=float), right, **near)
        np.testing.assert_allclose(np.array(single, dtype=float), right, **near)
    distinct = {np.array(row, dtype=float).round(6).tobytes() for row in expected}
    assert len(distinct) == len(TEXTS), "a model that says the same of all texts shows nothing"


@pytest.mark.parametrize(("head", "name"), WRITING)
def test_a_row_is_written_the_same_alone_in_a_batch_and_by_transformers(
    head: str, name: str
) -> None:
    made = tokenizer(name)
    # Large, so that what is written depends on the text.
    spread = {"init_std": 0.6, "initializer_factor": 5.0} if name in WRITERS else {}
    module = tiny_families.module(head, name, tiny_families.config(name, **more(name), **spread))
    model = model_of(module, made, head)
    writer = TextWriter(TorchGenerator(model), plain_frame(model.text), Decoding(3))
    prompts = writer.maker.lay_out(TEXTS, long="end")
    expected = []
    for prompt in prompts.ids:
        ids = torch.tensor([prompt.tolist()])
        out = fresh(module).generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=3,
            do_sample=False,
            num_beams=1,
            pad_token_id=0,
        )
        start = 1 if name in WRITERS else len(prompt)
        expected.append(tuple(until_end(out[0, start:].tolist(), {2})))
    together = writer.write(prompts)
    assert together.failures == {}
    assert [one.ids for one in together.results] == expected
    single = [writer.write(Prompts([prompt], [0], [""])) for prompt in prompts.ids]
    assert [found.results[0].ids for found in single] == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("head", tiny_families.MAPPINGS)
def test_every_architecture_is_held_to_the_contract_or_refused_by_name(head: str) -> None:
    known = {name for of, name in READING + WRITING if of == head}
    for name in tiny_families.MAPPINGS[head]:
        config = {"model_type": name}
        if name in known:
            check_family(config | {"default_language": "en_XX"}, head=head, reference="org/name")
        else:
            with pytest.raises(JobError, match=f"org/name is of the architecture {name},"):
                check_family(config, head=head, reference="org/name")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "nystromformer", "num_landmarks": 32, "segment_means_seq_len": 64},
        {"model_type": "xmod", "default_language": None},
        {"model_type": "yoso", "use_expectation": False},
    ],
    ids=lambda config: config["model_type"],
)
def test_a_config_that_can_not_hold_the_contract_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(JobError, match=f"is of the architecture {config['model_type']}, which "):
        check_family(config, head="sequence-classification", reference="org/name")


def test_every_architecture_that_is_taken_is_held_to_the_contract_for_some_head() -> None:
    assert {name for _, name in READING + WRITING} == ENCODERS | DECODERS | WRITERS
    assert not set(WHY) & (ENCODERS | DECODERS | WRITERS)
