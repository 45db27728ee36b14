"""A pool over actors that are no processes: what it does with what workers answer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import __version__
from pipeline.engine import pool as pool_module
from pipeline.engine.placement import Shape
from pipeline.engine.pool import Pool
from pipeline.engine.scheduler import Scheduler
from pipeline.engine.work import Counts, Failure, Pulse, Receipt
from pipeline.errors import (
    Interrupted,
    OutputBusy,
    RunError,
    ShardscribeError,
    SplitError,
    WorkerLost,
)
from pipeline.lake.dataset import Split

pytestmark = pytest.mark.unit

Answer = Callable[[list[Split]], Any]


class Hung:
    """What a worker that hangs gives: nothing, ever."""


class FakeRay:
    """Ray's calls, over plain objects: each method's answer is there at once, or never."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make
        self.workers: list[Any] = []
        self.killed: list[Any] = []

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        return lambda cls: SimpleNamespace(remote=self.start)

    def start(self, *args: Any, **kwargs: Any) -> Any:
        worker = self.make(len(self.workers))
        self.workers.append(worker)
        return Handle(worker)

    def wait(self, refs: list[Any], *, num_returns: int, timeout: float) -> tuple[list, list]:
        there = [ref for ref in refs if not isinstance(ref.value, Hung)]
        return there, [ref for ref in refs if ref not in there]

    def get(self, ref: Any) -> Any:
        if isinstance(ref.value, Exception):
            raise ref.value
        return ref.value

    def kill(self, handle: Any) -> None:
        self.killed.append(handle.worker)


class Ref:
    def __init__(self, value: Any) -> None:
        self.value = value


class Handle:
    def __init__(self, worker: Any) -> None:
        self.worker = worker

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *args: Ref(getattr(self.worker, name)(*args)))


class FakeWorker:
    """Answers as a worker does; `answer` says what becomes of splits."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def hello(self) -> Any:
        return "here", __version__

    def load(self, *plan: Any) -> Any:
        return None

    def annotate(self, splits: list[Split]) -> Any:
        return self.answer(splits)

    def pulse(self) -> Pulse:
        return Pulse(0, 0, 0.0, 0.0, {}, {})


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.receipts: list[str] = []
        self.failures: list[tuple[str, str, bool]] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def done(self, split: Split, receipt: Receipt) -> None:
        self.receipts.append(split.id)

    def failed(self, split: Split, reason: str, *, final: bool) -> None:
        self.failures.append((split.id, reason, final))

    def tick(self, pool: Pool) -> None:
        pass


class Clock:
    """Seconds that pass whenever someone looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.25
        return self.now


def receipt(split: Split) -> Receipt:
    return Receipt(split.id, split.output_path, rows=Counts(1, 1), seconds=1.0)


def good(splits: list[Split]) -> list[Any]:
    return [receipt(split) for split in splits]


def failing(error: ShardscribeError) -> Answer:
    return lambda splits: [Failure(error) for _ in splits]


def splits(count: int) -> list[Split]:
    return [Split(f"s{i}", f"{i}.parquet", 1, "v") for i in range(count)]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs splits on workers of one's own; gives the pool, the scheduler, what was heard."""

    def ran(
        make: Callable[[int], Any],
        *,
        count: int = 3,
        limit: int = 1,
        stall: float = 60,
        stop: Callable[[], int] = lambda: 0,
    ) -> Any:
        fake = FakeRay(make)
        monkeypatch.setattr(pool_module, "ray", fake)
        heard, clock = Heard(), Clock()
        job = SimpleNamespace(
            limits=SimpleNamespace(stall=stall), compute=SimpleNamespace(wait=300.0)
        )
        pool = Pool(
            SimpleNamespace(job=job, version=__version__),  # type: ignore[arg-type]
            shape=Shape(1, 0),
            limit=limit,
            nodes=lambda: [{"CPU": 4.0}],
            listener=heard,
            clock=clock,
        )
        scheduler = Scheduler(splits(count))
        end: ShardscribeError | None = None
        try:
            pool.run(scheduler, stop=stop)
        except ShardscribeError as error:
            end = error
        return SimpleNamespace(
            pool=pool, scheduler=scheduler, heard=heard, end=end, ray=fake, clock=clock
        )

    return ran


def test_every_split_is_answered_for_once(run: Callable[..., Any]) -> None:
    ran = run(lambda n: FakeWorker(good), count=20)
    assert ran.end is None
    assert sorted(ran.heard.receipts) == sorted(split.id for split in splits(20))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OutputBusy("another run holds the output"), 4),
        (RunError("something else writes to this output", mend="Choose another directory"), 1),
    ],
)
def test_what_ends_the_run_on_a_worker_ends_it_here_as_what_it_is(
    run: Callable[..., Any], error: RunError, code: int
) -> None:
    ran = run(lambda n: FakeWorker(failing(error)))
    assert type(ran.end) is type(error)
    assert (ran.end.exit_code, str(ran.end)) == (code, str(error))


def test_what_was_committed_beside_the_split_that_ends_the_run_is_told_first(
    run: Callable[..., Any],
) -> None:
    def answer(asked: list[Split]) -> list[Any]:
        return [
            Failure(OutputBusy("busy")) if split.id == "s7" else receipt(split) for split in asked
        ]

    ran = run(lambda n: FakeWorker(answer), count=30)
    assert isinstance(ran.end, OutputBusy)
    assert ran.scheduler.done == len(ran.heard.receipts) > 7


def test_what_broke_a_workers_device_is_told_and_another_worker_takes_over(
    run: Callable[..., Any],
) -> None:
    broken = failing(WorkerLost("the device is broken: CUDA error: device-side assert triggered"))
    ran = run(lambda n: FakeWorker(good if n else broken))
    assert ran.end is None
    assert (ran.scheduler.done, ran.pool.lost) == (3, 1)
    assert any("device-side assert triggered" in notice for notice in ran.heard.notices)
    assert all("device-side assert" in reason for _, reason, _ in ran.heard.failures)
    assert ran.ray.workers[0] in ran.ray.killed


def test_a_split_that_raises_is_tried_three_times_and_no_other_is_touched(
    run: Callable[..., Any],
) -> None:
    def answer(asked: list[Split]) -> list[Any]:
        bad = Failure(SplitError("1.parquet: no"))
        return [bad if split.id == "s1" else receipt(split) for split in asked]

    ran = run(lambda n: FakeWorker(answer), count=5)
    assert ran.end is None
    assert (ran.scheduler.done, list(ran.scheduler.failed)) == (4, ["s1"])
    assert ran.heard.failures == [
        ("s1", "1.parquet: no", False),
        ("s1", "1.parquet: no", False),
        ("s1", "1.parquet: no", True),
    ]


@pytest.mark.parametrize(("signals", "soonest", "latest"), [(1, pool_module.GRACE, 20), (2, 0, 5)])
def test_splits_in_flight_are_waited_for_only_so_long_and_a_second_signal_stops_at_once(
    run: Callable[..., Any], signals: int, soonest: float, latest: float
) -> None:
    asked: list[Split] = []

    def never(splits: list[Split]) -> Hung:
        asked.extend(splits)
        return Hung()

    ran = run(lambda n: FakeWorker(never), stop=lambda: signals if asked else 0)
    assert isinstance(ran.end, Interrupted)
    assert soonest <= ran.clock.now <= latest
    assert ran.ray.killed == ran.ray.workers
    (notice,) = ran.heard.notices
    assert "again to stop at once" in notice
