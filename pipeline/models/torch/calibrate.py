"""The budget of a batch, found by timing a few sizes, and remembered on this machine."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.cache import cache_dir

CPU_BUDGETS = (1024, 2048, 4096, 8192)
GPU_BUDGETS = (16_384, 32_768, 65_536, 131_072, 262_144)
ROUNDS = 3
# A larger batch must be faster by more than what one timing differs from the next.
WORTH = 1.05
# A model that takes longer for the smallest batch is not tried with larger ones.
LONGEST_SECONDS = 2.0


def find_budget(run: Callable[[int], None], budgets: tuple[int, ...]) -> int | None:
    """The smallest budget that no larger one beats by much.

    Args:
        run: Takes a batch of that many tokens through the model.
        budgets: To try, rising.

    Returns:
        None if not even the smallest ran.
    """
    best, best_rate = None, 0.0
    for budget in budgets:
        times = []
        try:
            run(budget)
            for _ in range(ROUNDS):
                started = time.perf_counter()
                run(budget)
                times.append(time.perf_counter() - started)
                if times[-1] > LONGEST_SECONDS:
                    break
        except Exception:  # out of memory, as a rule: what ran before is what there is room for
            break
        seconds = statistics.median(times)
        if budget / seconds > best_rate * WORTH:
            best, best_rate = budget, budget / seconds
        if seconds > LONGEST_SECONDS:
            break
    return best


class Budgets:
    """Budgets found before, by model, device, dtype and threads.

    Args:
        path: Where they are kept; by default in the cache directory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_dir() / "budgets.json"

    def get(self, key: str) -> int | None:
        """A remembered budget."""
        found = self._read().get(key)
        return found if isinstance(found, int) and found > 0 else None

    def put(self, key: str, budget: int) -> None:
        """Remembers a budget; a disk that refuses is no reason to stop."""
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            scratch.write_text(json.dumps({**self._read(), key: budget}, indent=1))
            scratch.replace(self.path)

    def _read(self) -> dict[str, object]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
