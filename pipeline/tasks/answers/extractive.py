"""The span of a text that answers a question, found by a question-answering head.

The rule is that of the question-answering pipeline, which transformers 5 dropped (source:
transformers 4.57, ``pipelines/question_answering.py``, Apache-2.0), with its defaults:

1. The logits of all tokens but the text's and the first (CLS) are set to -10,000, and each window's
   start logits and end logits become shares of one by softmax.
2. The null score is the product of the CLS token's two shares, the least over the windows. Then
   the CLS token is out.
3. A span of at most `longest` tokens scores the product of its first token's start share and its
   last token's end share. The best 12 of each window are kept.
4. Each is widened to whole words. Spans of the same letters, case aside, are one answer, whose
   score is their sum, at the place of the first.
5. The best answer wins, unless null answers are allowed and the null score is greater.

Two things differ: windows are as long as the model takes (the pipeline: 384 tokens) and about
equally long; and a word on a window's border is widened to its letters outside of the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import JobError, RowError
from pipeline.models.heads import SpanScorer
from pipeline.models.text.layout import ID_MASK
from pipeline.models.text.pairs import Pairs
from pipeline.models.text.texts import Encoded
from pipeline.models.text.windows import cut
from pipeline.tasks.answers.questions import Questions
from pipeline.tasks.contract import Annotated

if TYPE_CHECKING:
    import pyarrow as pa

CANDIDATES = 12  # of a window: the pipeline's 2 * top_k + 10
STRIDE = 128  # tokens that neighbouring windows share, as in the pipeline
MASKED = -10_000.0


@dataclass(frozen=True)
class Candidates:
    """The best spans of a window.

    Attributes:
        starts: First token of each, counted in the sequence, best first.
        ends: Its last token.
        scores: Float32, more than 0.
        null: The score of no answer.
    """

    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray
    null: float


def search(start: np.ndarray, end: np.ndarray, allowed: np.ndarray, *, longest: int) -> Candidates:
    """The best spans of a window.

    Args:
        start: Logits of shape [tokens].
        end: The same for the last token of a span.
        allowed: Of the same shape: the text's tokens, and the first if it is CLS.
        longest: Tokens of the longest span.
    """
    starts, ends = _shares(start, allowed), _shares(end, allowed)
    null = float(starts[0] * ends[0])
    starts[0] = ends[0] = 0.0
    # reach[s, d] is the share of the token d after s.
    reach = np.lib.stride_tricks.sliding_window_view(np.pad(ends, (0, longest - 1)), longest)
    scores = (starts[:, None] * reach).ravel()
    kept = min(CANDIDATES, len(scores))
    best = np.argpartition(-scores, kept - 1)[:kept]
    order = best[np.argsort(-scores[best], kind="stable")]
    first = order // longest
    last = first + order % longest
    good = scores[order] > 0
    good[good] = allowed[first[good]] & allowed[last[good]]
    return Candidates(first[good], last[good], scores[order][good], null)


def _shares(logits: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    masked = np.where(allowed, logits, np.float32(MASKED))
    exp = np.exp(masked - masked.max())
    return np.asarray(exp / exp.sum())


@dataclass(frozen=True)
class _Asked:
    """A question with a window of a text, as the model is given them.

    Attributes:
        ids: The coded sequence.
        owner: The text.
        first: Where the window starts in the sequence.
        tokens: Of the window.
        token: Its first token, counted over all texts.
    """

    ids: np.ndarray
    owner: int
    first: int
    tokens: int
    token: int


class AnswerSpans:
    """Finds answers with a loaded model.

    Args:
        scorer: A model with a question-answering head.
        questions: Of each text.
        null_answers: Whether there may be none.
        longest: Tokens of the longest answer.
        output_type: Of the column.
    """

    def __init__(
        self,
        scorer: SpanScorer,
        questions: Questions,
        *,
        null_answers: bool,
        longest: int,
        output_type: pa.DataType,
    ) -> None:
        text = scorer.text
        self.scorer = scorer
        self.text = text
        self.questions = questions
        self.null_answers = null_answers
        self.longest = longest
        self.output_type = output_type
        self.pairs = Pairs(text)
        before = self.pairs.before
        # Where sequences start with CLS, its score is that of no answer.
        self._has_null = bool(before) and before[0] & ID_MASK == text.tokenizer.cls_token_id
        text.tokens.with_offsets = text.tokens.with_words = True
        if questions.fixed is not None:
            self._room(len(text.tokens.ids(questions.fixed)))

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One answer per text."""
        import pyarrow as pa

        asked, failures = self.questions.of(texts)
        encoded = self.text.encode(texts)
        windows = self._ask(encoded, asked, failures)
        inference = self.scorer.logits(self.pairs.sequences([window.ids for window in windows]))
        for at, error in inference.failures.items():
            failures[windows[at].owner] = error
        found: list[list[tuple[int, Candidates]]] = [[] for _ in texts]
        for window, logits in zip(windows, inference.results, strict=True):
            if logits is not None:
                shift = window.token - window.first
                found[window.owner].append((shift, self._search(window, logits)))
        words = _Words(encoded)
        rows = [
            None if row in failures else self._best(text, found[row], words)
            for row, text in enumerate(texts)
        ]
        return Annotated(
            pa.array(rows, self.output_type),
            failures,
            tokens=inference.tokens,
            padded_tokens=inference.padded_tokens,
        )

    def _room(self, question: int) -> int:
        """Tokens of a text that fit beside a question of some tokens.

        Raises:
            JobError: There are fewer than twice the longest answer has.
        """
        room = self.text.max_tokens - self.pairs.specials - question
        if room < 2 * self.longest:
            raise JobError(
                f"a question of {question} tokens leaves no room for an answer of "
                f"{self.longest}: the model takes {self.text.max_tokens}",
                hint="Shorten the question, or lower max_answer_tokens",
            )
        return room

    def _ask(
        self, encoded: Encoded, asked: Sequence[str], failures: dict[int, RowError]
    ) -> list[_Asked]:
        """Questions with windows; rows whose question does not fit go to `failures`."""
        around = len(self.pairs.before) + len(self.pairs.between)
        content = self.pairs.code(encoded.ids, second=True)
        out: list[_Asked] = []
        for row, ids in enumerate(self.pairs.each(asked)):
            if row in failures:
                continue
            try:
                room = self._room(len(ids))
            except JobError as error:
                failures[row] = RowError(error.message, code="question_too_long")
                continue
            question = self.pairs.code(ids, second=False)
            start, stop = int(encoded.starts[row]), int(encoded.starts[row + 1])
            overlap = max(self.longest - 1, min(STRIDE, room // 2))
            for window in cut(stop - start, size=room, overlap=overlap):
                token, tokens = start + window.start, window.stop - window.start
                sequence = self.pairs.join(question, content[token : token + tokens])
                out.append(_Asked(sequence, row, around + len(ids), tokens, token))
        return out

    def _search(self, window: _Asked, logits: np.ndarray) -> Candidates:
        allowed = np.zeros(len(window.ids), dtype=bool)
        allowed[window.first : window.first + window.tokens] = True
        allowed[0] |= self._has_null
        return search(logits[0], logits[1], allowed, longest=self.longest)

    def _best(
        self, text: str, found: Sequence[tuple[int, Candidates]], words: _Words
    ) -> dict[str, Any]:
        """The best answer over the windows of a text."""
        scores: dict[str, float] = {}
        places: dict[str, tuple[int, int]] = {}
        null = min((candidates.null for _, candidates in found), default=0.0)
        for shift, candidates in found:
            for first, last, score in zip(
                (candidates.starts + shift).tolist(),
                (candidates.ends + shift).tolist(),
                candidates.scores.tolist(),
                strict=True,
            ):
                start, end = words.around(first, last)
                key = text[start:end].lower()
                places.setdefault(key, (start, end))
                scores[key] = scores.get(key, 0.0) + score
        best = max(scores, key=scores.__getitem__, default=None)
        if best is None or (self.null_answers and null > scores[best]):
            return {"text": None, "start": None, "end": None, "score": null, "truncated": False}
        start, end = places[best]
        answer = {"text": text[start:end], "start": start, "end": end, "score": scores[best]}
        return {**answer, "truncated": False}  # all windows are read


class _Words:
    """The characters of whole words, from the tokens of many texts."""

    def __init__(self, encoded: Encoded) -> None:
        assert encoded.offsets is not None
        assert encoded.words is not None
        self.words, self.offsets = encoded.words, encoded.offsets
        count = len(self.words)
        opens = np.ones(count + 1, dtype=bool)
        opens[1:count] = self.words[1:] != self.words[:-1]
        opens[encoded.starts] = True
        at = np.flatnonzero(opens)
        self.first = np.repeat(at[:-1], np.diff(at))
        self.last = np.repeat(at[1:] - 1, np.diff(at))

    def around(self, first: int, last: int) -> tuple[int, int]:
        """First character of a span of tokens and one past its last, widened to whole words."""
        if self.words[first] >= 0 and self.words[last] >= 0:
            first, last = int(self.first[first]), int(self.last[last])
        return int(self.offsets[first, 0]), int(self.offsets[last, 1])
