"""Who gets which split: any order of answers, losses and late answers."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.engine.driver.scheduler import FAILURES, LOSSES, Attempt, Scheduler
from pipeline.lake.split import Split

pytestmark = pytest.mark.unit

IN_FLIGHT = 2


def splits(count: int) -> list[Split]:
    return [Split(f"s{i}", f"{i}.parquet", 1, "v") for i in range(count)]


class AnyOrder(RuleBasedStateMachine):
    """Workers come, fail, die and answer too late; the books must add up after each step."""

    @initialize(count=st.integers(0, 6))
    def start(self, count: int) -> None:
        self.splits = splits(count)
        self.scheduler = Scheduler(self.splits)
        self.alive: list[str] = []
        self.born = 0
        self.held: list[Attempt] = []
        self.stale: list[Attempt] = []
        self.failures = {split.id: 0 for split in self.splits}
        self.losses = {split.id: 0 for split in self.splits}
        self.failed_on: dict[str, set[str]] = {split.id: set() for split in self.splits}
        self.done: list[str] = []
        self.failed: list[str] = []

    def of(self, worker: str) -> list[Attempt]:
        return [attempt for attempt in self.held if attempt.worker == worker]

    def note_end(self, split: Split) -> None:
        if self.failures[split.id] >= FAILURES or self.losses[split.id] >= LOSSES:
            self.failed.append(split.id)

    @precondition(lambda self: len(self.alive) < 4)
    @rule()
    def join(self) -> None:
        self.born += 1
        self.alive.append(f"w{self.born}")
        self.scheduler.join(self.alive[-1])

    @precondition(lambda self: any(len(self.of(w)) < IN_FLIGHT for w in self.alive))
    @rule(data=st.data())
    def next(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([w for w in self.alive if len(self.of(w)) < IN_FLIGHT]))
        mine = self.of(worker)
        attempt = self.scheduler.next(worker)
        if attempt is None:
            return
        split = attempt.split.id
        assert attempt.worker == worker
        assert split not in [a.split.id for a in self.held], "no split is in two places"
        assert split not in self.done + self.failed, "no split comes back"
        assert attempt not in self.stale, "no attempt is like an earlier one"
        if self.losses[split]:
            assert not mine, "a split that was on a lost worker starts alone"
        assert not any(self.losses[a.split.id] for a in mine), "and nothing joins it"
        if worker in self.failed_on[split]:
            assert set(self.alive) <= self.failed_on[split], "another worker would have had it"
        self.held.append(attempt)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.held))
        self.held.remove(attempt)
        self.stale.append(attempt)
        assert self.scheduler.succeed(attempt)
        self.done.append(attempt.split.id)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.held))
        self.held.remove(attempt)
        self.stale.append(attempt)
        self.failures[attempt.split.id] += 1
        self.failed_on[attempt.split.id].add(attempt.worker)
        assert self.scheduler.fail(attempt, f"reason {self.failures[attempt.split.id]}")
        self.note_end(attempt.split)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.alive))
        self.alive.remove(worker)
        mine = self.of(worker)
        gone = self.scheduler.lose(worker, f"{worker} is gone")
        assert {split.id for split in gone} == {attempt.split.id for attempt in mine}
        for attempt in mine:
            self.held.remove(attempt)
            self.stale.append(attempt)
            self.losses[attempt.split.id] += 1
            self.note_end(attempt.split)

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), good=st.booleans())
    def answer_late(self, data: st.DataObject, *, good: bool) -> None:
        attempt = data.draw(st.sampled_from(self.stale))
        if good:
            assert not self.scheduler.succeed(attempt)
        else:
            assert not self.scheduler.fail(attempt, "late")

    @rule()
    def lose_a_stranger(self) -> None:
        assert self.scheduler.lose("nobody", "was never there") == []

    @invariant()
    def the_books_add_up(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        scheduler = self.scheduler
        assert scheduler.done == len(self.done) == len(set(self.done))
        assert sorted(scheduler.failed) == sorted(self.failed)
        left = [split.id for split in scheduler.left()]
        assert sorted([*left, *self.done, *self.failed]) == sorted(s.id for s in self.splits)
        assert scheduler.running == len(self.held)
        assert scheduler.waiting == len(left) - len(self.held)
        assert scheduler.finished == (not left)

    def teardown(self) -> None:
        """From wherever chance led: with one living worker, everything ends."""
        if not hasattr(self, "scheduler"):
            return
        if not self.alive:
            self.join()
        for worker in self.alive[1:]:
            self.scheduler.lose(worker, "the rest goes")
        last = self.alive[0]
        for attempt in self.of(last):
            assert self.scheduler.succeed(attempt)
        while not self.scheduler.finished:
            attempt = self.scheduler.next(last)
            assert attempt is not None, "an idle worker is never left without what waits"
            assert self.scheduler.succeed(attempt)
        assert self.scheduler.left() == []


AnyOrder.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


def started(scheduler: Scheduler, worker: str) -> Attempt:
    attempt = scheduler.next(worker)
    assert attempt is not None
    return attempt


def test_splits_start_in_the_order_given() -> None:
    scheduler = Scheduler(splits(3))
    scheduler.join("a")
    assert [started(scheduler, "a").split.id for _ in range(3)] == ["s0", "s1", "s2"]
    assert scheduler.next("a") is None


def test_a_split_that_raises_three_times_fails_with_its_last_reason() -> None:
    scheduler = Scheduler(splits(1))
    scheduler.join("a")
    for number in (1, 2, 3):
        assert not scheduler.finished
        assert scheduler.fail(started(scheduler, "a"), f"reason {number}")
    assert scheduler.finished
    assert scheduler.done == 0
    assert scheduler.failed == {"s0": (splits(1)[0], "reason 3")}


def test_a_split_fails_with_its_fifth_lost_worker() -> None:
    scheduler = Scheduler(splits(1))
    for number in range(1, 6):
        assert not scheduler.finished
        scheduler.join(f"w{number}")
        started(scheduler, f"w{number}")
        scheduler.lose(f"w{number}", f"loss {number}")
    assert scheduler.failed["s0"][1] == "loss 5"


def test_failures_and_losses_are_two_budgets() -> None:
    scheduler = Scheduler(splits(1))
    for number in range(4):
        scheduler.join(f"w{number}")
        started(scheduler, f"w{number}")
        scheduler.lose(f"w{number}", "lost")
    scheduler.join("a")
    for _ in range(2):
        assert scheduler.fail(started(scheduler, "a"), "raised")
    assert not scheduler.finished
    assert scheduler.succeed(started(scheduler, "a"))
    assert scheduler.done == 1
    assert not scheduler.failed


def test_budgets_are_settable() -> None:
    scheduler = Scheduler(splits(2), failures=1, losses=1)
    scheduler.join("a")
    scheduler.fail(started(scheduler, "a"), "raised")
    started(scheduler, "a")
    scheduler.lose("a", "lost")
    assert {key: reason for key, (_, reason) in scheduler.failed.items()} == {
        "s0": "raised",
        "s1": "lost",
    }


def test_a_retry_goes_to_another_worker() -> None:
    scheduler = Scheduler(splits(1))
    for worker in ("a", "b", "c"):
        scheduler.join(worker)
    scheduler.fail(started(scheduler, "a"), "raised")
    assert scheduler.next("a") is None
    scheduler.fail(started(scheduler, "b"), "raised")
    assert scheduler.next("a") is None
    assert scheduler.next("b") is None
    assert started(scheduler, "c").number == 3


def test_the_only_worker_gets_the_retry() -> None:
    scheduler = Scheduler(splits(1))
    scheduler.join("a")
    scheduler.fail(started(scheduler, "a"), "raised")
    assert started(scheduler, "a").number == 2


def test_a_retry_comes_back_to_its_worker_when_the_others_are_lost() -> None:
    scheduler = Scheduler(splits(1))
    scheduler.join("a")
    scheduler.join("b")
    scheduler.fail(started(scheduler, "a"), "raised")
    assert scheduler.next("a") is None
    scheduler.lose("b", "gone")
    assert started(scheduler, "a").split.id == "s0"


def test_a_split_that_waits_for_another_worker_does_not_hold_up_the_rest() -> None:
    scheduler = Scheduler(splits(2))
    scheduler.join("a")
    scheduler.join("b")
    first, second = started(scheduler, "a"), started(scheduler, "b")
    scheduler.fail(first, "raised")
    scheduler.fail(second, "raised")
    assert started(scheduler, "a").split.id == "s1"
    assert started(scheduler, "b").split.id == "s0"


def test_a_split_that_was_on_a_lost_worker_runs_alone() -> None:
    scheduler = Scheduler(splits(4))
    scheduler.join("a")
    started(scheduler, "a")
    started(scheduler, "a")
    scheduler.lose("a", "died")
    scheduler.join("b")
    fresh = [started(scheduler, "b"), started(scheduler, "b")]
    assert [attempt.split.id for attempt in fresh] == ["s2", "s3"]
    scheduler.succeed(fresh[0])
    assert scheduler.next("b") is None, "it would not be alone"
    scheduler.succeed(fresh[1])
    alone = started(scheduler, "b")
    assert scheduler.next("b") is None, "nothing joins it"
    scheduler.succeed(alone)
    started(scheduler, "b")


def test_a_poison_split_fails_alone_and_takes_no_other_with_it() -> None:
    scheduler = Scheduler(splits(6))
    for number in range(50):
        if scheduler.finished:
            break
        scheduler.join(f"w{number}")
        while not scheduler.finished:
            held = [scheduler.next(f"w{number}"), scheduler.next(f"w{number}")]
            running = [attempt for attempt in held if attempt is not None]
            if any(attempt.split.id == "s1" for attempt in running):
                scheduler.lose(f"w{number}", "poisoned")
                break
            for attempt in running:
                assert scheduler.succeed(attempt)
    assert list(scheduler.failed) == ["s1"]
    assert scheduler.done == 5


def test_an_answer_from_a_lost_worker_is_refused_even_when_the_split_runs_again() -> None:
    scheduler = Scheduler(splits(1))
    scheduler.join("a")
    late = started(scheduler, "a")
    scheduler.lose("a", "stood still")
    scheduler.join("b")
    again = started(scheduler, "b")
    assert not scheduler.succeed(late)
    assert not scheduler.fail(late, "late")
    assert scheduler.running == 1
    assert scheduler.succeed(again)
    assert not scheduler.succeed(again), "an answer counts once"
    assert scheduler.done == 1


def test_a_late_answer_of_a_worker_that_came_back_under_its_name_is_refused() -> None:
    scheduler = Scheduler(splits(1))
    scheduler.join("a")
    late = started(scheduler, "a")
    scheduler.lose("a", "stood still")
    scheduler.join("a")
    again = started(scheduler, "a")
    assert not scheduler.succeed(late)
    assert scheduler.succeed(again)


def test_joining_twice_keeps_what_a_worker_holds() -> None:
    scheduler = Scheduler(splits(1))
    scheduler.join("a")
    attempt = started(scheduler, "a")
    scheduler.join("a")
    assert scheduler.succeed(attempt)


def test_nothing_to_do_is_finished() -> None:
    scheduler = Scheduler([])
    assert scheduler.finished
    scheduler.join("a")
    assert scheduler.next("a") is None


def test_a_share_takes_only_small_splits_that_nobody_has_tried() -> None:
    big, small, again = make("big", 100), make("small", 10), make("again", 1)
    scheduler = Scheduler([big, small, again])
    scheduler.join("w")
    assert scheduler.next("w", at_most=50) is None, "the next one is too large to share a call"
    first = scheduler.next("w")
    assert first is not None
    assert first.split is big
    assert scheduler.next("w", at_most=10).split is small  # type: ignore[union-attr]
    tried = scheduler.next("w", at_most=10)
    assert tried is not None
    scheduler.fail(tried, "raised")
    assert scheduler.next("w", at_most=10) is None, "one that raised is tried by itself"
    assert scheduler.next("w").split is again  # type: ignore[union-attr]


def make(name: str, size: int) -> Split:
    return Split(name, f"{name}.parquet", size, "v")
