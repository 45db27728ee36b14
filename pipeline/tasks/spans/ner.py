"""NER: spans of text with a label, from a token-classification model, exact to the character."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from pipeline.models.heads import HeadName, Models, TokenClassifier
from pipeline.models.resolve import ModelInfo
from pipeline.models.results import TokenRows, spread
from pipeline.models.text.texts import Encoded
from pipeline.tasks.contract import Annotated, Example, Task, TaskOptions
from pipeline.tasks.spans.aggregate import ALL_SCORES, Spans, Tags, aggregate, text_gaps

if TYPE_CHECKING:
    import pyarrow as pa

# Tokens shared by neighbouring windows of a long text: context for an entity on the border.
OVERLAP = 64


class NerOptions(TaskOptions):
    """Spans of text with a label: names, places, addresses, ..."""

    kind: Literal["ner"]
    aggregation: Literal["none", "simple", "first", "average", "max"] = Field(
        "first",
        title="Tokens to entities",
        description="As Hugging Face defines them. none: a span per token. simple: neighbouring "
        "tokens of one tag. first, average, max: whole words, with the tag of the first token, of "
        "the mean of the tokens, or of the surest token.",
    )


class Ner(Task[NerOptions]):
    """Token classification, aggregated into spans.

    `aggregation` is `none`, `simple`, `first` (the default: whole words), `average` or `max`, as
    Hugging Face defines them. Offsets count characters of the text: `text[start:end]` is the
    entity's `text`, also in long texts, which are read in overlapping windows.
    """

    Options = NerOptions
    class_ends = ("ForTokenClassification",)
    needs = "a token-classification model (…ForTokenClassification)"
    examples = (
        Example("starter/pii"),
        Example("starter/pii", {"aggregation": "simple"}, name="simple"),
    )

    def output_type(self) -> pa.DataType:
        """``list<struct<label, text, start, end, score>>``; offsets count characters."""
        import pyarrow as pa

        return pa.list_(
            pa.struct(
                [
                    ("label", pa.string()),
                    ("text", pa.string()),
                    ("start", pa.int32()),
                    ("end", pa.int32()),
                    ("score", pa.float32()),
                ]
            )
        )

    def head(self, model: ModelInfo) -> HeadName:
        """The model is loaded as a token classifier."""
        return "token-classification"

    @property
    def has_labels(self) -> bool:
        """Those of its tokens or words."""
        return True

    def load(self, models: Models) -> NerAnnotate:
        """Loads the model with its token-classification head."""
        classifier = models.token_classifier(self.options.model)
        return NerAnnotate(classifier, self.options, self.output_type())


class NerAnnotate:
    """Finds entities with a loaded model.

    The token predictions of a long text's windows are put together before they are joined into
    entities, so an entity that crosses a border is found once and whole.
    """

    def __init__(
        self, classifier: TokenClassifier, options: NerOptions, output_type: pa.DataType
    ) -> None:
        self.classifier = classifier
        self.text = classifier.text
        self.options = options
        self.output_type = output_type
        self.tags = Tags.of(self.text.labels)
        self.words = WordRule(self.text.tokenizer)
        self.text.tokens.with_offsets = True

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One list of entities per text, empty where the model finds none."""
        encoded = self.text.encode(texts)
        sequences, cuts = self.text.windows(encoded, overlap=self._overlap())
        how = self.options.aggregation
        ask = self.classifier.scores if how in ALL_SCORES else self.classifier.strongest
        inference = ask(sequences)
        failures = {int(cuts.owner[index]): e for index, e in inference.failures.items()}
        good = np.ones(len(texts), dtype=bool)
        good[list(failures)] = False
        found = TokenRows.of(inference.results, sequences.lengths)
        kept = found.starts + len(self.text.prefix) + cuts.keep_start - cuts.start
        whole = good[cuts.owner]
        rows = spread(kept[whole], (cuts.keep_stop - cuts.keep_start)[whole])
        tokens = self._tokens(texts, good, encoded, found.values, rows)
        spans = aggregate(**tokens, tags=self.tags, how=how)
        return Annotated(
            self._column(texts, spans, good),
            failures,
            tokens=inference.tokens,
            padded_tokens=inference.padded_tokens,
            gaps=lambda: text_gaps(**tokens, how=how, count=len(texts)),
        )

    def _overlap(self) -> int:
        return min(OVERLAP, self.text.room // 4)

    def _tokens(
        self,
        texts: Sequence[str],
        good: np.ndarray,
        encoded: Encoded,
        scores: np.ndarray,
        rows: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """What is known of the tokens of good texts, as `aggregate` takes it."""
        assert encoded.offsets is not None
        owner = np.repeat(np.arange(len(texts)), encoded.lengths)
        inside = slice(None) if good.all() else good[owner]
        owner, flat, offsets = owner[inside], encoded.ids[inside], encoded.offsets[inside]
        return {
            "scores": scores,
            "rows": rows,
            "texts": owner,
            "starts": offsets[:, 0],
            "ends": offsets[:, 1],
            "subword": self.words.subword(texts, owner, flat, offsets),
        }

    def _column(self, texts: Sequence[str], spans: Spans, good: np.ndarray) -> pa.Array:
        import pyarrow as pa

        given = list(texts)
        names = self.tags.labels if self.options.aggregation == "none" else self.tags.names
        entities = pa.StructArray.from_arrays(
            [
                pa.array(list(names), pa.string()).take(pa.array(spans.label)),
                pa.array(
                    [
                        given[row][start:end]
                        for row, start, end in zip(
                            spans.text.tolist(),
                            spans.start.tolist(),
                            spans.end.tolist(),
                            strict=True,
                        )
                    ],
                    pa.string(),
                ),
                pa.array(spans.start.astype(np.int32, copy=False)),
                pa.array(spans.end.astype(np.int32, copy=False)),
                pa.array(spans.score.astype(np.float32)),
            ],
            fields=list(self.output_type.value_type),
        )
        borders = np.searchsorted(spans.text, np.arange(len(texts) + 1)).astype(np.int32)
        return pa.ListArray.from_arrays(
            pa.array(borders), entities, type=self.output_type, mask=pa.array(~good)
        )


class WordRule:
    """Which tokens continue a word, by the rule of Hugging Face's pipeline.

    A tokenizer that marks continuations (WordPiece's ``##``) tells by length: the token is longer
    than the text it stands for. For any other, a token continues a word when there is no space at
    or right before its start. The unknown token never does.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = tokenizer.backend_tokenizer
        self.marks = bool(getattr(backend.model, "continuing_subword_prefix", None))
        self.unknown = tokenizer.unk_token_id
        vocabulary = backend.get_vocab(with_added_tokens=True)
        # There may be numbers that no token has.
        self.lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int32)
        for token, number in vocabulary.items():
            self.lengths[number] = len(token)

    def subword(
        self,
        texts: Sequence[str],
        owner: np.ndarray,
        ids: np.ndarray,
        offsets: np.ndarray,
    ) -> np.ndarray:
        """For each token, whether it continues the word of the token before it."""
        starts, ends = offsets[:, 0], offsets[:, 1]
        if self.marks:
            out = self.lengths[ids] != ends - starts
        else:
            # A space more, as a token without characters may start where the last text ends.
            characters = np.frombuffer(("".join(texts) + " ").encode("utf-32-le"), dtype="<u4")
            lengths = np.array([len(text) for text in texts], dtype=np.int64)
            ends_at = np.cumsum(lengths)
            at = (ends_at - lengths)[owner] + starts
            space = characters == ord(" ")
            out = (starts > 0) & ~space[at - 1] & ~(space[at] & (at < ends_at[owner]))
        if self.unknown is not None:
            out &= ids != self.unknown
        return np.asarray(out, dtype=bool)
