"""A pool over actors that are no processes: what it does with what workers answer."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from pipeline import __version__
from pipeline.engine import deaths
from pipeline.engine.driver import pool as pool_module
from pipeline.engine.driver.placement import Shape
from pipeline.engine.driver.pool import Pool
from pipeline.engine.driver.scheduler import Scheduler
from pipeline.engine.messages import Failure, Heartbeat, SplitResult
from pipeline.errors import (
    Interrupted,
    JobError,
    OutputBusy,
    RunError,
    ShardscribeError,
    SplitError,
    WorkerLost,
)
from pipeline.lake.split import Split
from pipeline.records.schema import RowCounts

pytestmark = pytest.mark.unit

Answer = Callable[[list[Split]], Any]


class Slow:
    """What a worker gives when it is done."""

    def __init__(self, done: Callable[[], bool], answer: Any) -> None:
        self.done = done
        self.answer = answer


class FakeRay:
    """Ray's calls, over plain objects: each method's answer is there at once, or never."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make
        self.workers: list[Any] = []
        self.killed: list[Any] = []
        self.asked: list[Any] = []

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        self.asked.append(None)
        return lambda cls: SimpleNamespace(remote=self.start, options=self.options)

    def options(self, *, label_selector: dict[str, str]) -> Any:
        self.asked.append(label_selector)
        return SimpleNamespace(remote=self.start)

    def start(self, *args: Any, **kwargs: Any) -> Any:
        worker = self.make(len(self.workers))
        self.workers.append(worker)
        return Handle(worker)

    def wait(self, refs: list[Any], *, num_returns: int, timeout: float) -> tuple[list, list]:
        there = [ref for ref in refs if not isinstance(ref.value, Slow) or ref.value.done()]
        return there, [ref for ref in refs if ref not in there]

    def get(self, ref: Any) -> Any:
        if isinstance(ref.value, Exception):
            raise ref.value
        if isinstance(ref.value, Slow):
            return ref.value.answer
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

    def __init__(
        self,
        answer: Answer,
        *,
        host: str = "here",
        version: str = __version__,
        load: Any = None,
        heartbeat: Callable[[], Heartbeat] = lambda: Heartbeat(0, 0, 0.0, 0.0, {}, {}),
        log: Path = Path("/nonexistent/log"),
    ) -> None:
        self.answer = answer
        self.host, self.version, self.log = host, version, log
        self.loaded = load
        self.heartbeat = heartbeat

    def hello(self) -> Any:
        return {
            "host": self.host,
            "version": self.version,
            "node": f"node-of-{self.host}",
            "log": str(self.log),
            "memory_kills": 0,
        }

    def load(self, *plan: Any) -> Any:
        return self.loaded

    def annotate(self, splits: list[Split]) -> Any:
        return self.answer(splits)


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.results: list[str] = []
        self.failures: list[tuple[str, str, bool]] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def done(self, split: Split, result: SplitResult) -> None:
        self.results.append(split.id)

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
        assert self.now < 3600, "the pool never ends"
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def result_of(split: Split) -> SplitResult:
    return SplitResult(split.id, split.output_path, rows=RowCounts(1, 1), seconds=1.0)


def good(splits: list[Split]) -> list[Any]:
    return [result_of(split) for split in splits]


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
        hosts: tuple[str, ...] = ("here",),
    ) -> Any:
        fake = FakeRay(make)
        clock = Clock()
        monkeypatch.setattr(pool_module, "ray", fake)
        monkeypatch.setattr(pool_module, "time", SimpleNamespace(sleep=clock.sleep))
        heard = Heard()
        job = SimpleNamespace(
            limits=SimpleNamespace(stall=stall), compute=SimpleNamespace(wait=300.0)
        )
        pool = Pool(
            SimpleNamespace(job=job, version=__version__, threads=1),  # type: ignore[arg-type]
            shape=Shape(1, 0),
            limit=limit,
            nodes=lambda: {f"node-of-{host}": {"CPU": 4.0} for host in hosts},
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
    assert sorted(ran.heard.results) == sorted(split.id for split in splits(20))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OutputBusy("another run holds the output"), 4),
        (RunError("something else writes to this output", hint="Choose another directory"), 1),
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
            Failure(OutputBusy("busy")) if split.id == "s7" else result_of(split) for split in asked
        ]

    ran = run(lambda n: FakeWorker(answer), count=30)
    assert isinstance(ran.end, OutputBusy)
    assert ran.scheduler.done == len(ran.heard.results) > 7


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
        return [bad if split.id == "s1" else result_of(split) for split in asked]

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

    def never(splits: list[Split]) -> Slow:
        asked.extend(splits)
        return Slow(lambda: False, None)

    ran = run(lambda n: FakeWorker(never), stop=lambda: signals if asked else 0)
    assert isinstance(ran.end, Interrupted)
    assert soonest <= ran.clock.now <= latest
    assert ran.ray.killed == ran.ray.workers
    (notice,) = ran.heard.notices
    assert "again to stop at once" in notice


def test_a_machine_of_another_version_is_left_out_and_the_others_do_the_work(
    run: Callable[..., Any],
) -> None:
    def make(number: int) -> FakeWorker:
        return FakeWorker(good, host="there") if number else FakeWorker(good, version="0.0")

    ran = run(make, count=9, hosts=("here", "there"))
    assert ran.end is None
    assert (ran.scheduler.done, ran.pool.lost) == (9, 0)
    [told] = [notice for notice in ran.heard.notices if "here can't work" in notice]
    assert "shardscribe is 0.0 there" in told
    assert told in [f"{death}; no more workers start there" for death in ran.pool.deaths]
    assert ran.ray.asked[-1] == {"ray.io/node-id": "!in(node-of-here)"}


def test_a_machine_that_can_not_load_the_model_is_left_out_once_however_many_try(
    run: Callable[..., Any],
) -> None:
    wrong = Failure(JobError("model x can't be loaded", hint="Check the folder"))

    def make(number: int) -> FakeWorker:
        if number in (0, 2):
            return FakeWorker(good, load=wrong)
        return FakeWorker(good, host="there")

    ran = run(make, count=30, limit=4, hosts=("here", "there"))
    assert ran.end is None
    assert ran.scheduler.done == 30
    assert len([notice for notice in ran.heard.notices if "can't work" in notice]) == 1
    assert [death.count("model x can't be loaded") for death in ran.pool.deaths] == [1]


def test_where_no_machine_can_load_the_model_the_job_is_wrong(run: Callable[..., Any]) -> None:
    wrong = Failure(JobError("model x can't be loaded", hint="Check the folder"))
    ran = run(
        lambda n: FakeWorker(good, load=wrong, host=("here", "there")[n % 2]),
        hosts=("here", "there"),
    )
    assert isinstance(ran.end, JobError)
    assert str(ran.end) == "model x can't be loaded (on there). Check the folder"
    assert ran.scheduler.done == 0


def test_a_machine_that_worked_before_is_tried_again_when_it_can_not_load_for_a_moment(
    run: Callable[..., Any],
) -> None:
    dies = failing(WorkerLost("the device is broken"))
    away = Failure(JobError("the hub can't be reached"))

    def make(number: int) -> FakeWorker:
        return FakeWorker(good if number else dies, load=away if number in (1, 2) else None)

    ran = run(make, count=5)
    assert ran.end is None
    assert ran.scheduler.done == 5


def test_when_the_last_machine_fails_after_commits_the_job_is_not_called_wrong(
    run: Callable[..., Any],
) -> None:
    def answer(asked: list[Split]) -> list[Any]:
        ends = Failure(WorkerLost("the device is broken"))
        return [ends if split.id == "s2" else result_of(split) for split in asked]

    away = Failure(JobError("the hub can't be reached", hint="Look at the network"))
    ran = run(lambda n: FakeWorker(answer, load=away if n else None), count=5)
    assert type(ran.end) is RunError
    assert ran.end.exit_code == 1
    assert "no machine is left that can work: the hub can't be reached" in str(ran.end)
    assert ran.scheduler.done > 0


def test_a_machine_whose_workers_die_before_they_are_ready_is_left_out_after_four(
    run: Callable[..., Any],
) -> None:
    full = Failure(WorkerLost("there is no memory for its models", hint="Free it"))

    def make(number: int) -> FakeWorker:
        return FakeWorker(good, load=full) if number < 4 else FakeWorker(good, host="there")

    ran = run(make, hosts=("here", "there"))
    assert ran.end is None
    assert ran.scheduler.done == 3
    assert list(ran.pool.machines.left_out) == ["node-of-here"]
    assert len(ran.pool.deaths) == 4


def test_workers_that_die_before_they_are_ready_end_the_run_with_what_they_died_of(
    run: Callable[..., Any],
) -> None:
    full = Failure(WorkerLost("there is no memory for its models", hint="Free it"))
    ran = run(lambda n: FakeWorker(good, load=full))
    assert type(ran.end) is RunError
    assert "there is no memory for its models; 4 workers in a row died" in str(ran.end)
    assert str(ran.end).endswith("Free it")


SIGNS = {"hangs": lambda n: (1, 0, 0), "waits": lambda n: (1, n, 0), "uploads": lambda n: (1, 0, n)}


@pytest.mark.parametrize("what", SIGNS)
def test_only_a_worker_that_shows_nothing_new_is_replaced(
    run: Callable[..., Any], what: str
) -> None:
    """The first worker takes its splits and answers only when it has been seen 60 times."""
    seen = 0
    asked: list[list[Split]] = []

    def heartbeat() -> Heartbeat:
        nonlocal seen
        seen += 1
        return Heartbeat(0, 0, 0.0, 0.0, {}, {}, {call[0].id: SIGNS[what](seen) for call in asked})

    def answer(call: list[Split]) -> Any:
        asked.append(call)
        return Slow(lambda: seen > 60, good(call))

    ran = run(
        lambda n: FakeWorker(good) if n else FakeWorker(answer, heartbeat=heartbeat),
        count=2,
        stall=30,
    )
    assert ran.end is None
    assert ran.scheduler.done == 2
    assert ran.pool.lost == (1 if what == "hangs" else 0)
    if what == "hangs":
        assert "no progress for 30 s" in ran.pool.deaths[0]


def crash(log: Path, text: str) -> Callable[[list[Split]], Any]:
    """A worker whose process is gone, and wrote this before."""
    log.write_text(text)
    return lambda asked: ActorDiedError()


@pytest.mark.parametrize(
    ("text", "kills", "told"),
    [
        (
            "*** SIGSEGV received at time=1 on cpu 0 ***\nFatal Python error: Segmentation fault\n",
            0,
            "its process crashed: Segmentation fault (SIGSEGV)",
        ),
        (
            "terminate called after throwing an instance of 'std::bad_alloc'\n"
            "  what():  std::bad_alloc\n*** SIGABRT received at\nFatal Python error: Aborted\n",
            0,
            "its process crashed: Aborted (SIGABRT): terminate called after throwing an instance of"
            " 'std::bad_alloc' what(): std::bad_alloc",
        ),
        ("a warning\n", 0, "ended without a word, as one does that is killed by signal 9"),
        ("a warning\n", 1, "killed by signal 9: its machine has no memory left"),
    ],
)
def test_what_killed_a_worker_reaches_the_summary(
    run: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    kills: int,
    told: str,
) -> None:
    monkeypatch.setattr(deaths, "memory_kills", lambda: kills)
    log = tmp_path / "worker.err"
    died = crash(log, text)
    host = socket.gethostname()
    ran = run(lambda n: FakeWorker(good if n else died, host=host, log=log), hosts=(host,))
    assert ran.end is None
    assert ran.scheduler.done == 3
    [death] = ran.pool.deaths
    assert told in death
    assert all(told in reason for _, reason, _ in ran.heard.failures)
