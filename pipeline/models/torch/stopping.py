"""Looking on while a model writes: stop strings that finish a row, and a sign of life."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

# A token may hold a single byte, and half a character shows only when the rest of it is there.
SLACK_TOKENS = 8


class StepReporter:
    """Reports each step of a batch; finishes no row.

    Args:
        report: Hears what fraction of the steps is done.
        steps: The most there can be.
    """

    def __init__(self, report: Callable[[float], None], *, steps: int) -> None:
        self.report = report
        self.steps = steps
        self.done = 0

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Of shape [rows], all false."""
        import torch

        self.done += 1
        self.report(min(1.0, self.done / self.steps))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class StopStrings:
    """Tells transformers' `generate` which rows are finished.

    Args:
        stops: Any of them ends a row.
        tokenizer: Of the model.
        start: Tokens that stand before the first one written.

    Attributes:
        ended: By row, how many tokens it had written when it was finished.
    """

    def __init__(self, stops: Sequence[str], tokenizer: Any, *, start: int) -> None:
        self.stops = stops
        self.tokenizer = tokenizer
        self.start = start
        self.tail = max(len(stop.encode()) for stop in stops) + SLACK_TOKENS
        self.ended: dict[int, int] = {}

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Of shape [rows], true where a row is finished."""
        import torch

        written = input_ids[:, self.start :]
        # Only the end is looked at, or a text of n tokens would be read n times.
        for row, tail in enumerate(written[:, -self.tail :].tolist()):
            if row not in self.ended and self._has(tail) and self._has(written[row].tolist()):
                self.ended[row] = written.shape[1]
        done = torch.zeros(len(input_ids), dtype=torch.bool)
        done[list(self.ended)] = True
        return done.to(input_ids.device)

    def _has(self, tokens: list[int]) -> bool:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return any(stop in text for stop in self.stops)
