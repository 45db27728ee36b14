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
from pipeline.models.batching import Sequences
from pipeline.models.text.pairs import Pairs
from pipeline.models.text.texts import Encoded
from pipeline.models.text.windows import cut
from pipeline.models.torch.inputs import ID_MASK, TEXT_BIT
from pipeline.models.torch.model import Model
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


def search(
    start: np.ndarray, end: np.ndarray, allowed: np.ndarray, *, longest: int
) -> list[Candidates]:
    """The best spans of each window.

    Args:
        start: Logits of shape [windows, tokens].
        end: The same for the last token of a span.
        allowed: Of the same shape: the text's tokens, and the first if it is CLS.
        longest: Tokens of the longest span.
    """
    starts, ends = _shares(start, allowed), _shares(end, allowed)
    nulls = starts[:, 0] * ends[:, 0]
    starts[:, 0] = ends[:, 0] = 0.0
    # reach[w, s, d] is the share of the token d after s.
    reach = np.lib.stride_tricks.sliding_window_view(
        np.pad(ends, ((0, 0), (0, longest - 1))), longest, axis=1
    )
    scores = (starts[:, :, None] * reach).reshape(len(starts), -1)
    kept = min(CANDIDATES, scores.shape[1])
    best = np.argpartition(-scores, kept - 1, axis=1)[:, :kept]
    out = []
    for row in range(len(scores)):
        order = best[row][np.argsort(-scores[row, best[row]], kind="stable")]
        first = order // longest
        last = first + order % longest
        good = scores[row, order] > 0
        good[good] = allowed[row, first[good]] & allowed[row, last[good]]
        out.append(Candidates(first[good], last[good], scores[row, order][good], float(nulls[row])))
    return out


def _shares(logits: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    masked = np.where(allowed, logits, np.float32(MASKED))
    exp = np.exp(masked - masked.max(axis=1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=1, keepdims=True))


@dataclass
class _Windows:
    """What is given to the model, and where it is from.

    Attributes:
        ids: Coded tokens of each window's sequence.
        owner: Its text.
        shift: What is added to a position in the sequence to get the token, counted over all
            texts.
    """

    ids: list[np.ndarray]
    owner: list[int]
    shift: list[int]


class AnswerSpans:
    """Finds answers with a loaded model.

    Args:
        model: With a question-answering head.
        questions: Of each text.
        null_answers: Whether there may be none.
        longest: Tokens of the longest answer.
        output_type: Of the column.
    """

    def __init__(
        self,
        model: Model,
        questions: Questions,
        *,
        null_answers: bool,
        longest: int,
        output_type: pa.DataType,
    ) -> None:
        self.model = model
        self.questions = questions
        self.null_answers = null_answers
        self.longest = longest
        self.output_type = output_type
        self.pairs = Pairs(model)
        before = self.pairs.before
        if before and before[0] & ID_MASK == model.tokenizer.cls_token_id:
            before[0] |= 1 << TEXT_BIT  # its score is that of no answer
        model.tokens.with_offsets = model.tokens.with_words = True
        if questions.fixed is not None:
            self._room(len(model.tokens.ids(questions.fixed)))

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One answer per text."""
        import pyarrow as pa

        asked, failures = self.questions.of(texts)
        encoded = self.model.encode(texts)
        windows = self._windows(encoded, asked, failures)
        inference = self.model.infer(Sequences.of(windows.ids), self._forward)
        for at, error in inference.failures.items():
            failures[windows.owner[at]] = error
        found: list[list[tuple[int, Candidates]]] = [[] for _ in texts]
        for at, candidates in enumerate(inference.results):
            if candidates is not None:
                found[windows.owner[at]].append((windows.shift[at], candidates))
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
        room = self.model.max_tokens - self.pairs.specials - question
        if room < 2 * self.longest:
            raise JobError(
                f"a question of {question} tokens leaves no room for an answer of "
                f"{self.longest}: the model takes {self.model.max_tokens}",
                hint="Shorten the question, or lower max_answer_tokens",
            )
        return room

    def _windows(
        self, encoded: Encoded, asked: Sequence[str], failures: dict[int, RowError]
    ) -> _Windows:
        """Sequences of question and window; rows whose question does not fit go to `failures`."""
        around = len(self.pairs.before) + len(self.pairs.between)
        content = self.pairs.code(encoded.ids, second=True, text=True)
        out = _Windows([], [], [])
        for row, ids in enumerate(self.pairs.each(asked)):
            if row in failures:
                continue
            try:
                room = self._room(len(ids))
            except JobError as error:
                failures[row] = RowError(error.message, code="question_too_long")
                continue
            question = self.pairs.code(ids, second=False, text=False)
            start, stop = int(encoded.starts[row]), int(encoded.starts[row + 1])
            overlap = max(self.longest - 1, min(STRIDE, room // 2))
            for window in cut(stop - start, size=room, overlap=overlap):
                inside = content[start + window.start : start + window.stop]
                out.ids.append(self.pairs.join(question, inside))
                out.owner.append(row)
                out.shift.append(start + window.start - around - len(ids))
        return out

    def _forward(self, coded: Any, mask: Any) -> list[Candidates]:
        inputs, allowed = self.pairs.take_apart(coded, mask)
        out = self.model.module(**inputs)
        return search(
            out.start_logits.float().cpu().numpy(),
            out.end_logits.float().cpu().numpy(),
            allowed.cpu().numpy(),
            longest=self.longest,
        )

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
