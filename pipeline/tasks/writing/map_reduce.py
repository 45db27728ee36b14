"""Texts longer than a model that writes: their windows first, then what was written of them.

Until it fits one prompt, as Wu et al., "Recursively Summarizing Books with Human Feedback", 2021,
arXiv 2109.10862, summarize books.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import RowError
from pipeline.models.text.prompts import Laid, Long, Prompts
from pipeline.models.torch.generation import Writer, Writing
from pipeline.tasks.writing.written import Parts, by_text


@dataclass
class Reading:
    """A text on its way to what is written about it.

    Attributes:
        text: What is to be read; in the end what was written.
        prompts: Lay it out.
        long: What becomes of it if it is too long.
        windows: Pieces read so far, of the text and of what was written.
        last: Pieces of the last level; 0 before the first.
        output_tokens: Of what was written in the end.
        truncated: Whether something was cut: of the text, or of what was written on the way.
        done: Whether `text` is the end.
        failure: Why there is none.
    """

    text: str
    prompts: Prompts
    long: Long = "windows"
    windows: int = 0
    last: int = 0
    output_tokens: int = 0
    truncated: bool = False
    done: bool = False
    failure: RowError | None = None

    def fail(self, failure: RowError) -> None:
        """Ends it."""
        self.failure, self.done = failure, True

    def take(self, parts: Parts, *, cut: bool) -> None:
        """Takes what was written of the text's pieces."""
        if parts.failure is not None:
            self.fail(parts.failure)
            return
        count = len(parts.texts)
        self.windows += count
        self.truncated |= cut or not all(part.complete for part in parts.texts)
        self.text = "\n".join(part.text for part in parts.texts if part.text)
        if count == 1 or not self.text:
            self.output_tokens, self.done = parts.texts[-1].tokens, True
        elif self.last and count >= self.last:
            # What gets no shorter would go on for ever.
            self.long = "end"
        self.last = count


def map_reduce(writer: Writer, readings: Sequence[Reading]) -> list[Writing]:
    """Brings every reading to its end.

    Returns:
        All that was written, for its token counts.
    """
    writings = []
    while todo := [reading for reading in readings if not reading.done]:
        laid = _lay_out(todo)
        writings.append(writer.write(laid.ids))
        found = by_text(laid, writings[-1], rows=len(todo))
        for at, (reading, parts) in enumerate(zip(todo, found, strict=True)):
            reading.take(parts, cut=at in laid.cut)
    return writings


def _lay_out(readings: Sequence[Reading]) -> Laid:
    """The prompts of all texts, those of one frame laid out together."""
    frames: dict[int, list[int]] = {}
    for at, reading in enumerate(readings):
        frames.setdefault(id(reading.prompts), []).append(at)
    out = Laid()
    for rows in frames.values():
        some = [readings[at] for at in rows]
        laid = some[0].prompts.lay_out([r.text for r in some], long=[r.long for r in some])
        out.ids += laid.ids
        out.gaps += laid.gaps
        out.owner += [rows[owner] for owner in laid.owner]
        out.cut |= {rows[cut] for cut in laid.cut}
    return out
