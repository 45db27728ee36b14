"""What the driver does for a split must not grow with their number: a million are a night's work.

Counted here in calls, which no machine makes more or fewer; `benchmarks/million.py` takes the time.
"""

import cProfile
import importlib.util
import pstats
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline.lake.source.cut import splits_of
from pipeline.lake.split import Split
from pipeline.lake.store.local import LocalStore

pytestmark = pytest.mark.unit

SPLITS = 10_000
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

    def tick(self, *, ready: int) -> None:
        pass

    def notice(self, text: str) -> None:
        pass

    def heard(self, worker: str, heartbeat: Any) -> None:
        pass

    def done(self, split: Split, result: Any) -> None:
        pass

    def failed(self, split: Split, reason: str, *, final: bool) -> None:
        assert not final


def calls(work: Callable[[], Any]) -> int:
    """How many functions are called, Python's own among them."""
    profile = cProfile.Profile()
    profile.runcall(work)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


def test_planning_scheduling_and_recording_ten_times_the_splits_is_ten_times_the_work(
    million: ModuleType, tmp_path: Path
) -> None:
    million.measure(SPLITS // 100, tmp_path / "imports", workers=20)
    few, many = (
        calls(lambda n=count: million.measure(n, tmp_path / str(n), workers=20))
        for count in (SPLITS // 10, SPLITS)
    )
    assert many < 11 * few
    assert many < 600 * SPLITS, f"{many / SPLITS:.0f} calls a split"


def splits_of_a_lake(million: ModuleType, root: Path, count: int) -> list[Split]:
    return list(splits_of(LocalStore(str(root)), million.listing(count), fingerprint="f"))


def test_the_work_for_a_split_does_not_grow_with_the_number_of_workers(
    million: ModuleType, tmp_path: Path
) -> None:
    def work(workers: int) -> int:
        splits = splits_of_a_lake(million, tmp_path, 10 * workers)
        return calls(lambda: million.work(splits, NoTally(), workers=workers))

    few, many = work(100), work(1_000)
    assert many < 11 * few, f"ten times the workers took {many / few:.1f} times the calls"


def test_the_work_for_a_split_does_not_grow_when_one_worker_fails_all_it_gets(
    million: ModuleType, tmp_path: Path
) -> None:
    def work(count: int) -> int:
        splits = splits_of_a_lake(million, tmp_path, count)
        return calls(lambda: million.work(splits, NoTally(), workers=20, broken="worker-1"))

    few, many = work(2_000), work(10_000)
    assert many < 6 * few, f"five times the splits took {many / few:.1f} times the calls"
