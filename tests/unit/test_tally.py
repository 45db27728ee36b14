"""What a person sees of a run never exceeds what is there, whatever workers say and when."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers import wait_for
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.engine.driver.tally import Tally
from pipeline.engine.messages import Heartbeat, SplitResult
from pipeline.lake.plan import Plan
from pipeline.lake.split import Split
from pipeline.lake.store.local import LocalStore
from pipeline.records.schema import Progress, ProgressLine, RowCounts
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


class Kept(Nowhere):
    """Keeps every line of progress."""

    def __init__(self) -> None:
        super().__init__("/nonexistent")
        self.lines: list[ProgressLine] = []

    def put(self, path: str, content: bytes) -> None:
        if path.endswith("progress.json"):
            self.lines.append(ProgressLine.model_validate_json(content))


def recorded(tally: Tally, kept: Kept, step: Callable[[], object]) -> bool:
    """Whether a step writes a line."""
    before = len(kept.lines)
    step()
    wait_for(lambda: not tally.record._outbox.busy)
    return len(kept.lines) > before


def test_progress_is_recorded_at_each_phase_and_then_every_ten_seconds() -> None:
    splits = splits_of([40, 60])
    kept, tally, now = Kept(), tally_of(splits), [0.0]
    tally.record, tally.clock = RunRecord(kept, "run"), lambda: now[0]

    def tick(at: float, ready: int = 1) -> bool:
        now[0] = at
        return recorded(tally, kept, lambda: tally.tick(ready=ready))

    assert recorded(tally, kept, lambda: tally.phase("starting Ray"))
    assert tick(1, ready=0), "models are being loaded"
    assert not tick(5, ready=0)
    assert tick(6), "the first worker is ready"
    assert [tick(at) for at in (7, 10, 15, 16, 17, 25, 26, 100, 100.5)] == [
        False, False, False, True, False, False, True, True, False,
    ]  # fmt: skip
    phases = [line.progress.phase for line in kept.lines]
    assert phases == ["starting Ray", "loading models", *["annotating"] * 4]


def test_a_line_says_what_each_worker_has_and_no_more_of_it_than_fits() -> None:
    splits = splits_of([10] * 400)
    kept, tally = Kept(), tally_of(splits)
    tally.record = RunRecord(kept, "run")
    for worker in range(40):
        mine = splits[10 * worker : 10 * worker + 10]
        tally.heard(f"worker-{worker + 1}", heartbeat({s.id: (0.5, 5) for s in mine}))
    tally.done(splits[0], SplitResult("s0", "out", rows=RowCounts(10, 10)))
    tally.failed(splits[1], "lost", final=False)
    recorded(tally, kept, lambda: tally.tick(ready=40))
    [line] = kept.lines
    assert line.splits_in_flight == 398
    assert [has.worker for has in line.in_flight] == [f"worker-{n}" for n in range(1, 17)]
    assert [has.splits for has in line.in_flight] == [8, *[10] * 15]
    assert [split.path for split in line.in_flight[0].some] == [
        f"{n}.parquet" for n in (2, 3, 4, 5)
    ]
    assert {(s.fraction, s.rows, s.told == s.path) for has in line.in_flight for s in has.some} == {
        (0.5, 5, True)
    }
    assert len(line.model_dump_json()) < 10_000


def test_a_split_that_goes_from_a_lost_worker_to_another_is_said_to_be_there_alone() -> None:
    [split] = splits_of([40])
    kept, tally = Kept(), tally_of([split])
    tally.record = RunRecord(kept, "run")
    tally.heard("worker-1", heartbeat({split.id: (0.9, 36)}))
    tally.failed(split, "lost", final=False)
    tally.heard("worker-2", heartbeat({split.id: (0.1, 4)}))
    recorded(tally, kept, lambda: tally.tick(ready=1))
    assert [(has.worker, has.some[0].rows) for has in kept.lines[0].in_flight] == [("worker-2", 4)]
    assert kept.lines[0].progress.rows == 4
