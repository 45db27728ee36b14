"""Classify: one label per text, or a score per label, from a sequence-classification model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from pipeline.errors import RowError
from pipeline.models.heads import Classifier, HeadName, Models
from pipeline.models.resolve import ModelInfo
from pipeline.models.results import stacked
from pipeline.models.text.side import TextSide
from pipeline.tasks.contract import Annotated, Example, Task, TaskOptions
from pipeline.tasks.labels.text_pairs import TextPairs
from pipeline.tasks.ties import gaps

if TYPE_CHECKING:
    import pyarrow as pa

Merge = Literal["mean", "max", "first"]


class ClassifyOptions(TaskOptions):
    """A label per text, with the scores of all labels."""

    kind: Literal["classify"]
    top_k: int | None = Field(
        None,
        title="Scores kept",
        description="How many of the best labels `scores` holds; all by default.",
        ge=1,
    )
    activation: Literal["auto", "softmax", "sigmoid", "none"] = Field(
        "auto",
        title="Logits to scores",
        description="softmax: one label holds (single-label); sigmoid: each label holds or not "
        "(multi-label); none: regression. auto: as the model's problem_type says.",
    )
    pair: str | None = Field(
        None,
        title="Second text",
        description="A column, or another task that writes text, which the model reads beside each "
        "text, for models of pairs: does the text entail it, does it say the same, does it answer "
        "the text.",
        min_length=1,
    )
    merge: Merge = Field(
        "mean",
        title="Long texts",
        description="How the windows of a text longer than the model takes become one result: "
        "mean (weighted by length), max, or first.",
    )


class Classify(Task[ClassifyOptions]):
    """A label per text, with the scores of all labels.

    Single- and multi-label, as the model says (`activation` overrides). `top_k` limits `scores`. A
    text longer than the model is read in windows; `merge` is `mean` by length (the default), `max`
    or `first` (all that fits, as truncation would leave it). `pair` names the second text for
    models of pairs, which is read whole beside each window.
    """

    Options = ClassifyOptions
    class_ends = ("ForSequenceClassification",)
    needs = "a sequence-classification model (…ForSequenceClassification)"
    examples = (
        Example("starter/sentiment"),
        Example("starter/sentiment", {"top_k": 1, "merge": "max"}, name="best"),
    )

    def output_type(self) -> pa.DataType:
        """``struct<label, score, scores: list<struct<label, score>>>``, best label first."""
        return ranking_type()

    def extra_columns(self) -> tuple[str, ...]:
        """The column of second texts, if there is one."""
        return () if self.options.pair is None else (self.options.pair,)

    def head(self, model: ModelInfo) -> HeadName:
        """The model is loaded as a sequence classifier."""
        return "sequence-classification"

    @property
    def has_labels(self) -> bool:
        """Not of a regression, whose scores are its results."""
        problem = self.info.config.get("problem_type") if self.info is not None else None
        how = self.options.activation
        return how != "none" and not (how == "auto" and problem == "regression")

    def load(self, models: Models) -> ClassifyAnnotate:
        """Loads the model with its classification head."""
        classifier = models.classifier(self.options.model)
        return ClassifyAnnotate(classifier, self.options, self.output_type())


class ClassifyAnnotate:
    """Classifies texts with a loaded model."""

    def __init__(
        self, classifier: Classifier, options: ClassifyOptions, output_type: pa.DataType
    ) -> None:
        self.classifier = classifier
        self.text = classifier.text
        self.options = options
        self.output_type = output_type
        self.activation = options.activation
        if self.activation == "auto":
            self.activation = _activation(self.text)
        first = options.merge == "first"
        self.pairs = TextPairs(self.text, options.pair, first=first) if options.pair else None

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One label struct per text; windows of a long text are merged as the job says."""
        failures: dict[int, RowError] = {}
        if self.pairs is not None:
            sequences, owner, weights, failures = self.pairs.sequences(texts)
        else:
            sequences, cuts = self.text.windows(
                self.text.encode(texts), first=self.options.merge == "first"
            )
            owner, weights = cuts.owner, cuts.weights
        inference = self.classifier.logits(sequences)
        failures = {int(owner[at]): e for at, e in inference.failures.items()} | failures
        logits = stacked(inference.results, width=len(self.text.labels))
        scores = merge_windows(
            activate(logits, self.activation),
            owner,
            weights,
            rows=len(texts),
            how=self.options.merge,
        )
        return Annotated(
            ranking(
                scores,
                self.text.labels,
                top_k=self.options.top_k,
                failures=failures,
                kind=self.output_type,
            ),
            failures,
            tokens=inference.tokens,
            padded_tokens=inference.padded_tokens,
            gaps=lambda: gaps(scores, each=self.activation == "sigmoid"),
        )


def _activation(text: TextSide) -> Literal["softmax", "sigmoid", "none"]:
    """What transformers' text-classification pipeline would apply to this model's logits."""
    config = text.config
    if config.problem_type == "regression":
        return "none"
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return "sigmoid"
    return "softmax"


def ranking_type() -> pa.DataType:
    """The type of a `ranking`."""
    import pyarrow as pa

    score = pa.struct([("label", pa.string()), ("score", pa.float32())])
    return pa.struct([("label", pa.string()), ("score", pa.float32()), ("scores", pa.list_(score))])


def ranking(
    scores: np.ndarray,
    labels: Sequence[str],
    *,
    top_k: int | None,
    failures: Collection[int],
    kind: pa.DataType,
) -> pa.Array:
    """Scores of shape [rows, labels] -> a column, without an object per row.

    Args:
        scores: Of each label.
        labels: Their names.
        top_k: How many of the best are kept; all if None.
        failures: Rows that become null.
        kind: The column's type: `ranking_type`.
    """
    import pyarrow as pa

    rows, width = scores.shape
    kept = min(width, top_k or width)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :kept]
    ranked = np.take_along_axis(scores, order, axis=1)
    names = pa.array(labels, pa.string())
    bad = np.zeros(rows, dtype=bool)
    bad[list(failures)] = True
    pairs = pa.StructArray.from_arrays(
        [names.take(pa.array(order.ravel())), pa.array(ranked.ravel(), pa.float32())],
        fields=list(kind.field("scores").type.value_type),
    )
    lists = pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * kept), pairs)
    return pa.StructArray.from_arrays(
        [names.take(pa.array(order[:, 0])), pa.array(ranked[:, 0], pa.float32()), lists],
        fields=list(kind),
        mask=pa.array(bad),
    )


def activate(logits: np.ndarray, how: str) -> np.ndarray:
    """Logits of shape [n, labels] -> scores of the same shape.

    Args:
        logits: Float32.
        how: ``softmax``, ``sigmoid`` or ``none``.
    """
    if how == "softmax":
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exp / exp.sum(axis=1, keepdims=True))
    if how == "sigmoid":
        return np.asarray(np.exp(-np.logaddexp(0.0, -logits)))
    return logits


def merge_windows(
    scores: np.ndarray, owners: np.ndarray, weights: np.ndarray, *, rows: int, how: Merge
) -> np.ndarray:
    """Window scores of shape [windows, labels] -> text scores of shape [rows, labels].

    Args:
        scores: Windows of one text stand together, texts in row order.
        owners: The row of each window, rising.
        weights: Tokens of each window.
        rows: How many texts there are; each has at least one window.
        how: ``mean`` weighted by tokens, ``max`` per label, or ``first``.
    """
    if len(scores) == rows:
        return scores
    starts = np.searchsorted(owners, np.arange(rows))
    if how == "first":
        return np.asarray(scores[starts])
    if how == "max":
        return np.asarray(np.maximum.reduceat(scores, starts, axis=0))
    total = np.add.reduceat(scores * weights[:, None], starts, axis=0)
    return np.asarray(total / np.add.reduceat(weights, starts)[:, None])
