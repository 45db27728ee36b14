"""The pool's loop, over workers that are no processes and time that nobody waits for."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from fake_actors import NEVER, After, FakeActor, FakeActors, Script, at_rest, good, result_of
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import __version__
from pipeline.engine.driver import pool as pool_module
from pipeline.engine.driver.member import SHARED_SPLITS
from pipeline.engine.driver.placement import Shape
from pipeline.engine.driver.pool import Pool
from pipeline.engine.driver.scheduler import LOSSES, Scheduler
from pipeline.engine.driver.starts import REPORT_EVERY, STARTS
from pipeline.engine.messages import IN_FLIGHT, LOADING, Failure, Heartbeat, SplitResult, WorkPlan
from pipeline.errors import (
    Interrupted,
    JobError,
    OutputBusy,
    RunError,
    ShardscribeError,
    SplitError,
    WorkerLost,
)
from pipeline.job.job import Compute
from pipeline.lake.split import Split

pytestmark = pytest.mark.unit


@dataclass
class Heard:
    """A listener that remembers."""

    notices: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    failures: list[tuple[str, str, bool]] = field(default_factory=list)
    said: list[tuple[str, Heartbeat]] = field(default_factory=list)
    ticks: list[int] = field(default_factory=list)

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def heard(self, worker: str, heartbeat: Heartbeat) -> None:
        self.said.append((worker, heartbeat))

    def done(self, split: Split, result: SplitResult) -> None:
        self.results.append(split.id)

    def failed(self, split: Split, reason: str, *, final: bool) -> None:
        self.failures.append((split.id, reason, final))

    def tick(self, *, ready: int) -> None:
        self.ticks.append(ready)


@dataclass
class Ran:
    """A run that has ended."""

    pool: Pool
    scheduler: Scheduler
    actors: FakeActors
    heard: Heard
    end: ShardscribeError | None

    @property
    def workers(self) -> list[FakeActor]:
        return self.actors.made


def splits_of(count: int, *, size: int = 1) -> list[Split]:
    return [Split(f"s{i}", f"{i}.parquet", size, "v") for i in range(count)]


def run(
    make: Callable[[int], Script],
    *,
    count: int = 3,
    size: int = 1,
    limit: int | None = 1,
    stall: float = 60,
    wait: float = 300,
    cpus: int | str = 1,
    stop: Callable[[FakeActors], int] = lambda actors: 0,
    nodes: Callable[[float], dict[str, float]] | Sequence[str] = ("here",),
    before: Callable[[FakeActors], None] = lambda actors: None,
    heard: Heard | None = None,
) -> Ran:
    """Runs splits on workers of one's own.

    Args:
        make: What each worker does, by its number.
        nodes: The hosts that live, of 4 CPUs; or the CPUs of each, by the time.
        before: Is given the actors before the start.
        heard: Who listens.
    """
    actors, heard = FakeActors(make), heard or Heard()
    before(actors)

    def living() -> dict[str, dict[str, float]]:
        hosts = nodes(actors.now()) if callable(nodes) else dict.fromkeys(nodes, 4.0)
        return {f"node-of-{host}": {"CPU": cpus} for host, cpus in hosts.items()}

    job = SimpleNamespace(
        limits=SimpleNamespace(stall=stall),
        compute=Compute.model_validate({"wait": wait, "cpus_per_worker": cpus}),
    )
    shape = Shape(cpus if isinstance(cpus, int) else 4, 0)
    unused: Any = None
    plan = WorkPlan(job, {}, {}, {}, "f", __version__, "cpu", shape.cpus, unused, unused)  # type: ignore[arg-type]
    scheduler = Scheduler(splits_of(count, size=size))
    pool = Pool(
        plan, scheduler, actors=actors, shape=shape, limit=limit, nodes=living, listener=heard
    )
    if isinstance(heard, Bookkeeper):
        heard.pool = pool
    end: ShardscribeError | None = None
    try:
        pool.run(stop=lambda: stop(actors))
    except ShardscribeError as error:
        end = error
    assert all(actor.killed for actor in actors.made), "nobody stays behind"
    return Ran(pool, scheduler, actors, heard, end)


def failing(error: ShardscribeError) -> Callable[[Sequence[Split]], list[Failure]]:
    return lambda splits: [Failure(error) for _ in splits]


def seconds_each(seconds: float, split: Split) -> SplitResult:
    result = result_of(split)
    result.seconds = seconds
    return result


def works(seconds: float) -> Callable[[Sequence[Split]], After]:
    """A worker that needs so long for a split."""

    def annotate(splits: Sequence[Split]) -> After:
        whole = seconds * len(splits)
        return After(whole, [seconds_each(whole, split) for split in splits])

    return annotate


# What workers get


def test_every_split_is_answered_for_once() -> None:
    ran = run(lambda n: Script(works(0.1)), count=500, limit=7)
    assert ran.end is None
    assert sorted(ran.heard.results) == sorted(split.id for split in splits_of(500))


def test_each_worker_gets_a_split_before_any_gets_a_second() -> None:
    ran = run(lambda n: Script(works(5)), count=8, limit=8)
    assert [len(worker.asked) for worker in ran.workers] == [1] * 8


def test_no_worker_has_more_calls_than_it_may_and_none_is_left_without_one() -> None:
    ran = run(lambda n: Script(works(1)), count=60, limit=3)
    assert ran.end is None
    assert ran.actors.now() == pytest.approx(10, abs=1), "two calls of each are under way at once"
    assert [len(worker.asked) for worker in ran.workers] == pytest.approx([20] * 3, abs=8)


def test_whoever_is_faster_does_more() -> None:
    ran = run(lambda n: Script(works(9 if n else 1)), count=100, limit=2)
    slow, fast = sorted(sum(map(len, worker.asked)) for worker in ran.workers)
    assert fast > 5 * slow
    assert fast + slow == 100


def test_a_call_grows_as_long_as_it_is_answered_soon_and_gets_smaller_towards_the_end() -> None:
    ran = run(lambda n: Script(works(0.001)), count=4_000)
    sizes = [len(call) for call in ran.workers[0].asked]
    assert sizes[:6] == [1, 1, 2, 2, 4, 4]
    assert max(sizes) == SHARED_SPLITS
    assert sizes[-1] == 1
    slow = run(lambda n: Script(works(10)), count=40)
    assert {len(call) for call in slow.workers[0].asked} == {1}


def test_large_splits_do_not_share_a_call() -> None:
    ran = run(lambda n: Script(good), count=200, size=pool_module.SHARED_BYTES // 2)
    assert max(len(call) for call in ran.workers[0].asked) == 2


def test_no_more_workers_start_than_there_are_splits() -> None:
    ran = run(lambda n: Script(works(1)), count=2, limit=64)
    assert len(ran.workers) == 2


def test_as_many_workers_start_as_fit_and_more_when_nodes_join() -> None:
    ran = run(
        lambda n: Script(works(10)),
        count=100,
        limit=None,
        nodes=lambda now: {"here": 4.0} if now < 20 else {"here": 4.0, "there": 2.0},
    )
    assert ran.end is None
    assert len(ran.workers) == ran.pool.most_ready == 6


def test_a_split_that_a_worker_was_lost_over_waits_for_a_worker_that_has_nothing_else() -> None:
    alone: list[bool] = []
    held: dict[int, set[str]] = {}

    def make(number: int) -> Script:
        mine = held.setdefault(number, set())

        def annotate(splits: Sequence[Split]) -> Any:
            names = {split.id for split in splits}
            if "s3" in names:
                alone.append(not mine and names == {"s3"})
            if "s3" in names and number == 0:
                return After(1, WorkerLost("its machine is gone"))
            mine.update(names)
            ran_at = len(alone)
            assert not (alone[1:] and "s3" in mine and names != {"s3"}), ran_at
            after = works(1)(splits)
            return After(after.seconds, after.value)

        return Script(annotate)

    ran = run(make, count=40, limit=3)
    assert ran.end is None
    assert ran.scheduler.done == 40
    assert len(alone) == 2


# What workers answer


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OutputBusy("another run holds the output"), 4),
        (RunError("something else writes to this output", hint="Choose another directory"), 1),
    ],
)
def test_what_ends_the_run_on_a_worker_ends_it_here_as_what_it_is(
    error: RunError, code: int
) -> None:
    ran = run(lambda n: Script(failing(error)))
    assert type(ran.end) is type(error)
    assert (ran.end.exit_code, str(ran.end)) == (code, str(error))


def test_what_was_committed_beside_the_split_that_ends_the_run_is_told_first() -> None:
    def answer(asked: Sequence[Split]) -> list[Any]:
        return [
            Failure(OutputBusy("busy")) if split.id == "s7" else result_of(split) for split in asked
        ]

    ran = run(lambda n: Script(answer), count=30)
    assert isinstance(ran.end, OutputBusy)
    assert ran.scheduler.done == len(ran.heard.results) > 7


def test_what_broke_a_workers_device_is_told_and_another_worker_takes_over() -> None:
    broken = failing(WorkerLost("the device is broken: CUDA error: device-side assert triggered"))
    ran = run(lambda n: Script(good if n else broken))
    assert ran.end is None
    assert (ran.scheduler.done, ran.pool.lost) == (3, 1)
    assert any("device-side assert triggered" in notice for notice in ran.heard.notices)
    assert all("device-side assert" in reason for _, reason, _ in ran.heard.failures)
    assert ran.workers[0].killed


def test_a_split_that_raises_is_tried_three_times_and_no_other_is_touched() -> None:
    def answer(asked: Sequence[Split]) -> list[Any]:
        bad = Failure(SplitError("1.parquet: no"))
        return [bad if split.id == "s1" else result_of(split) for split in asked]

    ran = run(lambda n: Script(answer), count=5)
    assert ran.end is None
    assert (ran.scheduler.done, list(ran.scheduler.failed)) == (4, ["s1"])
    assert ran.heard.failures == [
        ("s1", "1.parquet: no", False),
        ("s1", "1.parquet: no", False),
        ("s1", "1.parquet: no", True),
    ]


def test_a_split_that_failed_is_tried_by_another_worker_though_the_first_is_free() -> None:
    def make(number: int) -> Script:
        if number:
            return Script(works(30))
        return Script(failing(SplitError("0.parquet: a broken disk")))

    ran = run(make, count=2, limit=2)
    assert ran.end is None
    assert ran.scheduler.done == 2
    assert [len(worker.asked) for worker in ran.workers] == [1, 2]
    assert ran.actors.waits < 300, "whoever may not have it is not asked again and again"


def test_a_dead_worker_gives_back_all_that_it_had_and_is_replaced() -> None:
    dies = WorkerLost("its process crashed: Segmentation fault", hint="Look")

    def answer(asked: Sequence[Split]) -> After:
        return After(5, dies) if asked[0].id == "s1" else After(NEVER)

    ran = run(lambda n: Script(good if n else answer), count=6)
    assert ran.end is None
    assert (ran.scheduler.done, ran.pool.lost, len(ran.workers)) == (6, 1, 2)
    told = f"worker-1 on here was lost: {dies}"
    assert ran.pool.deaths == [told]
    assert [split for split, reason, final in ran.heard.failures] == ["s0", "s1"]
    assert f"{told}; 2 splits go back" in ran.heard.notices


def test_a_split_that_ends_its_workers_is_given_up_and_costs_no_other_split_its_budget() -> None:
    def answer(asked: Sequence[Split]) -> Any:
        return WorkerLost("gone") if any(split.id == "s2" for split in asked) else good(asked)

    ran = run(lambda n: Script(answer), count=30)
    assert ran.end is None
    assert (ran.scheduler.done, list(ran.scheduler.failed)) == (29, ["s2"])
    assert ran.pool.lost == LOSSES


def test_an_answer_that_comes_after_its_worker_was_given_up_counts_for_nothing() -> None:
    late = lambda splits: After(100, good(splits))  # noqa: E731

    def answers_late(actors: FakeActors) -> None:
        actors.late = True

    ran = run(
        lambda n: Script(works(60), heartbeat=moving()) if n else Script(late),
        count=2,
        stall=30,
        before=answers_late,
    )
    assert ran.end is None
    assert ran.pool.lost == 1
    assert sorted(ran.heard.results) == ["s0", "s1"]
    assert ran.actors.now() > 100, "the late answer came while the second worker was at it"


# How workers start


def test_a_machine_of_another_version_is_left_out_and_the_others_do_the_work() -> None:
    def make(number: int) -> Script:
        return Script(host="there") if number else Script(version="0.0")

    ran = run(make, count=9, nodes=("here", "there"))
    assert ran.end is None
    assert (ran.scheduler.done, ran.pool.lost) == (9, 0)
    [told] = [notice for notice in ran.heard.notices if "here can't work" in notice]
    assert "shardscribe is 0.0 there" in told
    assert told in [f"{death}; no more workers start there" for death in ran.pool.deaths]
    assert ran.workers[-1].avoid == ["node-of-here"]
    assert ran.workers[0].plan is None, "a plan is for its own version alone"


def test_where_every_machine_has_another_version_the_job_is_wrong() -> None:
    ran = run(lambda n: Script(version="0.0"))
    assert isinstance(ran.end, JobError)
    assert "Install the same version" in str(ran.end)


def test_a_machine_that_can_not_load_the_model_is_left_out_once_however_many_try() -> None:
    wrong = Failure(JobError("model x can't be loaded", hint="Check the folder"))

    def make(number: int) -> Script:
        return Script(load=wrong) if number in (0, 2) else Script(host="there")

    ran = run(make, count=30, limit=4, nodes=("here", "there"))
    assert ran.end is None
    assert ran.scheduler.done == 30
    assert len([notice for notice in ran.heard.notices if "can't work" in notice]) == 1
    assert [death.count("model x can't be loaded") for death in ran.pool.deaths] == [1]


def test_a_worker_without_a_place_is_asked_for_anew_when_a_machine_is_left_out() -> None:
    """It might be given just that one."""
    wrong = Failure(JobError("model x can't be loaded"))

    def make(number: int) -> Script:
        if number == 0:
            return Script(load=After(5, wrong))
        return Script(hello=After(NEVER)) if number == 1 else Script(host="there")

    ran = run(make, count=9, limit=2, nodes=("here", "there"))
    assert ran.end is None
    assert [worker.avoid for worker in ran.workers] == [[], [], *[["node-of-here"]] * 2]


def test_where_no_machine_can_load_the_model_the_job_is_wrong() -> None:
    wrong = Failure(JobError("model x can't be loaded", hint="Check the folder"))
    ran = run(lambda n: Script(load=wrong, host=("here", "there")[n % 2]), nodes=("here", "there"))
    assert isinstance(ran.end, JobError)
    assert str(ran.end) == "model x can't be loaded (on there). Check the folder"
    assert ran.scheduler.done == 0


def test_a_machine_that_worked_before_is_tried_again_when_it_can_not_load_for_a_moment() -> None:
    dies = failing(WorkerLost("the device is broken"))
    away = Failure(JobError("the hub can't be reached"))

    def make(number: int) -> Script:
        return Script(good if number else dies, load=away if number in (1, 2) else None)

    ran = run(make, count=5)
    assert ran.end is None
    assert ran.scheduler.done == 5


def test_when_the_last_machine_fails_after_commits_the_job_is_not_called_wrong() -> None:
    def answer(asked: Sequence[Split]) -> list[Any]:
        ends = Failure(WorkerLost("the device is broken"))
        return [ends if split.id == "s2" else result_of(split) for split in asked]

    away = Failure(JobError("the hub can't be reached", hint="Look at the network"))
    ran = run(lambda n: Script(answer, load=away if n else None), count=5)
    assert type(ran.end) is RunError
    assert ran.end.exit_code == 1
    assert "no machine is left that can work: the hub can't be reached" in str(ran.end)
    assert ran.scheduler.done > 0


def test_a_machine_whose_workers_die_before_they_are_ready_is_left_out_after_four() -> None:
    full = Failure(WorkerLost("there is no memory for its models", hint="Free it"))

    def make(number: int) -> Script:
        return Script(load=full) if number < STARTS else Script(host="there")

    ran = run(make, nodes=("here", "there"))
    assert ran.end is None
    assert ran.scheduler.done == 3
    assert list(ran.pool.starts.machines.left_out) == ["node-of-here"]
    assert len(ran.pool.deaths) == STARTS
    assert ran.actors.now() > 2 + 4 + 8, "what was in the way may pass: each waits longer"


@pytest.mark.parametrize("when", ["before it says hello", "while it loads"])
def test_a_worker_whose_process_dies_as_it_starts_is_replaced(when: str) -> None:
    dies = After(1, WorkerLost("its machine ran out of memory"))

    def make(number: int) -> Script:
        if number:
            return Script()
        return Script(hello=dies) if when == "before it says hello" else Script(load=dies)

    ran = run(make)
    assert ran.end is None
    assert (ran.scheduler.done, len(ran.workers), ran.pool.lost) == (3, 2, 0)
    assert "its machine ran out of memory" in ran.pool.deaths[0]


def test_workers_that_die_before_they_are_ready_end_the_run_with_what_they_died_of() -> None:
    full = Failure(WorkerLost("there is no memory for its models", hint="Free it"))
    ran = run(lambda n: Script(load=full))
    assert type(ran.end) is RunError
    assert "there is no memory for its models; 4 workers in a row died" in str(ran.end)
    assert str(ran.end).endswith("Free it")


# Workers without a place


def test_workers_without_a_place_are_told_of_from_time_to_time_and_the_others_work() -> None:
    ran = run(
        lambda n: Script(works(50)) if n < 2 else Script(hello=After(NEVER)),
        count=6,
        limit=3,
        stall=1000,
    )
    assert ran.end is None
    told = "1 of 3 workers can't be placed: each asks for 1 CPU; the cluster has 1 node: 4 CPU"
    assert ran.heard.notices == [told] * int(ran.actors.now() // REPORT_EVERY)


@pytest.mark.parametrize("wait", [300.0, 3.0])
def test_a_run_that_gets_no_worker_at_all_ends_after_the_jobs_patience(wait: float) -> None:
    ran = run(lambda n: Script(hello=After(NEVER)), wait=wait, cpus=3)
    assert type(ran.end) is RunError
    assert "1 of 1 workers can't be placed: each asks for 3 CPUs" in str(ran.end)
    assert f"waited {wait:.0f} s" in str(ran.end)
    assert "compute.wait" in ran.end.hint
    assert wait <= ran.actors.now() < wait + 4


def test_a_cluster_without_a_living_node_ends_the_run() -> None:
    ran = run(lambda n: Script(hello=After(NEVER)), nodes=())
    assert "no node of the Ray cluster is alive" in str(ran.end)


@pytest.mark.parametrize("cpus", ["auto", 4])
def test_when_no_machine_is_left_that_is_large_enough_workers_get_smaller(cpus: Any) -> None:
    """The only large node dies with its worker; unless the job fixes what a worker asks for."""

    def make(number: int) -> Script:
        if number == 0:
            return Script(lambda splits: After(40, WorkerLost("its machine is gone")))
        return Script(host="there") if number == 2 else Script(hello=After(NEVER))

    ran = run(
        make,
        count=5,
        cpus=cpus,
        nodes=lambda now: {"here": 4.0, "there": 2.0} if now < 40 else {"there": 2.0},
    )
    asked = [str(worker.shape) for worker in ran.workers]
    if cpus == 4:
        assert "can't be placed: each asks for 4 CPUs" in str(ran.end)
        assert asked == ["4 CPUs"] * 2
        return
    assert ran.end is None
    assert ran.scheduler.done == 5
    assert asked == ["4 CPUs", "4 CPUs", "2 CPUs"]
    assert [worker.plan and worker.plan.threads for worker in ran.workers] == [4, None, 2]
    [told] = [notice for notice in ran.heard.notices if "no node is left" in notice]
    assert told.endswith("of 4 CPUs: from now on each asks for 2 CPUs")


# Signs of life


def moving(*splits: str) -> Callable[[], Heartbeat]:
    """A worker of which something new is seen each time, in whatever it does."""
    seen = 0

    def heartbeat() -> Heartbeat:
        nonlocal seen
        seen += 1
        keys = (LOADING, *(splits or ("s0", "s1", "s2")))
        return Heartbeat(0, 0, 0.0, 0.0, {}, {}, dict.fromkeys(keys, (seen, 0, 0)))

    return heartbeat


SIGNS = {"hangs": lambda n: (1, 0, 0), "waits": lambda n: (1, n, 0), "uploads": lambda n: (1, 0, n)}


@pytest.mark.parametrize("what", SIGNS)
def test_only_a_worker_that_shows_nothing_new_is_replaced(what: str) -> None:
    seen = 0

    def heartbeat() -> Heartbeat:
        nonlocal seen
        seen += 1
        sign = SIGNS[what](seen)
        return Heartbeat(0, 0, 0.0, 0.0, {}, {}, {"s0": sign, "s1": sign})

    ran = run(
        lambda n: Script() if n else Script(works(90), heartbeat=heartbeat), count=2, stall=30
    )
    assert ran.end is None
    assert ran.scheduler.done == 2
    assert ran.pool.lost == (1 if what == "hangs" else 0)
    if what == "hangs":
        assert "no progress for 30 s" in ran.pool.deaths[0]
        assert 30 < ran.actors.now() < 40


def test_a_worker_that_answers_no_heartbeat_stands_still_and_is_not_asked_for_a_second() -> None:
    hangs = Script(works(NEVER), heartbeat=lambda: After(NEVER))
    ran = run(lambda n: Script() if n else hangs, count=2, stall=30)
    assert ran.end is None
    assert "no progress for 30 s" in ran.pool.deaths[0]
    assert len(ran.workers[0].heartbeats) == 1


def test_a_worker_that_loads_for_long_is_left_in_peace_as_long_as_something_moves() -> None:
    ran = run(lambda n: Script(load=After(3600), heartbeat=moving()))
    assert ran.end is None
    assert ran.actors.now() >= 3600
    still = run(lambda n: Script(load=After(3600)))
    assert "no progress for 1800 s" in str(still.end)


def test_many_workers_are_asked_less_often_but_often_enough_to_be_seen_standing_still() -> None:
    ran = run(
        lambda n: Script(works(15), heartbeat=moving(f"s{n}")), count=1000, limit=1000, stall=8
    )
    assert ran.end is None
    assert ran.pool.lost == 0
    gaps = [
        later - sooner
        for worker in ran.workers
        for sooner, later in pairwise(worker.heartbeats[:-1])
    ]
    assert min(gaps) > 1.9
    assert max(gaps) <= 2.5, "a quarter of what a worker may stand still"
    few = run(lambda n: Script(works(60)), count=2, limit=1)
    times = few.workers[0].heartbeats
    assert len(times) == pytest.approx(few.actors.now(), abs=5), "one a second"


def test_what_a_worker_says_is_told_of_the_splits_that_it_has_and_no_others() -> None:
    """A heartbeat may be older than the answer that came before it."""
    old = {split.id: 0.5 for split in splits_of(9)}
    said = Heartbeat(70, 90, 1.0, 2.0, old, dict.fromkeys(old, 5))
    ran = run(lambda n: Script(works(3), heartbeat=lambda: said), count=9)
    told = [set(heartbeat.fractions) for _, heartbeat in ran.heard.said]
    assert told[1] == {"s0", "s1"}
    assert told[-1] == set()
    assert all(len(splits) <= IN_FLIGHT for splits in told)


def test_the_last_heartbeats_are_asked_for_at_the_end_and_not_waited_for_long() -> None:
    whole = Heartbeat(70, 90, 1.0, 2.0, {}, {})

    def make(number: int) -> Script:
        return Script(works(0.1), heartbeat=lambda: whole if number else After(NEVER))

    ran = run(make, count=2, limit=2)
    assert ran.end is None
    assert ("worker-2", whole) == ran.heard.said[-1]
    assert ran.actors.now() < 3


def test_time_in_which_the_driver_slept_is_no_proof_against_workers() -> None:
    asleep = False

    def nap(actors: FakeActors) -> int:
        nonlocal asleep
        if not asleep and actors.now() > 5:
            asleep = True
            actors._now += 3600
        return 0

    ran = run(lambda n: Script(works(20), heartbeat=moving()), count=2, stall=30, stop=nap)
    assert asleep
    assert (ran.end, ran.pool.lost) == (None, 0)


def test_whoever_watches_is_shown_the_run_twice_a_second_however_much_happens() -> None:
    large = pool_module.SHARED_BYTES  # so that each is a call
    ran = run(lambda n: Script(works(0.01)), count=3_000, limit=5, size=large)
    assert ran.actors.waits > 20 * len(ran.heard.ticks)
    assert len(ran.heard.ticks) <= ran.actors.now() / pool_module.TICK + 2
    assert max(ran.heard.ticks) == 5


# How a run ends


@pytest.mark.parametrize(("signals", "soonest", "latest"), [(1, pool_module.GRACE, 20), (2, 0, 5)])
def test_splits_in_flight_are_waited_for_only_so_long_and_a_second_signal_stops_at_once(
    signals: int, soonest: float, latest: float
) -> None:
    ran = run(
        lambda n: Script(works(NEVER)),
        stop=lambda actors: signals if actors.made and actors.made[0].asked else 0,
    )
    assert isinstance(ran.end, Interrupted)
    assert soonest <= ran.actors.now() <= latest
    (notice,) = ran.heard.notices
    assert "again to stop at once" in notice


def test_what_is_in_flight_at_a_signal_is_finished_and_nothing_new_begins() -> None:
    ran = run(
        lambda n: Script(works(7)),
        count=90,
        limit=3,
        stop=lambda actors: int(actors.now() > 10),
    )
    assert isinstance(ran.end, Interrupted)
    assert "for 6 splits in flight" in ran.heard.notices[0]
    assert ran.scheduler.running == 0
    assert ran.scheduler.done == len(ran.heard.results) == sum(len(w.asked) for w in ran.workers)
    assert ran.actors.now() < 10 + pool_module.GRACE


def test_a_worker_that_dies_after_a_signal_is_not_replaced() -> None:
    ran = run(
        lambda n: Script(lambda splits: After(12, WorkerLost("gone"))),
        stop=lambda actors: int(actors.now() > 10),
    )
    assert isinstance(ran.end, Interrupted)
    assert len(ran.workers) == 1
    assert ran.scheduler.waiting == 3


# Whatever happens


class Bookkeeper(Heard):
    """Looks at each turn whether the pool's books agree with its members."""

    pool: Pool

    def tick(self, *, ready: int) -> None:
        pool = self.pool
        members = pool.members.values()
        assert ready == sum(member.ready for member in members)
        assert pool._calls == {call: member for member in members for call in member.calls}
        assert [*pool.starts.unplaced.values()] == [m for m in members if not m.hello]
        assert {*pool.starts.loading.values()} == {m for m in members if m.hello and not m.ready}
        for calls, room in enumerate(pool._room._members):
            assert all(m.ready and len(m.attempts) == calls for m in room)
            assert all(m.name in pool.members for m in room)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9), count=st.integers(0, 60), limit=st.integers(1, 9))
def test_whatever_workers_do_each_split_ends_once_and_the_books_agree(
    seed: int, count: int, limit: int
) -> None:
    chance = random.Random(seed)
    trouble = chance.choice([0.0, 0.05, 0.3])

    def strange() -> bool:
        return chance.random() < trouble

    def annotate(splits: Sequence[Split]) -> Any:
        soon = chance.random() * chance.choice([0.1, 3, 20])
        if strange():
            return After(soon, WorkerLost("gone"))
        if strange():
            return After(NEVER)
        if strange():
            return After(soon, [Failure(WorkerLost("the device is broken"))] * len(splits))
        bad = Failure(SplitError("no"))
        return After(soon, [bad if strange() else result_of(split) for split in splits])

    def make(number: int) -> Script:
        return Script(
            annotate,
            host=chance.choice(["here", "there", "far"]),
            hello=After(NEVER) if strange() else None,
            load=After(chance.random() * 9, WorkerLost("no memory") if strange() else None),
            heartbeat=lambda: After(NEVER) if strange() else at_rest(),
        )

    def late(actors: FakeActors) -> None:
        actors.late = True

    heard = Bookkeeper()
    nodes = ("here", "there", "far")
    ran = run(make, count=count, limit=limit, stall=7, nodes=nodes, before=late, heard=heard)
    ended = [*heard.results, *(split for split, _, final in heard.failures if final)]
    assert len(ended) == len(set(ended)), "no split ends twice"
    assert ran.scheduler.done == len(heard.results)
    if ran.end is None:
        assert len(ended) == count
    else:
        assert "in a row died before they were ready" in str(ran.end) or "placed" in str(ran.end)
