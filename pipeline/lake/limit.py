"""A run that stops early: which splits it takes, and which wait for the next."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from pipeline.errors import SplitError
from pipeline.lake.plan import Plan
from pipeline.lake.source.base import Source
from pipeline.lake.split import Split


def hold_back(plan: Plan, rows: int, *, count: Callable[[Split], int]) -> None:
    """Leaves in a plan its first splits, as many as it takes for so many rows.

    A split is annotated whole or not at all. So is a changed file, whose old output goes when all
    of it is there.

    Args:
        plan: Its splits in the order of the dataset.
        rows: How many at least, if there are so many.
        count: Gives the rows of a split.
    """
    taken: list[Split] = []
    seen = 0
    for at, split in enumerate(plan.todo):
        begun = bool(taken) and taken[-1].path == split.path and split.path in plan.outdated
        if seen >= rows and not begun:
            plan.held = plan.todo[at:]
            break
        taken.append(split)
        seen += count(split)
    plan.todo = taken


def counted(source: Source) -> Callable[[Split], int]:
    """Gives the rows of a split; 0 if it can't be read."""

    def count(split: Split) -> int:
        try:
            with closing(source.open(split)) as found:
                if found.filtered:
                    return sum(table.num_rows for table in found.batches([]))
                return found.rows
        except SplitError:
            return 0

    return count
