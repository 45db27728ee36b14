"""In which order splits are begun, and by whom."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.driver.fresh import Fresh
from pipeline.engine.driver.scheduler import Attempt, Scheduler
from pipeline.lake.split import WHOLE, Rows, Split

pytestmark = pytest.mark.unit


def ranges(path: str, count: int) -> list[Split]:
    return [Split(f"{path}{n}", path, 1, "v", Rows(64 * n, 64)) for n in range(count)]


def whole(path: str) -> Split:
    return Split(path, path, 1, "v", WHOLE)


def take(fresh: Fresh, workers: str) -> list[str]:
    return [fresh.take(worker).id for worker in workers]


def test_a_worker_stays_with_its_file_and_a_new_one_takes_a_file_of_its_own() -> None:
    fresh = Fresh([*ranges("a", 4), *ranges("b", 4)])
    assert take(fresh, "12121212") == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"]
    assert len(fresh) == 0


def test_when_no_file_is_left_a_worker_helps_where_most_is_left() -> None:
    fresh = Fresh([*ranges("a", 6), *ranges("b", 3)])
    assert take(fresh, "12222") == ["a0", "b0", "b1", "b2", "a1"]
    assert take(fresh, "1213") == ["a2", "a3", "a4", "a5"]


def test_whole_files_are_begun_in_their_order() -> None:
    fresh = Fresh([whole("x"), whole("y"), *ranges("a", 2), whole("z")])
    assert take(fresh, "12121") == ["x", "y", "a0", "z", "a1"]


def test_ranges_of_a_file_that_stand_apart_are_one_files_all_the_same() -> None:
    some = ranges("a", 4)
    fresh = Fresh([*some[:2], *ranges("b", 1), *some[2:]])
    assert take(fresh, "12213") == ["a0", "b0", "a1", "a2", "a3"]


def test_a_worker_that_is_gone_is_at_no_file() -> None:
    fresh = Fresh([*ranges("a", 3), *ranges("b", 3)])
    assert take(fresh, "1") == ["a0"]
    fresh.leave("1")
    assert take(fresh, "1") == ["b0"]


@given(st.lists(st.integers(1, 5), max_size=8), st.integers(1, 4), st.integers())
def test_each_split_is_given_once_to_whoever_asks(
    files: list[int], workers: int, seed: int
) -> None:
    splits = [s for n, count in enumerate(files)
              for s in (ranges(str(n), count) if count > 1 else [whole(str(n))])]  # fmt: skip
    chance, fresh = random.Random(seed), Fresh(splits)
    given: list[Split] = []
    while fresh:
        assert len(fresh) == len(list(fresh)) == len(splits) - len(given)
        worker = str(chance.randrange(workers))
        expected = fresh.first(worker)
        given.append(fresh.take(worker))
        assert given[-1] is expected
        if chance.random() < 0.2:
            fresh.leave(worker)
    assert sorted(split.id for split in given) == sorted(split.id for split in splits)


def test_one_call_takes_ranges_of_one_file_side_by_side() -> None:
    scheduler = Scheduler([*ranges("a", 6), *ranges("b", 6)])
    for worker in "12":
        scheduler.join(worker)
    calls = [scheduler.take(worker, most=2, size=100) for worker in "1212"]
    assert [[attempt.split.id for attempt in call] for call in calls] == [
        ["a0", "a1"], ["b0", "b1"], ["a2", "a3"], ["b2", "b3"]
    ]  # fmt: skip
    assert scheduler.waiting == 4
    assert len(scheduler.left()) == 12


def test_two_workers_are_busy_to_within_a_tenth_of_the_end_of_a_file_of_one_row_group() -> None:
    # 300 MB are 36 ranges; each worker has two in flight, and does one after the other.
    scheduler = Scheduler(ranges("a", 36))
    chance, time = random.Random(0), 0.0
    busy: dict[str, list[Attempt]] = {"1": [], "2": []}
    ends: dict[str, float] = {}
    for worker in busy:
        scheduler.join(worker)
    idle: dict[str, float] = {}
    while not scheduler.finished:
        for worker, held in busy.items():
            while len(held) < 2 and (attempt := scheduler.next(worker)) is not None:
                held.append(attempt)
            if held and worker not in ends:
                ends[worker] = time + chance.uniform(0.8, 1.2)
        worker = min(ends, key=ends.__getitem__)
        time = ends.pop(worker)
        scheduler.succeed(busy[worker].pop(0))
        idle[worker] = time
    assert min(idle.values()) > 0.9 * time
