"""A text written anew from its beginning to its end: translations, corrections, simpler words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import RowError
from pipeline.tasks.contract import Annotated
from pipeline.tasks.writing.column import written_column
from pipeline.tasks.writing.pieces import pieces_of
from pipeline.tasks.writing.text_writer import TextWriter

if TYPE_CHECKING:
    import pyarrow as pa

# Tokens written per token of the text, at most, for most texts and pairs of languages: windows of
# a long text leave that much room to write.
GROWTH = 1.5


class Rewrite:
    """Writes texts anew with a loaded model.

    A text of more tokens than the model reads or may write is taken in windows that end where
    sentences do; white space between windows is kept. ``truncated`` says that some of the text is
    not in the result: the model was still writing at `max_new_tokens`.

    Args:
        writer: Is told what to do with a text.
        output_type: Of the column.
    """

    def __init__(self, writer: TextWriter, output_type: pa.DataType) -> None:
        self.writer = writer
        self.output_type = output_type

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One struct per text."""
        lengths = self.writer.lengths(texts)
        most = self.writer.decoding.max_new_tokens
        prompts = self.writer.maker.lay_out(
            texts, long="windows", most=most, window=max(1, int(most / GROWTH))
        )
        written = self.writer.write(prompts)
        rows: list[dict[str, Any] | RowError] = []
        for at, pieces in enumerate(pieces_of(prompts, written, rows=len(texts))):
            pairs = zip(pieces.gaps, pieces.generations, strict=True)
            rows.append(
                pieces.failure
                or {
                    "text": "".join(f"{gap}{one.text}" for gap, one in pairs).strip(),
                    "input_tokens": lengths[at],
                    "output_tokens": sum(one.tokens for one in pieces.generations),
                    "windows": len(pieces.generations),
                    "truncated": at in prompts.cut or not pieces.complete,
                }
            )
        return written_column(rows, self.output_type, [written])
