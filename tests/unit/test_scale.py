"""What the driver does for a split must stay small: a million splits are a night's work."""

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline.engine.scheduler import Scheduler
from pipeline.lake.dataset import Plan, Split, splits_of
from pipeline.lake.store import LocalStore

pytestmark = pytest.mark.unit

SPLITS = 20_000
PROGRAM = Path(__file__).parents[2] / "benchmarks/million.py"


@pytest.fixture(scope="module")
def million() -> ModuleType:
    """The benchmark, as a module."""
    spec = importlib.util.spec_from_file_location("million", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["million"] = module
    spec.loader.exec_module(module)
    return module


class NoTally:
    """Takes note of nothing."""

    def tick(self, pool: Any) -> None:
        pass

    def done(self, split: Split, receipt: Any) -> None:
        pass

    def failed(self, split: Split, reason: str, *, final: bool) -> None:
        assert not final


def test_twenty_thousand_splits_are_planned_scheduled_and_recorded_in_two_seconds(
    million: ModuleType, tmp_path: Path
) -> None:
    phases = million.measure(SPLITS, tmp_path)
    # Processor time, which a busy machine does not stretch.
    assert sum(phase.processor for phase in phases) < 2, million.table(phases)


def test_the_time_for_a_split_does_not_grow_when_one_worker_fails_all_it_gets(
    million: ModuleType, tmp_path: Path
) -> None:
    def seconds(count: int) -> float:
        files = million.listing(count)
        splits = list(splits_of(LocalStore(str(tmp_path)), files, fingerprint="f"))
        started = time.process_time()
        million.work(Plan(todo=splits), Scheduler(splits), NoTally(), broken="worker-0")
        return time.process_time() - started

    # The least of three: what another program does to the caches is not the scheduler's.
    small, large = (min(seconds(count) for _ in range(3)) for count in (2_500, 25_000))
    assert large < 25 * small, f"ten times the splits took {large / small:.0f} times as long"
