"""What a job wants of a dataset: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Choice:
    """What a job wants of a dataset, and as what it takes it.

    Attributes:
        filter: A condition over the row; rows that it does not hold for are not there.
        partitions: Types of columns that directories tell, by name.
    """

    filter: str | None = None
    partitions: Mapping[str, str] = field(default_factory=dict)
