"""How many rows can be written at once: what their caches take of the memory that there is."""

from __future__ import annotations

import ctypes
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
# Of glibc's mallopt: from which size on freed memory goes back to the system, from which size on
# each piece is the system's (32 MB is the most it takes), and how many pools there are for threads.
TRIM, MAPPED, POOLS = -1, -3, -8


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


def keep_freed() -> bool:
    """Lets this process keep memory that it frees, for what it computes next.

    By itself glibc gives large pieces back to the system, so that each layer waits for the same
    pages again: reading 2,000 tokens took 0.62 s of a processor for two of SmolLM2's layers, and
    takes 0.52. Threads share a pool, as those that each have one free less of it for the others.

    Returns:
        Whether the C library is one that can.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # neither glibc nor like it
        return False
    return all([mallopt(MAPPED, 32 * 2**20), mallopt(TRIM, 2**31 - 1), mallopt(POOLS, 1)])
