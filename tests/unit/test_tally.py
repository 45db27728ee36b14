"""What a person sees of a run never exceeds what is there, whatever workers say and when."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.engine.driver.tally import Tally
from pipeline.engine.messages import Heartbeat, SplitResult
from pipeline.lake.plan import Plan
from pipeline.lake.split import Split
from pipeline.lake.store.local import LocalStore
from pipeline.records.schema import Progress, RowCounts
from pipeline.records.writer import RunRecord

pytestmark = pytest.mark.unit


class Nowhere(LocalStore):
    """Takes a record and keeps nothing."""

    def put(self, path: str, content: bytes) -> None:
        pass


NOWHERE = Nowhere("/nonexistent")


class Quiet:
    def notice(self, text: str) -> None:
        pass

    def progress(self, progress: Progress) -> None:
        pass


def tally_of(splits: list[Split]) -> Tally:
    return Tally(
        Plan(todo=list(splits)),
        [],
        RunRecord(NOWHERE, "run"),
        Quiet(),
        lambda path: None,
        clock=lambda: 0.0,
    )


def heartbeat(done: dict[str, tuple[float, int]]) -> Heartbeat:
    return Heartbeat(
        0,
        0,
        0.0,
        0.0,
        {split: share for split, (share, _) in done.items()},
        {split: rows for split, (_, rows) in done.items()},
    )


def splits_of(sizes: list[int]) -> list[Split]:
    return [Split(f"s{n}", f"{n}.parquet", size, "v") for n, size in enumerate(sizes)]


class AnyRun(RuleBasedStateMachine):
    """Workers take splits, are seen, answer, die: heartbeats are as old as chance has it.

    A split of size n has n rows, so that rows and share tell of the same thing.
    """

    @initialize(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6))
    def start(self, sizes: list[int]) -> None:
        self.splits = {split.id: split for split in splits_of(sizes)}
        self.tally = tally_of(list(self.splits.values()))
        self.waiting = list(self.splits)
        # By worker: what it has, and how many rows of each it has done.
        self.workers: dict[str, dict[str, int]] = {}
        # By split in flight: the rows that were last heard of.
        self.seen: dict[str, int] = {}
        self.born = 0
        self.done: list[str] = []
        self.failed: list[str] = []

    @precondition(lambda self: len(self.workers) < 3)
    @rule()
    def join(self) -> None:
        self.born += 1
        self.workers[f"w{self.born}"] = {}

    @precondition(lambda self: self.waiting and self.workers)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        self.workers[worker][self.waiting.pop(0)] = 0

    @precondition(lambda self: any(self.workers.values()))
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([w for w, has in self.workers.items() if has]))
        for split in self.workers[worker]:
            so_far = self.workers[worker][split]
            rows = data.draw(st.integers(so_far, self.splits[split].size))
            self.workers[worker][split] = rows

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def hear(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        has = self.workers[worker]
        self.seen |= has
        self.tally.heard(
            worker, heartbeat({s: (rows / self.splits[s].size, rows) for s, rows in has.items()})
        )

    @precondition(lambda self: any(self.workers.values()))
    @rule(data=st.data(), how=st.sampled_from(["done", "done", "again", "failed"]))
    def answer(self, data: st.DataObject, how: str) -> None:
        worker = data.draw(st.sampled_from([w for w, has in self.workers.items() if has]))
        split = data.draw(st.sampled_from(sorted(self.workers[worker])))
        del self.workers[worker][split]
        self.seen.pop(split, None)
        size = self.splits[split].size
        if how == "done":
            result = SplitResult(split, "out", rows=RowCounts(size, size))
            self.tally.done(self.splits[split], result)
            self.done.append(split)
        else:
            self.tally.failed(self.splits[split], "no", final=how == "failed")
            (self.failed if how == "failed" else self.waiting).append(split)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        for split in self.workers.pop(worker):
            self.seen.pop(split, None)
            self.tally.failed(self.splits[split], "its worker was lost", final=False)
            self.waiting.append(split)

    @invariant()
    def nothing_exceeds_what_is_there(self) -> None:
        if not hasattr(self, "tally"):
            return
        shown = self.tick()
        total = sum(split.size for split in self.splits.values())
        assert shown.rows <= total
        assert 0 <= shown.fraction <= 1
        committed = sum(self.splits[split].size for split in self.done)
        assert shown.rows == committed + sum(self.seen.values())

    def tick(self) -> Progress:
        self.tally.tick(ready=len(self.workers))
        return self.tally.progress

    def teardown(self) -> None:
        """From wherever chance led: at the end the numbers are exact, whatever was heard."""
        if not hasattr(self, "tally"):
            return
        for split in self.splits.keys() - {*self.done, *self.failed}:
            size = self.splits[split].size
            self.tally.done(
                self.splits[split], SplitResult(split, "out", rows=RowCounts(size, size))
            )
            self.done.append(split)
        shown = self.tick()
        assert shown.rows == sum(self.splits[split].size for split in self.done)
        assert shown.fraction == 1
        assert shown.splits_done + shown.splits_failed == shown.splits


AnyRun.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAnyRun = AnyRun.TestCase


def test_rows_in_flight_are_replaced_by_the_result_and_not_added_to_it() -> None:
    split, other = splits_of([40, 60])
    tally = tally_of([split, other])
    tally.heard("w", heartbeat({split.id: (1.0, 40)}))
    tally.tick(ready=1)
    assert (tally.progress.rows, tally.progress.fraction) == (40, 0.4)
    tally.done(split, SplitResult(split.id, "out", rows=RowCounts(40, 40)))
    tally.tick(ready=1)
    assert (tally.progress.rows, tally.progress.fraction) == (40, 0.4)
    tally.heard("w", heartbeat({split.id: (1.0, 40)}))
    tally.tick(ready=1)
    assert (tally.progress.rows, tally.progress.fraction) == (40, 0.4), "said too late"


def test_what_a_lost_worker_had_done_is_no_longer_counted() -> None:
    [split] = splits_of([40])
    tally = tally_of([split])
    tally.heard("w", heartbeat({split.id: (0.95, 38)}))
    tally.tick(ready=1)
    assert tally.progress.fraction == 0.95
    tally.failed(split, "its worker was lost", final=False)
    tally.tick(ready=0)
    assert (tally.progress.rows, tally.progress.fraction) == (0, 0)


def test_what_workers_have_done_is_the_sum_of_what_each_said_last() -> None:
    tally = tally_of(splits_of([40]))
    for worker, tokens, busy in (("a", 10, 0.5), ("b", 7, 1.0), ("a", 30, 1.5)):
        tally.heard(worker, Heartbeat(tokens, 2 * tokens, busy, 4.0, {}, {}))
    work = tally.work
    assert (work.tokens, work.padded_tokens, work.busy_seconds, work.seconds) == (37, 74, 2.5, 8.0)
