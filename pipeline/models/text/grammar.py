"""JSON by construction: at each step only tokens that can still lead to a valid document.

By llguidance: of the libraries that constrain decoding it alone has no dependencies, and it needs
no table per schema (for SmolLM2's 49,152 tokens a schema of five fields is ready in 3 ms and a
mask takes 35 us; outlines-core takes 640 ms to make its table).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from pipeline.errors import JobError, one_line
from pipeline.models.text.texts import Tokenizer

# As json.dumps writes, which models have seen most; free white space lets small ones run away.
ITEM_SEPARATOR, KEY_SEPARATOR = ", ", ": "


def trouble_with(schema: Mapping[str, Any]) -> str:
    """Why no text follows a JSON Schema, or none can be held to it; empty if all is well."""
    from llguidance import LLMatcher

    return one_line(LLMatcher.validate_grammar(_rules(schema), None))


def _rules(schema: Mapping[str, Any]) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(
        json.dumps(schema),
        overrides={
            "whitespace_flexible": False,
            "item_separator": ITEM_SEPARATOR,
            "key_separator": KEY_SEPARATOR,
        },
    )


class Grammar:
    """A JSON Schema, ready for a model's tokens.

    Args:
        tokenizer: Of the model that will write.
        schema: A JSON Schema.
        ends: The tokens that end what the model writes.

    Raises:
        JobError: The schema can't be followed, or the model has no end token.
    """

    def __init__(
        self, tokenizer: Tokenizer, schema: Mapping[str, Any], *, ends: Collection[int]
    ) -> None:
        from llguidance import LLMatcher, LLTokenizer

        if not ends:
            raise JobError(
                "the model has no end token, so it can't tell when its JSON is complete",
                hint="Set eos_token_id in the model's generation_config.json",
            )
        try:
            self._tokenizer = LLTokenizer(tokenizer.json(), eos_token=sorted(ends))
        except ValueError as error:
            raise JobError(
                f"the model's tokenizer can't be used to write JSON: {one_line(error)}",
                hint="Name a model whose tokenizer can write any byte, as those of chat models can",
            ) from error
        self._rules = _rules(schema)
        trouble = LLMatcher.validate_grammar(self._rules, self._tokenizer)
        if trouble:
            raise JobError(
                f"json_schema can't be followed: {one_line(trouble)}", hint="Simplify the schema"
            )

        self._empty = LLMatcher(self._tokenizer, self._rules)
        self._ends = np.array(sorted(ends))

    def documents(self, *, threads: int = 1) -> Documents:
        """What keeps account of documents that follow the schema.

        Args:
            threads: As many documents are looked at at once.
        """
        return Documents(
            self._empty,
            ends=self._ends,
            vocabulary=self._tokenizer.vocab_size,
            threads=threads,
        )


class Documents:
    """How far the documents are that are being written, each known by a number.

    Args:
        empty: Of llguidance, a document of which nothing is written yet.
        ends: The tokens that end a document.
        vocabulary: How many tokens the grammar knows; a model may have more, to round it up.
        threads: As many documents are looked at at once.
    """

    def __init__(self, empty: Any, *, ends: np.ndarray, vocabulary: int, threads: int) -> None:
        from llguidance import LLExecutor

        self._empty = empty
        self._ends = ends
        self._vocabulary = vocabulary
        self._executor = LLExecutor(threads)
        self._matchers: dict[int, Any] = {}
        self._ended: set[int] = set()

    def begin(self, documents: np.ndarray) -> None:
        """Nothing is written of these, or nothing any more."""
        for number in documents.tolist():
            # Copies share what they find out: they take 1 us for 450, and a mask 20 us for 55.
            self._matchers[number] = self._empty.deep_copy()
            self._ended.discard(number)

    def take(self, documents: np.ndarray, tokens: np.ndarray) -> None:
        """Documents go on with a token each; behind the end token any is padding."""
        taken = [
            (self._matchers[number], token)
            for number, token in zip(documents.tolist(), tokens.tolist(), strict=True)
            if number not in self._ended
        ]
        if taken:
            self._executor.consume_token_par(taken)
        self._ended.update(documents[np.isin(tokens, self._ends)].tolist())

    def certain(self, documents: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """What comes next if it is the likeliest of what may, where that is known without a mask.

        A mask holds a text that alone can come in the tokenizer's own tokens, while a document
        takes it in any: so what is forced is asked for first. For SmolLM2's tokens that takes 3 us
        a document, whether it takes a token 7, and a mask 30 to 270.

        Args:
            documents: Which, each once.
            tokens: The likeliest for each if anything might come.

        Returns:
            A token for each, or -1 where the mask has to say.
        """
        found = np.full(len(documents), -1, dtype=np.int64)
        for at, (number, token) in enumerate(zip(documents.tolist(), tokens.tolist(), strict=True)):
            if number in self._ended:
                found[at] = token
                continue
            matcher = self._matchers[number]
            if forced := _forced(matcher):
                found[at] = forced[0]
            elif token < self._vocabulary and matcher.validate_tokens([token]) == 1:
                found[at] = token
        return found

    def take_forced(self, document: int, *, most: int) -> list[int]:
        """A document goes on as long as one token alone can come, which is what it would take.

        Args:
            document: Which.
            most: The most tokens.

        Returns:
            What it took.
        """
        found: list[int] = []
        matcher = self._matchers[document]
        while document not in self._ended and len(found) < most and (forced := _forced(matcher)):
            # One by one: after it, what follows may be cut into other tokens.
            matcher.consume_token(forced[0])
            found.append(forced[0])
            if forced[0] in self._ends:
                self._ended.add(document)
        return found

    def allowed(self, documents: np.ndarray) -> np.ndarray:
        """Which tokens may come next, a bit for each.

        Args:
            documents: Which, each once.

        Returns:
            Uint8 of shape [documents, bytes]: the first token is the lowest bit of the first byte.
            Tokens that the grammar does not know have none, or 0.
        """
        words = np.zeros((len(documents), -(-self._vocabulary // 32)), dtype="<i4")
        asked = []
        for at, number in enumerate(documents.tolist()):
            if number in self._ended:
                words[at] = -1
            else:
                asked.append((self._matchers[number], at))
        if asked:
            self._executor.unsafe_compute_mask_ptr(
                asked, words.ctypes.data, words.strides[0], len(words)
            )
        return words.view(np.uint8)


def _forced(matcher: Any) -> list[int]:
    """The tokens of what alone can come next; none where several may."""
    return matcher.compute_ff_tokens() if matcher.compute_ff_bytes() else []
