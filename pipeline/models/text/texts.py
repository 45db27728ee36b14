"""Texts and their tokens: each text is tokenized once, whatever tasks want of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, overload

import numpy as np

from pipeline.models.text.word_pieces import WordPieces

# What the tokenizer makes of a text is some 150 bytes a token; it is thrown away by the chunk.
CHUNK_TEXTS = 1024
CHUNK_CHARACTERS = 1 << 20


class TaskInput(Sequence[str]):
    """What a task is given: texts, with the columns that it asked for.

    Args:
        strings: The texts.
        columns: Further columns that the task asked for, by name, one value per text.

    Attributes:
        tokenizers: Those that the texts went through.
    """

    def __init__(
        self, strings: Sequence[str], columns: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        self.strings = list(strings)
        self.columns = dict(columns or {})
        self.tokenizers: dict[str, Tokenizer] = {}
        self._encoded: dict[str, Encoded] = {}

    def __len__(self) -> int:
        return len(self.strings)

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> TaskInput: ...

    def __getitem__(self, at: int | slice) -> str | TaskInput:
        if isinstance(at, slice):
            return TaskInput(self.strings[at], {k: v[at] for k, v in self.columns.items()})
        return self.strings[at]

    def __iter__(self) -> Iterator[str]:
        return iter(self.strings)

    def take(self, rows: Sequence[int]) -> TaskInput:
        """Some of the texts, with their columns."""
        columns = {name: [column[row] for row in rows] for name, column in self.columns.items()}
        return TaskInput([self.strings[row] for row in rows], columns)

    def encoded(self, tokens: Tokenizer) -> Encoded:
        """The texts' tokens, made at the first call for that tokenizer."""
        self.tokenizers[tokens.key] = tokens
        found = self._encoded.get(tokens.key)
        if (
            found is None
            or (found.offsets is None and tokens.with_offsets)
            or (found.words is None and tokens.with_words)
        ):
            found = self._encoded[tokens.key] = tokens.encode(self.strings)
        return found


@dataclass(frozen=True)
class Encoded:
    """The tokens of some texts, without special tokens, one after the other.

    Attributes:
        ids: Int32 of shape [tokens].
        starts: Int64 of shape [texts + 1]: text i has the tokens ``starts[i]:starts[i + 1]``.
        offsets: Int32 of shape [tokens, 2]: first character and one past the last, in the
            token's own text; None if nobody asked.
        words: Int32 of shape [tokens]: the word of the token, counted in its text by the
            tokenizer's own rule, -1 where it has none; None if nobody asked.
    """

    ids: np.ndarray
    starts: np.ndarray
    offsets: np.ndarray | None
    words: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, of shape [texts]."""
        return np.diff(self.starts)

    def row(self, text: int) -> np.ndarray:
        """The ids of one text."""
        return self.ids[self.starts[text] : self.starts[text + 1]]


class Tokenizer:
    """A fast tokenizer without truncation and padding, shared by all models that have the same.

    Args:
        tokenizer: A transformers tokenizer; it is copied and stays as it is.

    Attributes:
        key: Hash of all that the tokenizer does.
        with_offsets: Whether characters of tokens are wanted. Tasks set it when they are loaded.
        with_words: The same for words of tokens.
        backend: The library's own.
        pieces: What is faster for a tokenizer of BERT's form; None for others.
    """

    def __init__(self, tokenizer: Any) -> None:
        source = tokenizer.backend_tokenizer
        self.backend = type(source).from_str(source.to_str())
        self.backend.no_truncation()
        self.backend.no_padding()
        self.key = hashlib.sha256(self.json().encode()).hexdigest()
        self.prefix, self.suffix = self._special_tokens()
        self.with_offsets = False
        self.with_words = False
        self.pieces = WordPieces.of(self.backend)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Tokenizes texts whole, without special tokens, on all cores."""
        with_offsets, with_words = self.with_offsets, self.with_words
        parts = [
            self._chunk(chunk, with_offsets=with_offsets, with_words=with_words)
            for chunk in _chunks(texts)
        ]
        if not parts:
            parts = [self._by_library([], with_offsets=with_offsets, with_words=with_words)]
        return Encoded(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))]),
            _joined([part.offsets for part in parts]),
            _joined([part.words for part in parts]),
        )

    def _chunk(self, texts: list[str], *, with_offsets: bool, with_words: bool) -> Encoded:
        if self.pieces is None or with_words:
            return self._by_library(texts, with_offsets=with_offsets, with_words=with_words)
        made = self.pieces.ids(texts)
        if made is None:
            plain = self._by_library(texts, with_offsets=False, with_words=False)
            made = plain.ids, plain.lengths
        ids, counts = made
        offsets = self.pieces.offsets(texts, ids, counts) if with_offsets else None
        if with_offsets and offsets is None:
            return self._by_library(texts, with_offsets=True, with_words=False)
        return Encoded(ids, np.concatenate([[0], np.cumsum(counts)]), offsets)

    def _by_library(self, texts: list[str], *, with_offsets: bool, with_words: bool) -> Encoded:
        full = with_offsets or with_words
        encode = self.backend.encode_batch if full else self.backend.encode_batch_fast
        found = encode(texts, add_special_tokens=False)
        rows = [encoding.ids for encoding in found]
        counts = np.fromiter(map(len, rows), np.int64, len(rows))
        offsets = words = None
        if with_offsets:
            pairs = chain.from_iterable(encoding.offsets for encoding in found)
            offsets = np.fromiter(chain.from_iterable(pairs), np.int32, 2 * int(counts.sum()))
            offsets = offsets.reshape(-1, 2)
        if with_words:
            numbers = chain.from_iterable(encoding.word_ids for encoding in found)
            told = (-1 if word is None else word for word in numbers)
            words = np.fromiter(told, np.int32, int(counts.sum()))
        ids = np.fromiter(chain.from_iterable(rows), np.int32, int(counts.sum()))
        return Encoded(ids, np.concatenate([[0], np.cumsum(counts)]), offsets, words)

    def ids(self, text: str) -> list[int]:
        """The tokens of one text, such as a prompt's, without special tokens."""
        found: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return found

    def json(self) -> str:
        """The whole tokenizer, as ``tokenizer.json`` has it."""
        found: str = self.backend.to_str()
        return found

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a single text, such as [CLS] and [SEP]."""
        for probe in ("a", *self.backend.get_vocab()):  # an alphabet need not have an "a"
            full = self.backend.encode(probe, add_special_tokens=True)
            own = [at for at, part in enumerate(full.sequence_ids) if part is not None]
            if own:
                return full.ids[: own[0]], full.ids[own[-1] + 1 :]
        return [], []


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    found = [part for part in parts if part is not None]
    return np.concatenate(found) if found else None


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    start = 0
    while start < len(texts):
        before = int(ends[start - 1]) if start else 0
        fitting = int(np.searchsorted(ends, before + CHUNK_CHARACTERS, side="right"))
        stop = min(start + CHUNK_TEXTS, max(start + 1, fitting))
        yield list(texts[start:stop])
        start = stop
