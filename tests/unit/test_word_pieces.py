"""Tokens and offsets by arrays are those of the tokenizers library, whatever the text."""

import random
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers.models import WordLevel, WordPiece
from tokenizers.normalizers import BertNormalizer, Lowercase
from tokenizers.pre_tokenizers import BertPreTokenizer, Whitespace

from pipeline.models.text.texts import Tokenizer
from pipeline.models.text.word_pieces import WordPieces

pytestmark = pytest.mark.unit

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEéüß\u0131ñ0123456789.,!?-'#[]中文αως"
WORDS = ["the", "cafe", "##ing", "un", "##able", "##ss", "Ber", "##lin", "ss", "##é"]
ODD = [
    *SPECIAL, "[cls]", "[CLS", "##", "##ing", "\x00", "\x1c", "\x85", "\u200d", "\ufeff", "\ufffd",
    "e\u0301", "\u0301", "İ", "ß", "ẞ", "ΑΣ", "ﬁ", "각", "\u1100\u1161", "中文", "👩‍👩‍👧", "\u3000",
    "\xa0", "\xad", "\t", "\r\n", "a" * 101, "b" * 100, "é" * 101, "ǆ", "ŉ", "ΐ", "\u2028",
    "\u180e", "\uff41", "\U0001d400", "\u0131", "Å", "\u0345", "\u1e9e\u0307", "\U000e0001",
]  # fmt: skip
NORMALIZERS = {
    "uncased": {},
    "cased": {"lowercase": False},
    "accents kept": {"strip_accents": False},
    "accents of cased text dropped": {"lowercase": False, "strip_accents": True},
}


def made(**options: Any) -> Any:
    pieces = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS]
    vocabulary = {piece: at for at, piece in enumerate(dict.fromkeys(pieces))}
    backend = tokenizers.Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(**options)
    backend.pre_tokenizer = BertPreTokenizer()
    backend.add_special_tokens(SPECIAL)
    return backend


class Held:
    """As transformers holds a tokenizer."""

    def __init__(self, backend: Any) -> None:
        self.backend_tokenizer = backend


def texts(count: int, *, seed: int) -> list[str]:
    chance = random.Random(seed)
    kinds: list[Callable[[], str]] = [
        lambda: chr(chance.choice([chance.randrange(0xD800), chance.randrange(0xE000, 0x110000)])),
        lambda: chr(chance.randrange(0x2000)),
        lambda: chance.choice(ODD),
        lambda: chance.choice(["Berlin", "unable", "the cafe", "passing", "x-ray", "It's"]),
        lambda: chance.choice(" \n.,'"),
    ]
    made = ["", " ", "\x00", "a", *ODD]
    while len(made) < count:
        parts = [chance.choice(kinds)() for _ in range(chance.randrange(1, 20))]
        made.append(chance.choice(["", " "]).join(parts))
    return made


def assert_equal(backend: Any, given: list[str], tokens: Tokenizer) -> None:
    tokens.with_offsets = True
    found = tokens.encode(given)
    expected = backend.encode_batch(given, add_special_tokens=False)
    assert found.offsets is not None
    borders = pairwise(found.starts.tolist())
    for text, encoding, (start, stop) in zip(given, expected, borders, strict=True):
        assert found.ids[start:stop].tolist() == encoding.ids, repr(text)
        offsets = [tuple(pair) for pair in found.offsets[start:stop].tolist()]
        assert offsets == encoding.offsets, repr(text)


@pytest.mark.parametrize("installed", [True, False], ids=["nanotoken", "tokenizers"])
@pytest.mark.parametrize("name", NORMALIZERS)
def test_ids_and_offsets_are_those_of_the_tokenizers_library(
    name: str, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "nanotoken", None)
    backend = made(**NORMALIZERS[name])
    tokens = Tokenizer(Held(backend))
    assert tokens.pieces is not None
    assert (tokens.pieces.library is not None) == installed
    assert_equal(backend, texts(3000, seed=len(name)), tokens)


def test_few_texts_need_the_other_library(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = WordPieces.of(made())
    assert pieces is not None
    asked: list[str] = []

    class Asked:
        normalizer = made().normalizer

        def encode_batch(self, given: list[str], **_: Any) -> Any:
            asked.extend(given)
            return made().encode_batch(given, add_special_tokens=False)

    pieces._backend = Asked()
    given = ["Berlin, the café", "e\u0301tude of 中文 [SEP] unable", "", "the snow \u2603"]
    ids, counts = pieces.ids(given) or (np.zeros(0), np.zeros(0))
    assert pieces.offsets(given, ids, counts) is not None
    assert asked == given[3:], "the snowman may be any number of characters"


def test_a_vocabulary_may_have_numbers_that_no_token_has() -> None:
    vocabulary = {"[UNK]": 0, "the": 3, "##me": 900, "x": 77}
    backend = tokenizers.Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokens = Tokenizer(Held(backend))
    assert tokens.pieces is not None
    assert_equal(backend, ["theme the x", "x y"], tokens)


def test_a_library_that_gives_other_ids_is_not_believed() -> None:
    backend = made()
    tokens = Tokenizer(Held(backend))
    assert tokens.pieces is not None

    class Wrong:
        def encode_batch(self, given: list[str], **_: Any) -> Any:
            found = [[5] for _ in given]
            return np.array(found, dtype=np.uint32).ravel(), np.arange(len(given) + 1)

    tokens.pieces.library = Wrong()
    assert_equal(backend, ["the cafe", "passing [SEP]", "中文", "the snow \u2603"], tokens)


def test_tokenizers_of_another_form_are_left_to_their_own_library() -> None:
    def lowercase(backend: Any) -> None:
        backend.normalizer = Lowercase()

    def none(backend: Any) -> None:
        backend.normalizer = None

    def dirty(backend: Any) -> None:
        backend.normalizer = BertNormalizer(clean_text=False)

    def whitespace(backend: Any) -> None:
        backend.pre_tokenizer = Whitespace()

    def words(backend: Any) -> None:
        backend.add_tokens(["Berlin"])

    def greedy(backend: Any) -> None:
        backend.add_special_tokens([tokenizers.AddedToken("<x>", lstrip=True, special=True)])

    for change in (lowercase, none, dirty, whitespace, words, greedy):
        backend = made()
        change(backend)
        assert WordPieces.of(backend) is None, change.__name__
        assert Tokenizer(Held(backend)).pieces is None
    assert WordPieces.of(tokenizers.Tokenizer(WordLevel({"a": 0}, unk_token="a"))) is None


def test_words_of_tokens_are_asked_of_the_tokenizers_library() -> None:
    tokens = Tokenizer(Held(made()))
    tokens.with_words = True
    given = ["unable cafe", "", "[SEP] x"]
    found = tokens.encode(given)
    expected = made().encode_batch(given, add_special_tokens=False)
    assert found.words is not None
    told = [-1 if word is None else word for row in expected for word in row.word_ids]
    assert found.words.tolist() == told
    assert found.ids.tolist() == [token for row in expected for token in row.ids]
    assert len(tokens.encode([]).ids) == 0
