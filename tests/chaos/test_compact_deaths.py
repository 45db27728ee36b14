"""`compact` and the run after it, killed at any step or at random: each row is there once then."""

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from compact_jobs import compact, files, holds, lake_of, parquet_job, scratch, shown
from helpers import rows_of
from table_jobs import run, write

from pipeline.compact import compact_output
from pipeline.lake.sink import merging
from pipeline.lake.sink import scratch as scratches
from pipeline.lake.sink.compacted import CompactedSink
from pipeline.lake.store.local import LocalStore

pytestmark = pytest.mark.chaos

# SHARDSCRIBE_ROUNDS=6 is 30 kills at random of each kind.
KILLS = 5 * int(os.environ.get("SHARDSCRIBE_ROUNDS", "1"))
SEED = 20_261_201
FILES, LARGE = 8, 1 << 27


def die(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def on_call(number: int, function: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """Dies at the so manieth call, or when it is done."""
    calls = iter(range(number - 1))

    def call(*arguments: Any, **named: Any) -> Any:
        last = next(calls, None) is None
        if last and not after:
            die()
        found = function(*arguments, **named)
        if last:
            die()
        return found

    return call


def dies(work: Callable[[], object]) -> bool:
    """Works in a process of its own; whether that was killed."""
    process = os.fork()
    if not process:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def merges(out: Path, patch: Callable[[], None] = lambda: None) -> Callable[[], None]:
    def work() -> None:
        patch()
        compact_output(str(out), file_size=LARGE)

    return work


STEPS: dict[str, tuple[Any, str, int, bool]] = {
    "before it settles": (CompactedSink, "settle", 1, False),
    "before a merged file is written": (merging, "OutputFile", 1, False),
    "before its seal": (scratches, "seal", 1, False),
    "before it is linked": (os, "link", 3, False),
    "after it is linked": (os, "link", 3, True),
    "after it is published": (LocalStore, "put_new", 1, True),
    "before anything is removed": (CompactedSink, "remove", 3, False),
    "after one file is removed": (LocalStore, "delete", 1, True),
    "after some files are removed": (LocalStore, "delete", 3, True),
    "before the second partition": (LocalStore, "put_new", 2, False),
    "in the second partition": (LocalStore, "put_new", 2, True),
    "before the lease is given up": (LocalStore, "delete", 9, False),
}


@pytest.fixture
def ids(tmp_path: Path) -> list[int]:
    return lake_of(tmp_path, files=FILES)


@pytest.fixture
def job(tmp_path: Path, ids: list[int]) -> str:
    job = parquet_job(tmp_path)
    run(job)
    return job


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def once(out: Path) -> list[int]:
    return sorted(row["id"] for row in rows_of(out))


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_every_row_counts_once_and_the_next_one_ends_it(
    step: str, job: str, out: Path, ids: list[int]
) -> None:
    place, name, number, after = STEPS[step]

    def patch() -> None:
        setattr(place, name, on_call(number, getattr(place, name), after=after))

    assert dies(merges(out, patch))
    assert shown(out) == ids
    holds(job, out, ids, splits=FILES)
    dies(merges(out, patch))
    holds(job, out, ids, splits=FILES)
    assert compact(out)["after"] == 2
    holds(job, out, ids, splits=FILES)
    assert once(out) == ids
    assert scratch(out) == []


@pytest.mark.parametrize("step", [*STEPS][5:9])
def test_a_run_after_a_kill_annotates_nothing_twice_and_leaves_each_row_once(
    step: str, job: str, out: Path, tmp_path: Path, ids: list[int]
) -> None:
    place, name, number, after = STEPS[step]

    def patch() -> None:
        setattr(place, name, on_call(number, getattr(place, name), after=after))

    assert dies(merges(out, patch))
    write(tmp_path / "lake/day=0", "f0", 9000)  # one has changed meanwhile
    now = sorted([*(i for i in ids if i >= 100), 9000])
    summary = run(job)
    assert (summary.splits.done, summary.splits.done_before) == (1, FILES - 1)
    holds(job, out, now, splits=FILES)
    assert once(out) == now


def test_killed_at_random_while_it_merges_and_while_merged_files_change(
    job: str, out: Path, tmp_path: Path, ids: list[int]
) -> None:
    chance = random.Random(SEED)
    killed = [0, 0]
    now = ids
    for turn in range(KILLS):
        calls = iter(range(chance.randrange(25)))

        def some(function: Callable[..., Any], calls: Any = calls) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                if next(calls, None) is None:
                    die()
                return function(*arguments, **named)

            return call

        def patch(some: Any = some) -> None:
            for place, name in ((os, "link"), (LocalStore, "delete"), (scratches, "seal")):
                setattr(place, name, some(getattr(place, name)))

        killed[0] += dies(merges(out, patch))
        assert shown(out) == now
        holds(job, out, now, splits=FILES)
        number = chance.randrange(FILES)
        # Each file changes for good: whatever dies, its rows are old or new, and never both.
        gone = {i for i in now if i // 100 % 100 == number}
        first = 10_000 * (turn + 1) + 100 * number
        write(tmp_path / f"lake/day={number % 2}", f"f{number}", first, first + 1)
        now = sorted([*(i for i in now if i not in gone), first, first + 1])

        def runs(patch: Any = patch) -> None:
            patch()
            run(job)

        killed[1] += dies(runs)
        run(job)
        holds(job, out, now, splits=FILES)
        assert once(out) == now
    assert sum(killed) > 0
    while compact(out)["written"]:
        pass
    assert len(files(out)) == 2
    holds(job, out, now, splits=FILES)
    assert json.dumps(once(out)) == json.dumps(now)
