"""What a model is told of each token beside its id, which token pads, and what of a pair is read.

The reference is transformers' own model on one row, with what the tokenizer file itself says.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_families
import torch
import transformers
from tokenizers import Tokenizer

from pipeline.models import families
from pipeline.models.device import Device
from pipeline.models.families import COUNTED_FROM_PADDING
from pipeline.models.resolve import look_up
from pipeline.models.text.texts import TaskInput
from pipeline.models.torch import inputs
from pipeline.models.torch.load import TorchModels
from pipeline.tasks import TASKS

pytestmark = pytest.mark.unit

LABELS = {0: "contradiction", 1: "neutral", 2: "entailment"}
BERT = ("<s> $A </s>", "<s>:0 $A:0 </s>:0 $B:1 </s>:1")
XLNET = ("$A:0 </s>:0 <s>:2", "$A:0 </s>:0 $B:1 </s>:1 <s>:2")
FUNNEL = ("<s>:2 $A:0 </s>:0", "<s>:2 $A:0 </s>:0 $B:1 </s>:1")
NONE = ("", "")
TEXTS = (
    "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12",
    "w20",
    "w3 <fill> w4 <pad> w5 w6",
    "w7 w8 w9 w1",
    "w11 <pad>",
    "w30 w31 w32 w33 w34 w35",
)
CLAIMS = ("w40 w41", "w42 w43 w44 w45 w46", "w47", "w48 w49", "w50 <fill>", "w51 w52 w53")


def save(folder: Path, name: str, templates: tuple[str, str], **config: Any) -> str:
    """A classifier of an architecture, as an ordinary model folder."""
    made = tiny_families.config(
        name, id2label=LABELS, label2id={label: at for at, label in LABELS.items()}, **config
    )
    tiny_families.module("sequence-classification", name, made).save_pretrained(folder)
    tiny_families.tokenizer(*templates).save_pretrained(folder)
    return str(folder)


def load(folder: str, kind: str = "classify", **options: Any) -> Any:
    task = TASKS[kind]
    made = task(task.Options.model_validate({"kind": kind, "model": folder, **options}))
    info = look_up(folder)
    made.check_model(info)
    return made.load(TorchModels({folder: info}, device=Device("cpu"), budget=256))


def scores(annotate: Any, texts: Any) -> np.ndarray:
    answer = annotate.annotate(texts)
    assert answer.failures == {}
    return np.array(
        [
            [score for _, score in sorted((one["label"], one["score"]) for one in row["scores"])]
            for row in answer.column.to_pylist()
        ]
    )


def reference(
    folder: str, rows: Sequence[tuple[str, ...]], *, types: bool, most: int | None = None
) -> np.ndarray:
    """Softmax scores in the order of the labels' names, one row at a time."""
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    if most is not None:
        tokenizer.enable_truncation(most, strategy="only_first")
    kind = transformers.AutoModelForSequenceClassification
    module = kind.from_pretrained(folder).eval()
    out = []
    for row in rows:
        encoding = tokenizer.encode(*row)
        given = {"input_ids": torch.tensor([encoding.ids])}
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        if types:
            given["token_type_ids"] = torch.tensor([encoding.type_ids])
        with torch.inference_mode():
            logits = module(**given).logits[0]
        share = logits.softmax(-1).tolist()
        out.append([score for _, score in sorted(zip(LABELS.values(), share, strict=True))])
    return np.array(out)


FAMILIES = {"albert": BERT, "bert": BERT, "big_bird": BERT, "xlnet": XLNET, "funnel": FUNNEL}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_is_told_the_types_of_its_tokenizers_template(tmp_path: Path, name: str) -> None:
    # Large, so that the types weigh something in each family; in Funnel it is little.
    folder = save(tmp_path, name, FAMILIES[name], initializer_range=0.7)
    got = scores(load(folder), TEXTS)
    np.testing.assert_allclose(got, reference(folder, [(t,) for t in TEXTS], types=True), atol=2e-6)
    pairs = load(folder, pair="claim")
    got = scores(pairs, TaskInput(TEXTS, {"claim": CLAIMS}))
    rows = list(zip(TEXTS, CLAIMS, strict=True))
    np.testing.assert_allclose(got, reference(folder, rows, types=True), atol=2e-6)
    assert np.abs(got - reference(folder, rows, types=False)).max() > 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_zero_shot_by_entailment_tells_the_claim_from_the_text(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path, name, FAMILIES[name])
    labels = {"a": "w60 w61", "b": "w62", "c": "w63 w64 w65"}
    options = {"labels": labels, "hypothesis_template": "w1 {}", "multi_label": True}
    got = scores(load(folder, "zero_shot", **options), TEXTS)
    rows = [(text, f"w1 {word}") for text in TEXTS for word in labels.values()]
    shares = reference(folder, rows, types=True)  # contradiction, entailment, neutral
    expected = shares[:, 1] / (shares[:, 0] + shares[:, 1])
    np.testing.assert_allclose(got, expected.reshape(len(TEXTS), -1), atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "xlm", "ctrl"])
def test_types_are_not_looked_up_among_words(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path, name, ("$A </s>", "$A:0 </s>:0 $B:1 </s>:1"))
    got = scores(load(folder, pair="claim"), TaskInput(TEXTS, {"claim": CLAIMS}))
    rows = list(zip(TEXTS, CLAIMS, strict=True))
    np.testing.assert_allclose(got, reference(folder, rows, types=False), atol=1e-5)


def test_types_beyond_the_models_table_are_left_out(tmp_path: Path) -> None:
    folder = save(tmp_path, "roberta", BERT, type_vocab_size=1)
    got = scores(load(folder, pair="claim"), TaskInput(TEXTS, {"claim": CLAIMS}))
    rows = list(zip(TEXTS, CLAIMS, strict=True))
    np.testing.assert_allclose(got, reference(folder, rows, types=False), atol=1e-5)


DECODERS = ("gpt2", "llama", "qwen2", "mistral", "gemma", "opt")


@pytest.mark.parametrize("pad", [0, None, -1], ids=["another", "none", "negative"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_reads_each_rows_own_last_token(
    tmp_path: Path, name: str, pad: int | None
) -> None:
    folder = save(tmp_path, name, NONE)
    path = tmp_path / "config.json"
    config = transformers.AutoConfig.from_pretrained(folder).to_dict()
    transformers.AutoConfig.for_model(**config | {"pad_token_id": pad}).to_json_file(path)
    got = scores(load(folder), TEXTS)
    expected = reference(folder, [(text,) for text in TEXTS], types=False)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert len({tuple(row) for row in expected.round(3).tolist()}) == len(TEXTS)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_decoder_whose_end_token_pads_reads_the_same_in_any_batch(
    tmp_path: Path, name: str
) -> None:
    folder = save(tmp_path, name, ("$A </s>", "$A $B </s>"), pad_token_id=2)
    texts = [*TEXTS, "w1 </s> w2", "w1 </s> </s>", "</s>"]
    expected = reference(folder, [(text,) for text in texts], types=False)
    np.testing.assert_allclose(scores(load(folder), texts), expected, atol=1e-5)


def test_of_a_long_pair_all_that_fits_is_read_when_the_first_is_wanted(tmp_path: Path) -> None:
    folder = save(tmp_path, "bert", BERT)
    texts = [" ".join(f"w{(7 * i + n) % 90}" for i in range(n)) for n in (3, 57, 58, 66, 90, 200)]
    claims = ["w40 w41 w42"] * len(texts)
    got = scores(load(folder, pair="claim", merge="first"), TaskInput(texts, {"claim": claims}))
    rows = list(zip(texts, claims, strict=True))
    expected = reference(folder, rows, types=True, most=tiny_families.LENGTH)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("family", sorted(COUNTED_FROM_PADDING | {"bert", "electra", "xlnet"}))
def test_where_a_familys_positions_start_is_told_from_its_configuration(family: str) -> None:
    # MPNet counts from 1, whatever its config says, and says 1.
    config = tiny_families.config(family, **({"pad_token_id": 1} if family == "mpnet" else {}))
    module = tiny_families.module("encoder", family, config)
    assert families.first_position(module.config) == inputs.first_position(module)
