"""What is loaded tokenizes as the model's tokenizer.json says; folders that can't are refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_tokenizers as tiny
from mixed_texts import WORDS, mixed_texts
from tokenizers import (
    AddedToken,
    BertWordPieceTokenizer,
    ByteLevelBPETokenizer,
    Tokenizer,
    models,
    pre_tokenizers,
    processors,
)

from pipeline.models.text import texts as texts_module
from pipeline.models.text.languages import languages_of
from pipeline.models.text.tokenizer import load_tokenizer

pytestmark = pytest.mark.unit

Folders = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A model folder without weights by family, made once."""
    pieces: list[tiny.Piece] = []
    held: dict[str, Path] = {}

    def made(name: str) -> Path:
        if not pieces:
            pieces.extend(tiny.unigrams([*WORDS, *map(str.lower, WORDS)]))
        if name not in held:
            family = tiny.FAMILIES[name]
            at = tmp_path_factory.mktemp(name)
            held[name] = tiny.save(at, family, tiny.backend(family, pieces))
        return held[name]

    return made


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_tokens_are_those_of_the_file_special_ones_included(folder: Folders, name: str) -> None:
    file = Tokenizer.from_file(str(folder(name) / "tokenizer.json"))
    tokenizer = load_tokenizer(folder(name))
    tokens = texts_module.Tokenizer(tokenizer)
    texts = mixed_texts()
    assert len(texts) == 260
    encoded = tokens.encode(texts)
    for row, text in enumerate(texts):
        ours = [*tokens.prefix, *encoded.row(row).tolist(), *tokens.suffix]
        assert ours == file.encode(text).ids, ascii(text)
    for first, second in zip(texts[:40], texts[40:80], strict=True):
        pair = tokenizer.backend_tokenizer.encode(first, second)
        assert pair.ids == file.encode(first, second).ids
        assert pair.type_ids == file.encode(first, second).type_ids


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_what_the_file_does_not_say_is_known_from_the_files_beside_it(
    folder: Folders, name: str
) -> None:
    family = tiny.FAMILIES[name]
    tokenizer = load_tokenizer(folder(name))
    assert type(tokenizer).__name__ in (family.name, "TokenizersBackend")
    assert tokenizer.model_max_length == 96
    assert tokenizer.padding_side == ("left" if name == "xlnet" else "right")
    vocabulary = tokenizer.get_vocab()
    for role, token in family.tokens.items():
        assert getattr(tokenizer, role) == token
        assert getattr(tokenizer, f"{role}_id") == vocabulary[token]


def seq2seq(folder: Path, kind: str) -> Any:
    """What `languages_of` looks at of a model with that tokenizer."""
    tokenizer = load_tokenizer(folder)
    tokens = texts_module.Tokenizer(tokenizer)
    config = SimpleNamespace(model_type=kind)
    return SimpleNamespace(config=config, tokenizer=tokenizer, suffix=tokens.suffix, tokens=tokens)


@pytest.mark.parametrize(
    ("name", "source", "legacy", "expected"),
    [
        ("mbart", "de_DE", False, "$A </s> de_DE"),
        ("mbart-50", "uk_UA", False, "uk_UA $A </s>"),
        ("nllb", "fra_Latn", False, "fra_Latn $A </s>"),
        ("nllb", "fra_Latn", True, "$A </s> fra_Latn"),
    ],
)
def test_a_language_stands_where_the_family_puts_it(
    folder: Folders, tmp_path: Path, name: str, source: str, legacy: bool, expected: str
) -> None:
    for path in folder(name).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if name == "nllb":
        # As in the first files of NLLB, whose template is not what the models were trained with.
        file = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        english, end = file.token_to_id("eng_Latn"), file.token_to_id("</s>")
        file.post_processor = processors.TemplateProcessing(
            single="$A </s> eng_Latn", special_tokens=[("eng_Latn", english), ("</s>", end)]
        )
        file.save(str(tmp_path / "tokenizer.json"))
        said = json.loads((tmp_path / "tokenizer_config.json").read_text())
        said["legacy_behaviour"] = legacy
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    model = seq2seq(tmp_path, tiny.FAMILIES[name].kind)
    languages = languages_of(model)
    assert languages is not None
    token = languages.token(source, field="source")
    before, after = languages.around(model.tokens.prefix, model.tokens.suffix, token)
    named = [model.tokenizer.convert_ids_to_tokens(ids) for ids in (list(before), list(after))]
    assert " ".join([*named[0], "$A", *named[1]]) == expected


def test_a_token_that_the_file_lacks_is_added_with_the_number_that_is_said(
    folder: Folders, tmp_path: Path
) -> None:
    file = Tokenizer.from_file(str(folder("t5") / "tokenizer.json"))
    size = file.get_vocab_size()
    tiny.save(tmp_path, tiny.FAMILIES["t5"], file)
    path = tmp_path / "tokenizer_config.json"
    said = json.loads(path.read_text())
    said["added_tokens_decoder"][str(size)] = {"content": "<new>", "special": True}
    path.write_text(json.dumps(said))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.backend_tokenizer.encode("a<new>").ids[-2:] == [size, 1]
    said["added_tokens_decoder"] = {str(size + 7): {"content": "<new>", "special": True}}
    path.write_text(json.dumps(said))
    with pytest.raises(ValueError, match=f"lacks token {size + 7}, '<new>'"):
        load_tokenizer(tmp_path)


def test_a_special_token_that_the_file_does_not_know_is_none(
    folder: Folders, tmp_path: Path
) -> None:
    file = Tokenizer.from_file(str(folder("xlm-roberta") / "tokenizer.json"))
    family = tiny.FAMILIES["xlm-roberta"]
    tokens = family.tokens | {"pad_token": "[nowhere]"}
    tiny.save(tmp_path, replace(family, tokens=tokens), file)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.pad_token is None
    assert tokenizer.pad_token_id is None
    assert tokenizer.backend_tokenizer.get_vocab_size() == file.get_vocab_size()


def test_special_tokens_are_found_with_an_alphabet_without_an_a() -> None:
    made = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "\u4e00": 2}, unk_token="<unk>"))
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    made.pre_tokenizer = pre_tokenizers.Split("a", "removed")
    tokens = texts_module.Tokenizer(SimpleNamespace(backend_tokenizer=made))
    assert (tokens.prefix, tokens.suffix) == ([0], [1])


def older_bert(folder: Path) -> Tokenizer:
    """A folder of BERT as it was before tokenizer.json, and what it means."""
    made = BertWordPieceTokenizer(lowercase=False)
    made.train_from_iterator(mixed_texts(), vocab_size=600, min_frequency=1, show_progress=False)
    made.save_model(str(folder))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    made = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=False, strip_accents=None)
    return made._tokenizer


def older_roberta(folder: Path) -> Tokenizer:
    """The same of RoBERTa."""
    made = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made.train_from_iterator(
        mixed_texts(), vocab_size=600, special_tokens=special, show_progress=False
    )
    made.save_model(str(folder))
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    made.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return made._tokenizer


@pytest.mark.parametrize("older", [older_bert, older_roberta])
def test_older_files_mean_what_they_meant_when_they_were_written(
    tmp_path: Path, older: Callable[[Path], Tokenizer]
) -> None:
    expected = older(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
    for text in mixed_texts():
        assert tokenizer(text)["input_ids"] == expected.encode(text).ids, ascii(text)
    first, second = mixed_texts()[:2]
    assert tokenizer(first, second)["input_ids"] == expected.encode(first, second).ids
