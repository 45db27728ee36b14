"""Who hears of what happens in a pool."""

from __future__ import annotations

from typing import Protocol

from pipeline.engine.messages import Heartbeat, SplitResult
from pipeline.lake.split import Split


class Listener(Protocol):
    """Who hears of what happens in a pool."""

    def notice(self, text: str) -> None:
        """Something a person should know now."""

    def heard(self, worker: str, heartbeat: Heartbeat) -> None:
        """A worker says how far it is; the splits are those that it has in flight."""

    def done(self, split: Split, result: SplitResult) -> None:
        """A split is committed."""

    def failed(self, split: Split, reason: str, *, final: bool) -> None:
        """An attempt failed, or its worker is lost; if final, the split did."""

    def tick(self, *, ready: int) -> None:
        """Called about twice a second, with the number of workers that can take splits."""
