"""What a source is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.lake.store.base import Entry


@dataclass(frozen=True)
class Listing:
    """What a source held when it was listed.

    Attributes:
        files: Its files, by path.
        missed: Paths that may be of it and can't be listed, each with the reason.
    """

    files: Sequence[Entry]
    missed: Mapping[str, str] = field(default_factory=dict)
