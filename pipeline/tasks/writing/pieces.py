"""What was written for the pieces of texts, put back to the texts."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.errors import RowError
from pipeline.models.heads import Generation, Generations
from pipeline.models.text.prompts import Prompts


@dataclass
class WrittenPieces:
    """What was written for one text, prompt by prompt.

    Attributes:
        generations: In the order of the text's pieces, without one that failed.
        gaps: White space that stood before each piece.
        failure: Why one failed.
    """

    generations: list[Generation] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    failure: RowError | None = None

    @property
    def complete(self) -> bool:
        """Whether the model came to an end of each by itself."""
        return all(one.complete for one in self.generations)


def pieces_of(prompts: Prompts, written: Generations, *, rows: int) -> list[WrittenPieces]:
    """Puts what was written back to the texts.

    Args:
        prompts: Of the texts.
        written: What was written for them.
        rows: How many texts there are.
    """
    out = [WrittenPieces() for _ in range(rows)]
    owners = zip(prompts.owner, prompts.gaps, written.results, strict=True)
    for at, (owner, gap, generation) in enumerate(owners):
        pieces = out[owner]
        if generation is None:
            pieces.failure = pieces.failure or written.failures[at]
        else:
            pieces.generations.append(generation)
            pieces.gaps.append(gap)
    return out
