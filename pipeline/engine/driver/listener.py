"""Who hears of what happens in a pool, and what they may know of it."""

from __future__ import annotations

from typing import Protocol

from pipeline.engine.messages import Heartbeat, SplitResult
from pipeline.lake.split import Split


class Watched(Protocol):
    """What the tally wants to know of a pool."""

    @property
    def ready(self) -> int:
        """Workers that can take splits."""

    def heartbeats(self) -> list[Heartbeat]:
        """The latest sign of life of each worker; of those that are gone, the counters."""


class Listener(Protocol):
    """Who hears of what happens in a pool."""

    def notice(self, text: str) -> None:
        """Something a person should know now."""

    def done(self, split: Split, result: SplitResult) -> None:
        """A split is committed."""

    def failed(self, split: Split, reason: str, *, final: bool) -> None:
        """An attempt failed; if final, the split did."""

    def tick(self, pool: Watched) -> None:
        """Called about twice a second."""
