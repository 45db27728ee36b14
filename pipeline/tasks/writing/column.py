"""The column of what was written: its type, and its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import RowError
from pipeline.models.heads import Generations
from pipeline.tasks.contract import Annotated

if TYPE_CHECKING:
    import pyarrow as pa


def written_type(*first: pa.Field) -> pa.DataType:
    """``struct<text, input_tokens, output_tokens, windows, truncated>``.

    ``truncated``: something was cut, of what was read or of what was written.

    Args:
        first: Fields that stand before these.
    """
    import pyarrow as pa

    return pa.struct(
        [
            *first,
            pa.field("text", pa.string()),
            pa.field("input_tokens", pa.int32()),
            pa.field("output_tokens", pa.int32()),
            pa.field("windows", pa.int32()),
            pa.field("truncated", pa.bool_()),
        ]
    )


def written_column(
    rows: Sequence[dict[str, Any] | RowError], kind: pa.DataType, written: Sequence[Generations]
) -> Annotated:
    """The finished column.

    Args:
        rows: The fields of each text, or why there are none.
        kind: The column's type.
        written: For their token counts.
    """
    import pyarrow as pa

    return Annotated(
        pa.array([None if isinstance(row, RowError) else row for row in rows], kind),
        {at: row for at, row in enumerate(rows) if isinstance(row, RowError)},
        tokens=sum(one.tokens for one in written),
        padded_tokens=sum(one.padded_tokens for one in written),
    )
