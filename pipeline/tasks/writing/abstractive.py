"""Abstractive summaries: a sequence-to-sequence or a chat model writes a new text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pipeline.models.text.prompts import Long
from pipeline.tasks.contract import Annotated
from pipeline.tasks.writing.column import written_column
from pipeline.tasks.writing.map_reduce import Reduction, map_reduce
from pipeline.tasks.writing.text_writer import TextWriter

if TYPE_CHECKING:
    import pyarrow as pa

Merge = Literal["map_reduce", "truncate"]


class Abstractive:
    """Writes summaries with a loaded model, greedily.

    ``map_reduce`` summarizes the windows of a long text, then the summaries, until they fit one
    prompt. ``truncate`` leaves out the end of the text.
    """

    def __init__(self, writer: TextWriter, *, merge: Merge, output_type: pa.DataType) -> None:
        self.writer = writer
        self.long: Long = "end" if merge == "truncate" else "windows"
        self.output_type = output_type

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One summary struct per text."""
        lengths = self.writer.lengths(texts)
        summaries = [Reduction(text, self.writer.maker, self.long) for text in texts]
        written = map_reduce(self.writer, summaries)
        rows = [
            summary.failure
            or {
                "text": summary.text,
                "input_tokens": length,
                "output_tokens": summary.output_tokens,
                "windows": summary.windows,
                "truncated": summary.truncated,
            }
            for summary, length in zip(summaries, lengths, strict=True)
        ]
        return written_column(rows, self.output_type, written)
