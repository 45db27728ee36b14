"""Keywords: the phrases of a text that are nearest to it and do not repeat each other.

Candidates are runs of the text's own words. They and the text are embedded, and maximal marginal
relevance picks among them: J. Carbonell and J. Goldstein, "The use of MMR, diversity-based
reranking for reordering documents and producing summaries", SIGIR 1998. KeyBERT does the same; its
candidates cross punctuation, and it sorts what was picked by score.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from pipeline.models.heads import Models
from pipeline.models.resolve import ModelInfo
from pipeline.models.sentence import SentenceEncoder, unit
from pipeline.models.sentence_files import check_encodes
from pipeline.models.text.words import Phrase, folded, phrases
from pipeline.tasks.contract import Annotated, Example, Task, TaskOptions

if TYPE_CHECKING:
    import pyarrow as pa

# MMR picks among so many of the nearest phrases: what is further away is not about the text.
NEAREST = 1_000
# Different phrases that are embedded together: 25 MB of vectors of 384 numbers. Those of some 60
# reviews; a longer text is taken in parts.
AT_ONCE = 16_384
# Vectors of the same phrase differ by less than this from batch to batch.
SAME = 1e-5


class KeywordsOptions(TaskOptions):
    """Phrases of the text that say what it is about."""

    kind: Literal["keywords"]
    top_k: int = Field(5, title="Phrases", description="At most so many.", ge=1, le=100)
    min_words: int = Field(
        1, title="Shortest phrase", description="Words of the shortest phrase.", ge=1, le=5
    )
    max_words: int = Field(
        3,
        title="Longest phrase",
        description="Words of the longest phrase. Each more means more phrases to embed: "
        "three times as many for 3 as for 1.",
        ge=1,
        le=5,
    )
    diversity: float = Field(
        0.4,
        title="Diversity",
        description="How much a phrase loses by being like those that were picked before it: 0, "
        "the nearest to the text, however alike; 1, those that are least alike.",
        ge=0,
        le=1,
    )
    stop_words: tuple[str, ...] = Field(
        (),
        title="Stop words",
        description="No phrase begins or ends with one of them, in any case: `the`, `of`. None by "
        "default, as they depend on the language.",
        strict=False,
    )

    @field_validator("stop_words")
    @classmethod
    def _each_is_one_word(cls, stop_words: tuple[str, ...]) -> tuple[str, ...]:
        for word in stop_words:
            if len(word.split()) != 1:
                raise ValueError(f"`{word}` is not one word: write each stop word by itself")
        return stop_words

    @model_validator(mode="after")
    def _shortest_is_not_longer(self) -> KeywordsOptions:
        if self.min_words > self.max_words:
            raise ValueError(
                f"min_words ({self.min_words}) is more than max_words ({self.max_words})"
            )
        return self


class Keywords(Task[KeywordsOptions]):
    """Key phrases of a text, by embedding and maximal marginal relevance.

    The phrases of `min_words` to `max_words` words (1 to 3 by default) that are nearest to the
    text, `top_k` (5) in the order in which they were picked: each next one is near to the text and
    unlike the ones before, the more so the higher `diversity` is (0.4). `score` is the cosine
    between phrase and text. A phrase is a run of the text's own words, `text[start:end]` where it
    first occurs, without punctuation inside; the same in another case is the same. None begins or
    ends with one of `stop_words`: give those of your language, [the job](jobs/keyword_reviews.yaml)
    has the English ones. All phrases of a text of any length are weighed against all of it, which
    takes about three times as long as `embed`; the last choice is among the 1,000 nearest. In
    Chinese and Japanese each character counts as a word (try `max_words: 4`); of Thai, Lao, Khmer
    and Burmese, which put no spaces between words, whole clauses are phrases. A text without words
    has none: an empty list.
    """

    Options = KeywordsOptions
    needs = "any encoder"
    examples = (
        Example("starter/minilm", texts=("🙂!", "... ?", "Word", "the THE The tHE.", "1 2 3 4 5")),
        Example(
            "starter/minilm",
            {"top_k": 3, "max_words": 3, "diversity": 0.0, "stop_words": ["the", "is", "a"]},
            name="nearest",
        ),
    )

    def output_type(self) -> pa.DataType:
        """``list<struct<text, start, end, score>>``; offsets count characters."""
        import pyarrow as pa

        return pa.list_(
            pa.struct(
                [
                    ("text", pa.string()),
                    ("start", pa.int32()),
                    ("end", pa.int32()),
                    ("score", pa.float32()),
                ]
            )
        )

    def check_model(self, model: ModelInfo) -> None:
        """Refuses a model that has no one vector per token, or a part that is not built here.

        Raises:
            JobError: The model writes text, or its files ask for more than pooling.
        """
        check_encodes(model, kind=self.options.kind)

    def load(self, models: Models) -> KeywordsAnnotate:
        """Loads the encoder."""
        encoder = SentenceEncoder(models.encoder(self.options.model), reference=self.options.model)
        return KeywordsAnnotate(encoder, self.options, self.output_type())


class KeywordsAnnotate:
    """Finds key phrases with a loaded encoder."""

    def __init__(
        self, encoder: SentenceEncoder, options: KeywordsOptions, output_type: pa.DataType
    ) -> None:
        self.encoder = encoder
        self.options = options
        self.output_type = output_type
        self.stops = frozenset(map(folded, options.stop_words))

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """A list of phrases per text, empty where it has none."""
        import pyarrow as pa

        found = self.encoder.window_vectors(texts)
        answer = Annotated(pa.nulls(0), dict(found.failures), found.tokens, found.padded_tokens)
        rows: list[list[dict[str, Any]] | None] = [[] for _ in texts]
        if len(found.failures) < len(texts):
            wanted = unit(self.encoder.merge(found, rows=len(texts)))
            held: dict[int, _Nearest] = {}
            for part in self._parts(texts, without=answer.failures):
                self._weigh(part, wanted, held, answer)
                # Of the last there may be more to come.
                for row in [row for row in held if row != part[-1][0]]:
                    rows[row] = self._picked(texts[row], held.pop(row))
            for row, nearest in held.items():
                rows[row] = self._picked(texts[row], nearest)
        for row in answer.failures:
            rows[row] = None
        answer.column = pa.array(rows, self.output_type)
        return answer

    def _parts(
        self, texts: Sequence[str], *, without: Collection[int]
    ) -> Iterator[list[tuple[int, list[Phrase]]]]:
        """The candidates of all texts, by row, in parts that are embedded together."""
        part: list[tuple[int, list[Phrase]]] = []
        different: set[str] = set()
        for row, text in enumerate(texts):
            if row in without:
                continue
            options = self.options
            found = phrases(text, least=options.min_words, most=options.max_words, stops=self.stops)
            while some := list(islice(found, AT_ONCE)):
                part.append((row, some))
                different.update(phrase.said for phrase in some)
                if len(different) >= AT_ONCE:
                    yield part
                    part, different = [], set()
        if part:
            yield part

    def _weigh(
        self,
        part: Sequence[tuple[int, list[Phrase]]],
        wanted: np.ndarray,
        held: dict[int, _Nearest],
        answer: Annotated,
    ) -> None:
        """Embeds each different phrase of a part once, and keeps the nearest of each row."""
        places: dict[str, int] = {}
        for _, some in part:
            for phrase in some:
                places.setdefault(phrase.said, len(places))
        found = self.encoder.window_vectors(list(places))
        answer.tokens += found.tokens
        answer.padded_tokens += found.padded_tokens
        vectors = np.zeros((len(places), wanted.shape[1]), dtype=np.float32)
        if len(found.failures) < len(places):
            vectors = unit(self.encoder.merge(found, rows=len(places)))
        for row, some in part:
            at = np.array([places[phrase.said] for phrase in some])
            for place in found.failures.keys() & set(at.tolist()):
                answer.failures.setdefault(row, found.failures[place])
            held.setdefault(row, _Nearest()).add(some, vectors[at], wanted[row])

    def _picked(self, text: str, nearest: _Nearest) -> list[dict[str, Any]]:
        """What maximal marginal relevance picks, in that order."""
        picked = mmr(
            nearest.scores,
            nearest.vectors,
            most=self.options.top_k,
            diversity=self.options.diversity,
        )
        return [
            {
                "text": text[nearest.phrases[at].start : nearest.phrases[at].end],
                "start": nearest.phrases[at].start,
                "end": nearest.phrases[at].end,
                "score": float(nearest.scores[at]),
            }
            for at in picked
        ]


class _Nearest:
    """The candidates of a text that are nearest to it, in the text's order."""

    def __init__(self) -> None:
        self.phrases: list[Phrase] = []
        self.scores = np.zeros(0, dtype=np.float32)
        self.vectors: np.ndarray = np.zeros((0, 0), dtype=np.float32)

    def add(self, phrases: Sequence[Phrase], vectors: np.ndarray, wanted: np.ndarray) -> None:
        """Weighs more candidates."""
        first = not self.phrases
        self.phrases = [*self.phrases, *phrases]
        self.scores = np.concatenate([self.scores, np.clip(vectors @ wanted, -1, 1)])
        self.vectors = vectors if first else np.concatenate([self.vectors, vectors])
        if len(self.phrases) > NEAREST:
            kept = np.sort(np.argsort(-self.scores, kind="stable")[:NEAREST])
            self.phrases = [self.phrases[at] for at in kept]
            self.scores, self.vectors = self.scores[kept], self.vectors[kept]


def mmr(scores: np.ndarray, vectors: np.ndarray, *, most: int, diversity: float) -> list[int]:
    """Maximal marginal relevance: the places of what is picked, in that order.

    Args:
        scores: How near each candidate is, of shape [candidates].
        vectors: Of length 1, of shape [candidates, dim].
        most: How many are picked, if there are so many.
        diversity: What likeness to those that were picked counts, 0 to 1; nearness counts the
            rest. Of equals the first is picked.
    """
    picked: list[int] = []
    left = np.ones(len(scores), dtype=bool)
    alike = np.zeros(len(scores), dtype=np.float32)
    for _ in range(min(most, len(scores))):
        value = (1 - diversity) * scores - diversity * alike if picked else scores
        value = np.where(left, value, -np.inf)
        at = int(np.argmax(value >= value.max() - SAME))
        likeness = vectors @ vectors[at]
        alike = np.maximum(alike, likeness) if picked else likeness
        left[at] = False
        picked.append(at)
    return picked
