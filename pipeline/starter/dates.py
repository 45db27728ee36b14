"""Dates in words, and as numbers: a small language that a small model can learn whole."""

from __future__ import annotations

import random
from datetime import date, timedelta

FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)
MONTHS = """
    January February March April May June July August September October November December
    """
ONES = """
    one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen
    """
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
ORDINALS = """
    first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth
    fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth
    """
WAYS = (
    "the {day} of {month}, {year}",
    "{month} the {day}, {year}",
    "{month} {day} {year}",
    "on the {day} of {month} in the year {year}",
)


def dates(rows: int, *, seed: int) -> list[dict[str, str]]:
    """Rows of ``text``, a date in words, and ``iso``, the same as YYYY-MM-DD; each text once.

    Args:
        rows: How many, at most; there are 292,196 from 1900 to 2099.
        seed: Which, and their order.
    """
    days = (LAST - FIRST).days + 1
    order = random.Random(seed)  # noqa: S311 - not a secret
    chosen = order.sample(range(days * len(WAYS)), min(rows, days * len(WAYS)))
    made = []
    for number in chosen:
        day = FIRST + timedelta(days=number // len(WAYS))
        text = WAYS[number % len(WAYS)].format(
            day=ordinal(day.day), month=MONTHS.split()[day.month - 1], year=spoken(day.year)
        )
        made.append({"text": text, "iso": day.isoformat()})
    return made


def ordinal(day: int) -> str:
    """A day of a month in words, such as ``twenty-first``."""
    words = ORDINALS.split()
    if day <= len(words):
        return words[day - 1]
    return "thirtieth" if day == 30 else f"{TENS.split()[day // 10 - 2]}-{words[day % 10 - 1]}"


def spoken(year: int) -> str:
    """A year in words, as it is said: ``nineteen oh five``, ``two thousand and five``."""
    century, rest = divmod(year, 100)
    if rest == 0:
        return "two thousand" if century == 20 else f"{number(century)} hundred"
    if rest < 10:
        before = "two thousand and" if century == 20 else f"{number(century)} oh"
        return f"{before} {number(rest)}"
    return f"{number(century)} {number(rest)}"


def number(value: int) -> str:
    """A number from 1 to 99 in words."""
    words = ONES.split()
    if value <= len(words):
        return words[value - 1]
    tens, ones = TENS.split()[value // 10 - 2], value % 10
    return f"{tens}-{words[ones - 1]}" if ones else tens
