"""Looking on while a model writes: stop strings that finish a row, and a sign of life."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.models.torch.rules import Live

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
    """Says which rows have written a stop string.

    Args:
        stops: Any of them ends a row.
        tokenizer: Of the model.
    """

    def __init__(self, stops: Sequence[str], tokenizer: Any) -> None:
        self.stops = stops
        self.tokenizer = tokenizer
        self.tail = max(len(stop.encode()) for stop in stops) + SLACK_TOKENS

    def __call__(self, live: Live) -> np.ndarray:
        """Of shape [live], true where one is in the text."""
        return np.array(
            [self.has(row[:count]) for row, count in zip(live.written, live.steps, strict=True)],
            dtype=bool,
        )

    def has(self, tokens: np.ndarray) -> bool:
        """Whether one is in what a row wrote."""
        # Only the end is looked at, or a text of n tokens would be read n times.
        return self._in(tokens[-self.tail :]) and self._in(tokens)

    def _in(self, tokens: np.ndarray) -> bool:
        text = self.tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
        return any(stop in text for stop in self.stops)


class StoppedRows:
    """Tells transformers' `generate` which rows are finished.

    Args:
        stops: Says it of what a row wrote.
        start: Tokens that stand before the first one written.

    Attributes:
        ended: By row, how many tokens it had written when it was finished.
    """

    def __init__(self, stops: StopStrings, *, start: int) -> None:
        self.stops = stops
        self.start = start
        self.ended: dict[int, int] = {}

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Of shape [rows], true where a row is finished."""
        import torch

        for row, written in enumerate(input_ids[:, self.start :].cpu().numpy()):
            if row not in self.ended and self.stops.has(written):
                self.ended[row] = len(written)
        done = torch.zeros(len(input_ids), dtype=torch.bool)
        done[list(self.ended)] = True
        return done.to(input_ids.device)
