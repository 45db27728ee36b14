"""Durations and sizes of a job file: with a unit, or as plain numbers."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
SIZES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def _duration(value: object) -> object:
    """``90``, ``90s``, ``10m`` and ``2h`` -> seconds."""
    if isinstance(value, str):
        number, unit = value[:-1], value[-1:]
        if unit in UNITS and number.replace(".", "", 1).isdigit():
            return float(number) * UNITS[unit]
        raise ValueError(f"{value!r} is no duration: write 90, 90s, 10m or 2h")
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _bytes(value: object) -> object:
    """``4MB`` -> bytes."""
    if isinstance(value, str):
        found = re.fullmatch(r"([0-9]+) ?([kMG]?B)", value)
        if found is None:
            raise ValueError(f"{value!r} is no size: write 4MB, 500kB or a number of bytes")
        return int(found[1]) * SIZES[found[2]]
    return value


def bytes_told(count: float) -> str:
    """``4200000`` -> ``4.2 MB``."""
    unit = max((name for name in SIZES if SIZES[name] <= count), key=SIZES.__getitem__, default="B")
    return f"{count / SIZES[unit]:,.1f} {unit}" if unit != "B" else f"{count:.0f} B"


Bytes = Annotated[
    int,
    BeforeValidator(_bytes),
    Field(gt=0),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "exclusiveMinimum": 0},
                {"type": "string", "pattern": r"^[0-9]+ ?[kMG]?B$"},
            ]
        }
    ),
]
Seconds = Annotated[
    float,
    BeforeValidator(_duration),
    Field(gt=0),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": r"^[0-9]*\.?[0-9]+[smh]$"},
            ]
        }
    ),
]
