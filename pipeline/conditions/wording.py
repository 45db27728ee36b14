"""What is said of a condition that can't be followed."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.errors import JobError, near

FUNCTIONS = (
    "lower, upper, trim, length, concat, starts_with, ends_with, contains, coalesce, abs, round, "
    "floor, ceil and cast"
)
HINT = "Write a SQL condition over the row, as in `sentiment.score < 0.7 AND language = 'en'`"
ALLOWED = (
    "Use the row's columns and tasks' fields, literals, comparisons, AND, OR, NOT, IS NULL, IN, "
    f"BETWEEN, LIKE, arithmetic, CASE, and the functions {FUNCTIONS}"
)


def wrong(condition: str, reason: str, *, hint: str) -> JobError:
    """What is said of a condition that can't be followed."""
    return JobError(f"the condition {shown(condition)} is wrong: {reason}", hint=hint)


def unknown(condition: str, name: str, known: Iterable[str], *, what: str) -> JobError:
    """What is said of a name that is not there."""
    known = list(known)
    return wrong(
        condition,
        f"there is no {what} `{name}`; there are {', '.join(known) or 'none'}",
        hint=f"{near(name, known)} in the condition",
    )


def shown(condition: str) -> str:
    """A condition as messages quote it."""
    return f"`{condition}`" if len(condition) <= 200 else f"`{condition[:200]}…`"
