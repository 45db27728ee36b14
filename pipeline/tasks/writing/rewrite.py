"""A text written anew from its beginning to its end: translations, corrections, simpler words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import RowError
from pipeline.models.torch.generation import Writer
from pipeline.tasks.contract import Annotated
from pipeline.tasks.writing.written import by_text, column

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

    def __init__(self, writer: Writer, output_type: pa.DataType) -> None:
        self.writer = writer
        self.output_type = output_type

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One struct per text."""
        lengths = self.writer.model.encode(texts).lengths.tolist()
        most = self.writer.max_new_tokens
        laid = self.writer.prompts.lay_out(
            texts, long="windows", most=most, window=max(1, int(most / GROWTH))
        )
        writing = self.writer.write(laid.ids)
        rows: list[dict[str, Any] | RowError] = []
        for at, parts in enumerate(by_text(laid, writing, rows=len(texts))):
            pairs = zip(parts.gaps, parts.texts, strict=True)
            rows.append(
                parts.failure
                or {
                    "text": "".join(f"{gap}{part.text}" for gap, part in pairs).strip(),
                    "input_tokens": lengths[at],
                    "output_tokens": sum(part.tokens for part in parts.texts),
                    "windows": len(parts.texts),
                    "truncated": at in laid.cut or not all(p.complete for p in parts.texts),
                }
            )
        return column(rows, self.output_type, [writing])
