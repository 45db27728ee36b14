"""The different texts of some rows, each once: what repeats is annotated once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import RowError
from pipeline.lake.source.reader import texts_of
from pipeline.models.text.texts import TaskInput


@dataclass
class DistinctTexts:
    """The different texts of some rows, each once, as a task is given them.

    Attributes:
        texts: What the task is given.
        places: For each row its place in `texts`, -1 where the task is not asked.
        unreadable: Why, by row, for texts that can't be read.
    """

    texts: TaskInput
    places: np.ndarray
    unreadable: dict[int, RowError]

    @classmethod
    def of_column(
        cls, column: pa.Array, wanted: np.ndarray, *, longest: int | None
    ) -> DistinctTexts | None:
        """Those of one column alone, found without an object per row.

        Args:
            column: Texts, one per row.
            wanted: Bools of shape [rows]: what is annotated at all.
            longest: The most bytes of a text that is annotated; any if None.

        Returns:
            None if the column is not of strings, or has one that is not UTF-8.
        """
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return None
        rows = np.flatnonzero(wanted)
        if len(rows) < len(column):
            column = column.take(pa.array(rows))
        coded = column.dictionary_encode()
        try:
            texts: list[str] = coded.dictionary.to_numpy(zero_copy_only=False).tolist()
        except pa.ArrowException:  # of bytes that are not UTF-8, without saying which
            return None
        sizes = pc.binary_length(coded.dictionary).to_numpy(zero_copy_only=False)
        given = (sizes > 0) & ~np.fromiter(map(str.isspace, texts), bool, len(texts))
        unreadable: dict[int, RowError] = {}
        codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        if longest is not None:
            for place in np.flatnonzero(given & (sizes > longest)).tolist():
                error = _too_large_error(int(sizes[place]), longest)
                unreadable |= dict.fromkeys(rows[codes == place].tolist(), error)
                given[place] = False
        # What is not given has no place, and -1 of a null finds that too.
        renumbered = np.append(np.where(given, np.cumsum(given) - 1, -1), -1)
        places = np.full(len(wanted), -1, dtype=np.int64)
        places[rows] = renumbered[codes]
        if not given.all():
            texts = [texts[place] for place in np.flatnonzero(given).tolist()]
        return cls(TaskInput(texts), places, dict(sorted(unreadable.items())))

    @classmethod
    def of_values(
        cls,
        values: Sequence[Sequence[Any]],
        wanted: np.ndarray,
        *,
        make: Callable[[Sequence[Any]], str],
        beside: Mapping[str, Sequence[Any]],
        longest: int | None,
    ) -> DistinctTexts:
        """Those that are made from several values of a row, or stand beside others.

        Args:
            values: The columns that a text is made from.
            wanted: Bools of shape [rows]: what is annotated at all.
            make: Makes the text from a row's values.
            beside: What the task looks at beside the text, by column.
            longest: The most bytes of a text that is annotated; any if None.
        """
        unreadable: dict[int, RowError] = {}
        places = np.full(len(wanted), -1, dtype=np.int64)
        unique: dict[tuple[Any, ...], int] = {}
        first: list[int] = []
        for row in np.flatnonzero(wanted).tolist():
            parts = [column[row] for column in values]
            if all(part is None for part in parts):
                continue
            text = make(parts)
            if not text or text.isspace():
                continue
            more = [column[row] for column in beside.values()]
            if large := _too_large((text, *more), longest):
                unreadable[row] = large
                continue
            asked = (text, *map(_hashable, more))
            places[row] = place = unique.setdefault(asked, len(unique))
            if place == len(first):
                first.append(row)
        columns = {name: [column[row] for row in first] for name, column in beside.items()}
        return cls(TaskInput([asked[0] for asked in unique], columns), places, unreadable)


def values_of(
    rows: pa.Table, made: Mapping[str, pa.Array], name: str
) -> tuple[list[Any], dict[int, RowError]]:
    """A column's values, or the texts of an earlier task; why, by row, for what is not UTF-8."""
    if name in made:
        return column_of(rows, made, name).to_pylist(), {}
    return texts_of(column_of(rows, made, name))


def column_of(rows: pa.Table, made: Mapping[str, pa.Array], name: str) -> pa.Array:
    """A column, or the texts of an earlier task."""
    if name in made:
        # Not `field`, which gives the child as it is stored, also where the struct is null.
        return pc.struct_field(made[name], "text")
    return rows.column(name).combine_chunks()


def _too_large(texts: Sequence[Any], most: int | None) -> RowError | None:
    for text in texts:
        # A character has at most 4 bytes: most texts need not be encoded to be measured.
        if most is not None and isinstance(text, str) and 4 * len(text) > most:
            size = len(text.encode())
            if size > most:
                return _too_large_error(size, most)
    return None


def _too_large_error(size: int, most: int) -> RowError:
    said = f"the text has {size:,} bytes, more than limits.text ({most:,}) allows"
    return RowError(said, code="too_large", hint="Split it, or raise limits.text")


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
