"""What workers have done so far, added up."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.messages import Heartbeat


@dataclass(frozen=True)
class Work:
    """What workers have done since each was ready, as far as they said.

    Attributes:
        tokens: Given to models.
        padded_tokens: The same with padding.
        busy_seconds: Their devices were held.
        seconds: They were there.
    """

    tokens: int = 0
    padded_tokens: int = 0
    busy_seconds: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, said: Heartbeat) -> Work:
        """Of one worker."""
        return cls(said.tokens, said.padded_tokens, said.busy_seconds, said.seconds)

    def plus(self, more: Work, *, less: Work) -> Work:
        """The sum, without what of it had been added before."""
        return Work(
            self.tokens + more.tokens - less.tokens,
            self.padded_tokens + more.padded_tokens - less.padded_tokens,
            self.busy_seconds + more.busy_seconds - less.busy_seconds,
            self.seconds + more.seconds - less.seconds,
        )
