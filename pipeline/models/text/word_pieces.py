"""BERT's WordPiece by arrays: where each token stands in its text, and a faster library for ids.

Both are for tokenizers of one form, that of BERT and of most encoders made after it, for which they
were compared with the tokenizers library: the same ids and the same offsets, in 83,658 real texts
and 100,000 of random characters from all of Unicode. What they can't tell is asked of that library.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

# Of a code point that was not looked up yet.
UNKNOWN = -1
# Words that each thread of nanotoken remembers: 8 MB of them.
CACHE_ENTRIES = 1 << 16
FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


class WordPieces:
    """A tokenizer of BERT's form. Make it with `of`.

    Args:
        backend: Of the tokenizers library.
        unknown: The id of what no piece stands for.
        prefix: Of pieces that go on with a word.

    Attributes:
        library: nanotoken's tokenizer, None where it is not installed.
    """

    def __init__(self, backend: Any, *, unknown: int, prefix: str) -> None:
        self._backend = backend
        self._unknown = unknown
        vocabulary = backend.get_vocab()
        # There may be numbers that no token has.
        self._lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
        for token, number in vocabulary.items():
            self._lengths[number] = len(token.removeprefix(prefix))
        # How many characters, white space left out, the normalizer makes of a code point.
        self._made = np.full(0x110000, UNKNOWN, dtype=np.int8)
        self.library = _library(backend.to_str())

    @classmethod
    def of(cls, backend: Any) -> WordPieces | None:
        """None if the tokenizer is of another form."""
        said = json.loads(backend.to_str())
        model, normalizer = said["model"], said["normalizer"] or {}
        plain = (
            model["type"] == "WordPiece"
            and model["continuing_subword_prefix"] == "##"
            and normalizer.get("type") == "BertNormalizer"
            and normalizer["clean_text"]
            and normalizer["handle_chinese_chars"]
            and said["pre_tokenizer"] == {"type": "BertPreTokenizer"}
            and all(
                token["special"] and token["content"].isascii() and not any(map(token.get, FLAGS))
                for token in said["added_tokens"]
            )
        )
        unknown = backend.token_to_id(model["unk_token"]) if plain else None
        return None if unknown is None else cls(backend, unknown=unknown, prefix="##")

    def ids(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
        """Tokens by nanotoken, without special ones around them, while other threads go on.

        Returns:
            Int32 ids of shape [tokens] and the tokens of each text; None without the library.
        """
        if self.library is None:
            return None
        # As the tokenizers library has it, which Ray and forks of a process rely on.
        alone = os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("false", "0", "off")
        ids, starts = self.library.encode_batch(texts, add_special_tokens=False, parallel=not alone)
        return ids.view(np.int32), np.diff(starts)

    def offsets(
        self, texts: Sequence[str], ids: np.ndarray, counts: np.ndarray
    ) -> np.ndarray | None:
        """Where tokens stand in their texts.

        Each token takes as many of the characters that are left by the normalizer as it has. Texts
        with an unknown token, which may have any number, are tokenized again.

        Args:
            texts: What was tokenized.
            ids: Of all tokens, of shape [tokens].
            counts: Tokens of each text.

        Returns:
            Int32 of shape [tokens, 2]: first character and one past the last, in the token's own
            text; None if the ids are not those of the tokenizers library.
        """
        characters = np.frombuffer("".join(texts).encode("utf-32-le"), dtype="<u4")
        made = self._made_of(characters)
        # Of each character that is left: which of the text's it comes from.
        source = np.flatnonzero(made) if made.max(initial=0) <= 1 else _repeated(made)
        sizes = np.array([len(text) for text in texts], dtype=np.int64)
        text_ends = np.cumsum(sizes)
        text_starts = text_ends - sizes
        left = np.concatenate([[0], np.cumsum(made, dtype=np.int64)])
        lengths = self._lengths[ids]
        taken = np.concatenate([[0], np.cumsum(lengths)])
        token_ends = np.cumsum(counts)
        token_starts = token_ends - counts
        theirs = taken[token_ends] - taken[token_starts]
        doubtful = theirs != left[text_ends] - left[text_starts]
        owner = np.repeat(np.arange(len(texts)), counts)
        doubtful[owner[ids == self._unknown]] = True
        out = np.empty((len(ids), 2), dtype=np.int32)
        if len(source):
            # Of a doubtful text it may point anywhere, but not beyond the texts.
            shift = (left[text_starts] - taken[token_starts])[owner]
            first = np.minimum(taken[:-1] + shift, len(source) - 1)
            last = np.clip(first + lengths - 1, 0, len(source) - 1)
            begin = text_starts[owner]
            out[:, 0] = source[first] - begin
            out[:, 1] = source[last] + 1 - begin
        again = np.flatnonzero(doubtful).tolist()
        if again:
            found = self._backend.encode_batch([texts[a] for a in again], add_special_tokens=False)
            for text, encoding in zip(again, found, strict=True):
                span = slice(int(token_starts[text]), int(token_ends[text]))
                if encoding.ids != ids[span].tolist():
                    return None
                out[span] = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        return out

    def _made_of(self, characters: np.ndarray) -> np.ndarray:
        made = self._made[characters]
        new = made == UNKNOWN
        if new.any():
            normalizer = self._backend.normalizer
            for code in np.unique(characters[new]).tolist():
                self._made[code] = len(normalizer.normalize_str(chr(code)).replace(" ", ""))
            made = self._made[characters]
        return np.asarray(made)


def _repeated(made: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(made)), made)


def _library(tokenizer: str) -> Any:
    try:
        import nanotoken
    except ImportError:
        return None
    nanotoken.set_cache_entries(CACHE_ENTRIES)
    try:
        return nanotoken.WordPieceTokenizer.from_json(tokenizer)
    except ValueError:  # of a form that it does not know
        return None
