"""Annotations as numbers whose mean is asked for: how likely each label is, how many spans, ..."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from pipeline.learn.kinds import is_list

Floats = npt.NDArray[np.float64]
NUMBER = "number"
LABEL = "label"
SPANS = "spans"


def what_is_asked(kind: pa.DataType) -> str | None:
    """What of a column a mean can be asked of.

    Args:
        kind: The column's type.

    Returns:
        ``label`` for the share of each label, ``spans`` for how many a row has of each label,
        ``number`` for a number itself; None where there is nothing.
    """
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return NUMBER
    if types.is_struct(kind) and {"label", "score"} <= {field.name for field in kind}:
        return LABEL
    if is_list(kind) and types.is_struct(kind.value_type):
        inside = {field.name for field in kind.value_type}
        return SPANS if {"label", "start", "end"} <= inside else None
    return None


class Numbers:
    """The numbers of annotations, a batch after the other.

    Args:
        asked: From `what_is_asked`.
        most: How many labels there may be.
    """

    def __init__(self, asked: str, *, most: int = 1_000) -> None:
        self.asked = asked
        self.most = most
        self.labels: dict[str, int] = {} if asked != NUMBER else {NUMBER: 0}

    def of(self, column: pa.ChunkedArray) -> tuple[npt.NDArray[np.bool_], Floats]:
        """Which rows are annotated, and the numbers of these.

        Args:
            column: A batch of annotations.

        Returns:
            Of shape [rows], and of shape [annotated rows, labels so far].

        Raises:
            ValueError: There are too many labels.
        """
        array = column.combine_chunks()
        whole = array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)
        there = np.asarray(whole.is_valid())
        if self.asked == NUMBER:
            numbers = np.asarray(whole.cast(pa.float64()).fill_null(np.nan), dtype=float)
            there = np.isfinite(numbers)
            return there, numbers[there][:, None]
        given = whole.filter(pa.array(there))
        if self.asked == SPANS:
            return there, self._counted(given)
        sure = self._scored(given)
        finite = np.isfinite(sure).all(axis=1)
        there[np.flatnonzero(there)[~finite]] = False
        return there, sure[finite]

    def _scored(self, given: pa.StructArray) -> Floats:
        codes = self._codes(given.field("label"))
        rows = np.arange(len(given))
        parts = [(rows, codes, _floats(given.field("score")))]
        if given.type.get_field_index("scores") >= 0:
            lists = given.field("scores")
            flat = lists.flatten()
            parents = np.asarray(pc.list_parent_indices(lists))
            parts.append((parents, self._codes(flat.field("label")), _floats(flat.field("score"))))
        # A label that a row has no score of counts as ruled out: the gold rows correct that too.
        sure = np.zeros((len(given), len(self.labels)))
        for which, code, score in parts:
            named = code >= 0
            sure[which[named], code[named]] = score[named]
        return sure

    def _counted(self, given: pa.Array) -> Floats:
        parents = np.asarray(pc.list_parent_indices(given))
        codes = self._codes(given.flatten().field("label"))
        counts = np.zeros((len(given), len(self.labels)))
        np.add.at(counts, (parents[codes >= 0], codes[codes >= 0]), 1.0)
        return counts

    def _codes(self, labels: pa.Array) -> npt.NDArray[np.int64]:
        """The place of each label, -1 for a null."""
        coded = labels if types.is_dictionary(labels.type) else labels.dictionary_encode()
        names = coded.dictionary.to_pylist()
        places = [self.labels.setdefault(str(name), len(self.labels)) for name in names]
        if len(self.labels) > self.most:
            raise ValueError(f"more than {self.most:,} labels")
        at = np.asarray(coded.indices.cast(pa.int64()).fill_null(-1))
        # The last stands for -1.
        return np.asarray(np.array([*places, -1], dtype=np.int64)[at])


def right_numbers(gold: pa.Array, asked: str, label: str) -> Floats:
    """What gold says of a label: 1 or 0 of each row, how many spans; or the number itself.

    Args:
        gold: The gold column, without nulls.
        asked: From `what_is_asked`.
        label: Which label.
    """
    if asked == NUMBER:
        return np.asarray(gold.cast(pa.float64()), dtype=float)
    rows: list[Any] = gold.to_pylist()
    if asked == SPANS:
        return np.array([sum(s["label"] == label for s in some if s) for some in rows], dtype=float)
    return np.array(
        [label in some if isinstance(some, list) else some == label for some in rows], dtype=float
    )


def gold_labels(gold: pa.Array) -> list[str]:
    """The labels that a gold column names, in order of their names."""
    found: set[str] = set()
    for some in gold.to_pylist():
        parts = some if isinstance(some, list) else [some]
        found |= {part["label"] if isinstance(part, dict) else part for part in parts if part}
    return sorted(found)


def _floats(array: pa.Array) -> Floats:
    return np.asarray(array.cast(pa.float64()).fill_null(np.nan), dtype=float)
