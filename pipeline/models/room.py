"""How many rows can be written at once: what their caches take of the memory that there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

# Of the memory that is free, what caches may take: on a processor, other workers count on the same
# memory; on a GPU, what is computed needs some beside them.
CPU_SHARE = 1 / 32
GPU_SHARE = 0.7
# More rows at once gain nothing: weights are read for that many as fast as for one more.
CPU_ROWS = 64
GPU_ROWS = 1024
# Where no row of a group is shorter than this part of its longest, little of a slot stays empty.
ALIKE = 0.8
# What is taken where nothing says how much memory is free.
UNKNOWN = 8 * 2**30
MEMORY = Path("/proc/meminfo")


def rows_at_once(capacity: int, *, token_bytes: int, free: int, budget: int, on_gpu: bool) -> int:
    """How many rows are written at once, at least one.

    Args:
        capacity: Tokens of a row, with what is written.
        token_bytes: What the keys and values of a token take.
        free: Bytes of memory that are free.
        budget: The most tokens that are kept of all rows.
        on_gpu: Whether it is a GPU's memory.
    """
    share, most = (GPU_SHARE, GPU_ROWS) if on_gpu else (CPU_SHARE, CPU_ROWS)
    tokens = min(budget, int(free * share) // token_bytes)
    return max(1, min(most, tokens // capacity))


def alike(capacities: np.ndarray, rows: np.ndarray) -> list[list[int]]:
    """Cuts rows into groups of about one length, longest first.

    Args:
        capacities: Tokens of each row, with what is written.
        rows: For each row, how many such are written at once.

    Returns:
        Indices into `capacities`: a group has at least as many rows as are written at once.
    """
    order = np.argsort(-capacities, kind="stable")
    falling = capacities[order]
    groups: list[list[int]] = []
    start = 0
    while start < len(order):
        full = start + int(rows[order[start]])
        shorter = start + int(np.sum(falling[start:] >= ALIKE * falling[start]))
        stop = min(len(order), max(full, shorter))
        groups.append(order[start:stop].tolist())
        start = stop
    return groups


def free_memory() -> int:
    """Bytes of the machine's memory that can be had without taking it from other programs."""
    try:
        for line in MEMORY.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return UNKNOWN
