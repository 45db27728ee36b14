"""What a column of right answers holds, by its type."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.types as types


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds a text in each row."""
    value = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(value) or types.is_large_string(value))


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds a list in each row, of any size."""
    return bool(types.is_list(kind) or types.is_large_list(kind))


def are_texts(kind: pa.DataType) -> bool:
    """Whether a column holds a list of texts in each row."""
    return is_list(kind) and is_text(kind.value_type)
