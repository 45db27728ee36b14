"""Abstractive summaries: a sequence-to-sequence or a chat model writes a new text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.errors import RowError
from pipeline.models.generation import Writer, Writing
from pipeline.models.prompts import Long
from pipeline.tasks.task import Annotated
from pipeline.tasks.written import Parts, by_text, column

if TYPE_CHECKING:
    import pyarrow as pa

Merge = Literal["map_reduce", "truncate"]


@dataclass
class Summary:
    """A summary in the making.

    Attributes:
        text: What is to be summarized; in the end the summary.
        input_tokens: Of the text at the start.
        long: What becomes of it if it is too long.
        windows: Pieces read so far, of the text and of summaries.
        last: Pieces of the last level; 0 before the first.
        output_tokens: Of the summary.
        truncated: Whether something was left out.
        done: Whether `text` is the summary.
        failure: Why there is none.
    """

    text: str
    input_tokens: int
    long: Long
    windows: int = 0
    last: int = 0
    output_tokens: int = 0
    truncated: bool = False
    done: bool = False
    failure: RowError | None = None

    def take(self, parts: Parts, *, cut: bool) -> None:
        """Takes what was written of the text's pieces."""
        if parts.failure is not None:
            self.failure, self.done = parts.failure, True
            return
        count = len(parts.texts)
        self.windows += count
        self.truncated |= cut
        self.text = "\n".join(part.text for part in parts.texts if part.text)
        if count == 1 or not self.text:
            self.output_tokens, self.done = parts.texts[-1].tokens, True
        elif self.last and count >= self.last:
            # Summaries that get no shorter would go on for ever.
            self.long = "end"
        self.last = count


class Abstractive:
    """Writes summaries with a loaded model, greedily.

    ``map_reduce`` summarizes the windows of a long text, then the summaries, until they fit one
    prompt (as Wu et al., "Recursively Summarizing Books with Human Feedback", 2021,
    arXiv 2109.10862, do). ``truncate`` leaves out the end of the text.
    """

    def __init__(self, writer: Writer, *, merge: Merge, output_type: pa.DataType) -> None:
        self.writer = writer
        self.long: Long = "end" if merge == "truncate" else "windows"
        self.output_type = output_type

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One summary struct per text."""
        lengths = self.writer.model.encode(texts).lengths.tolist()
        summaries = [
            Summary(text, length, self.long) for text, length in zip(texts, lengths, strict=True)
        ]
        writings: list[Writing] = []
        while todo := [summary for summary in summaries if not summary.done]:
            laid = self.writer.prompts.lay_out(
                [summary.text for summary in todo], long=[summary.long for summary in todo]
            )
            writings.append(self.writer.write(laid.ids))
            found = by_text(laid, writings[-1], rows=len(todo))
            for at, (summary, parts) in enumerate(zip(todo, found, strict=True)):
                summary.take(parts, cut=at in laid.cut)
        rows = [
            summary.failure
            or {
                "text": summary.text,
                "input_tokens": summary.input_tokens,
                "output_tokens": summary.output_tokens,
                "windows": summary.windows,
                "truncated": summary.truncated,
            }
            for summary in summaries
        ]
        return column(rows, self.output_type, writings)
