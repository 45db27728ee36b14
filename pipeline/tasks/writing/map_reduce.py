"""Texts longer than a model that writes: their windows first, then what was written of them.

Until it fits one prompt, as Wu et al., "Recursively Summarizing Books with Human Feedback", 2021,
arXiv 2109.10862, summarize books.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import RowError
from pipeline.models.heads import Generations
from pipeline.models.text.prompts import Long, PromptMaker, Prompts
from pipeline.tasks.writing.pieces import WrittenPieces, pieces_of
from pipeline.tasks.writing.text_writer import TextWriter


@dataclass
class Reduction:
    """A text on its way to what is written about it.

    Attributes:
        text: What is to be read; in the end what was written.
        maker: Makes prompts of it.
        long: What becomes of it if it is too long.
        windows: Pieces read so far, of the text and of what was written.
        last: Pieces of the last level; 0 before the first.
        output_tokens: Of what was written in the end.
        truncated: Whether something was cut: of the text, or of what was written on the way.
        done: Whether `text` is the end.
        failure: Why there is none.
    """

    text: str
    maker: PromptMaker
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

    def take(self, pieces: WrittenPieces, *, cut: bool) -> None:
        """Takes what was written of the text's pieces."""
        if pieces.failure is not None:
            self.fail(pieces.failure)
            return
        count = len(pieces.generations)
        self.windows += count
        self.truncated |= cut or not pieces.complete
        self.text = "\n".join(one.text for one in pieces.generations if one.text)
        if count == 1 or not self.text:
            self.output_tokens, self.done = pieces.generations[-1].tokens, True
        elif self.last and count >= self.last:
            # What gets no shorter would go on for ever.
            self.long = "end"
        self.last = count


def map_reduce(writer: TextWriter, reductions: Sequence[Reduction]) -> list[Generations]:
    """Brings every reduction to its end.

    Returns:
        All that was written, for its token counts.
    """
    written = []
    while todo := [reduction for reduction in reductions if not reduction.done]:
        prompts = _lay_out(todo)
        written.append(writer.write(prompts))
        found = pieces_of(prompts, written[-1], rows=len(todo))
        for at, (reduction, pieces) in enumerate(zip(todo, found, strict=True)):
            reduction.take(pieces, cut=at in prompts.cut)
    return written


def _lay_out(reductions: Sequence[Reduction]) -> Prompts:
    """The prompts of all texts, those of one frame laid out together."""
    frames: dict[int, list[int]] = {}
    for at, reduction in enumerate(reductions):
        frames.setdefault(id(reduction.maker), []).append(at)
    out = Prompts()
    for rows in frames.values():
        some = [reductions[at] for at in rows]
        laid = some[0].maker.lay_out([r.text for r in some], long=[r.long for r in some])
        out.ids += laid.ids
        out.gaps += laid.gaps
        out.owner += [rows[owner] for owner in laid.owner]
        out.cut |= {rows[cut] for cut in laid.cut}
    return out
