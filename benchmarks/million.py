"""One million splits and 10,000 workers through the driver, without Ray and without models.

The input's listing and the output's are made up, and the workers are no processes: each answers
after as long as it would need, at about a split a second, in a time of their own that passes at
once whenever the driver waits. Everything the driver does is its own code: hashing splits,
comparing with what is there, the pool's loop with its feeding, heartbeats and stalls, adding up
results, and writing the run record to a local directory. Each answer comes alone, so that each
costs a turn of the loop. In a second round, of a tenth, one worker fails whatever it gets, and
fast, as a machine with a broken disk does. Exits 1 where the pool does fewer than 10,000 splits a
processor second, as that is what so many workers do, or where the driver takes more than 1.5 GB.

    python benchmarks/million.py
    python benchmarks/million.py --splits 100000 --workers 1000 --profile
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from pipeline import __version__
from pipeline.engine.driver.actors import Reply
from pipeline.engine.driver.placement import Shape
from pipeline.engine.driver.pool import Pool
from pipeline.engine.driver.scheduler import Scheduler
from pipeline.engine.driver.tally import Tally
from pipeline.engine.messages import Failure, Heartbeat, SplitResult, WorkPlan
from pipeline.errors import SplitError, WorkerLost
from pipeline.job.compute import Compute
from pipeline.job.job import Limits
from pipeline.lake.memory import Memory
from pipeline.lake.plan import Plan
from pipeline.lake.sink.files import FileSink
from pipeline.lake.source.base import Listing
from pipeline.lake.source.cut import splits_of
from pipeline.lake.split import Split
from pipeline.lake.store.base import Entry
from pipeline.lake.store.local import LocalStore
from pipeline.planning import plan_run
from pipeline.records.schema import Progress, RowCounts, Summary
from pipeline.records.writer import RunRecord

SPLITS = 1_000_000
WORKERS = 10_000
SPLIT_SECONDS = 1.0  # that a worker needs for one
LOAD_SECONDS = 20.0
BROKEN_IS_FASTER = 100
LEAST_RATE = 10_000.0  # splits a second
MAX_MB = 1_500.0
FINGERPRINT = "0123456789abcdef"
TASKS = ("sentiment", "pii", "gist")


class Phase(NamedTuple):
    """What one step took, and what the process held at its end and at most so far."""

    name: str
    splits: int
    seconds: float
    processor: float
    mb: float
    most_mb: float


class MadeUp(LocalStore):
    """An output of which only the listing is made up."""

    def __init__(self, root: str, names: Sequence[str]) -> None:
        super().__init__(root)
        self.listed = names

    def entries(self, missed: object = None) -> Iterator[Entry]:
        """As a walk of the directory would give them."""
        for number, name in enumerate(self.listed):
            yield Entry(name, 50_000 + number % 1000, f"{number:x}")


class Silent:
    """Shows nothing."""

    def notice(self, text: str) -> None:
        """Nothing."""

    def progress(self, progress: Progress) -> None:
        """Nothing."""


class CrowdActor:
    """A worker of the crowd."""

    def __init__(self, crowd: Crowd, name: str, *, broken: bool) -> None:
        self.node = f"node-of-{name}"
        self.crowd = crowd
        self.name = name
        self.broken = broken
        self.free = 0.0  # when it is through with what it has
        self.flying: dict[str, Split] = {}
        self.done = 0

    def hello(self) -> int:
        """Placed at once."""
        said = {"host": self.node, "version": __version__, "node": self.node}
        return self.crowd.ask(0.1, lambda: said)

    def load(self, plan: WorkPlan) -> int:
        """Some later than others; the broken one last, as alone it would fail all for good."""
        more = 1.0 if self.broken else self.crowd.calls % 97 / 97
        return self.crowd.ask(LOAD_SECONDS * (1 + more), lambda: None)

    def annotate(self, splits: Sequence[Split]) -> int:
        """One call after the other, as the device is held by one at a time."""
        seconds = SPLIT_SECONDS * len(splits) * (0.5 + self.crowd.calls % 101 / 101)
        if self.broken:
            seconds = SPLIT_SECONDS / BROKEN_IS_FASTER * len(splits)
        now = self.crowd.now()
        self.free = max(self.free, now) + seconds
        self.flying.update((split.id, split) for split in splits)
        return self.crowd.ask(self.free - now, lambda: self._answers(splits, seconds))

    def _answers(self, splits: Sequence[Split], seconds: float) -> list[SplitResult | Failure]:
        for split in splits:
            del self.flying[split.id]
        if self.broken:
            said = "input/output error"
            return [Failure(SplitError(f"/lake/{split.path}: {said}")) for split in splits]
        self.done += len(splits)
        return [result_of(split, self.name, seconds) for split in splits]

    def heartbeat(self) -> int:
        """Answers at once."""
        return self.crowd.ask(0.01, self._beat)

    def _beat(self) -> Heartbeat:
        return Heartbeat(
            tokens=12_000 * self.done,
            padded_tokens=13_000 * self.done,
            busy_seconds=9.0,
            seconds=10.0,
            fractions=dict.fromkeys(self.flying, 0.5),
            rows=dict.fromkeys(self.flying, 50),
            moves=dict.fromkeys(self.flying, (self.done, 0, 0)),
        )

    def cause(self) -> WorkerLost:
        """Nobody dies here."""
        raise AssertionError(self.name)

    def kill(self) -> None:
        """Nothing is left of it."""


class Crowd:
    """Workers that are no processes, and a time that passes when somebody waits."""

    def __init__(self, *, broken: str | None) -> None:
        self.calls = 0
        self._broken = broken
        self._now = 0.0
        self._coming: list[tuple[float, int, Callable[[], Any]]] = []

    def now(self) -> float:
        """The crowd's own time."""
        return self._now

    def start(self, name: str, shape: Shape, *, avoid: Collection[str]) -> CrowdActor:
        """One more."""
        return CrowdActor(self, name, broken=name == self._broken)

    def ask(self, seconds: float, value: Callable[[], Any]) -> int:
        """An answer will come."""
        self.calls += 1
        heappush(self._coming, (self._now + seconds, self.calls, value))
        return self.calls

    def wait(self, seconds: float) -> list[Reply]:
        """The next answer."""
        until = self._now + seconds
        if not self._coming or self._coming[0][0] > until:
            self._now = until
            return []
        when, call, value = heappop(self._coming)
        self._now = max(self._now, when)
        return [Reply(call, value())]


def listing(count: int) -> list[Entry]:
    """Small files in daily partitions."""
    return [
        Entry(
            f"day={number // 1000:04}/part-{number:07}.parquet",
            20_000 + number * 7919 % 100_000,
            f"{1_700_000_000_000_000_000 + number:x}",
        )
        for number in range(count)
    ]


def result_of(split: Split, worker: str, seconds: float) -> SplitResult:
    """As a worker would give it."""
    counts = {name: RowCounts(100, 98, 1, 1) for name in TASKS}
    return SplitResult(
        split.id, split.output_path, True, RowCounts(100, 98, 1, 1), counts, 12_000, 13_000,
        seconds, 51_000, [(7, "pii", "the text is not UTF-8")], worker,
    )  # fmt: skip


def work(
    splits: Sequence[Split], listener: Any, *, workers: int, broken: str | None = None
) -> Pool:
    """The pool's own loop; one worker may fail whatever it gets, a hundred times as fast."""
    crowd = Crowd(broken=broken)
    unused: Any = None
    job: Any = SimpleNamespace(compute=Compute(), limits=Limits())
    pool = Pool(
        WorkPlan(job, {}, {}, {}, FINGERPRINT, __version__, "cpu", 1, unused, unused),
        Scheduler(splits),
        actors=crowd,
        shape=Shape(1, 0),
        limit=workers,
        nodes=lambda: {"node": {"CPU": float(workers)}},
        listener=listener,
    )
    listener.clock = crowd.now
    pool.run(stop=lambda: 0)
    assert pool.lost == 0
    return pool


def measure(count: int, directory: Path, *, workers: int = WORKERS) -> list[Phase]:
    """Plans and schedules that many splits, then again with half of them done before."""
    phases: list[Phase] = []

    @contextmanager
    def phase(name: str, splits: int = count) -> Iterator[None]:
        wall, processor = time.perf_counter(), time.process_time()
        yield
        phases.append(
            Phase(
                name, splits, time.perf_counter() - wall, time.process_time() - processor,
                held_mb(), most_mb(),
            )
        )  # fmt: skip

    with phase("import Ray, which a run needs", 0):
        import_module("pipeline.engine.driver.ray_actors")
    with phase("list the input (made up)"):
        files = listing(count)
    with phase("cut it into splits"):
        splits = list(splits_of(LocalStore(str(directory)), files, fingerprint=FINGERPRINT))
    pinned: Any = SimpleNamespace(
        splits=lambda memory, there: splits,
        checked=SimpleNamespace(listing=Listing(files), source=None, sink=None),
        fingerprint=FINGERPRINT,
        parts={},
    )
    there = [split.output_path for split in splits[::2]]
    half = MadeUp(str(directory / "half"), there)
    # As the run that committed them left it.
    whole = Memory(half.own, "outputs")
    for entry in half.entries():
        whole.put(entry.path, str(entry.size))
    whole.save()
    with phase("plan, half of the output is there"):
        pinned.checked.sink = FileSink(half)
        plan = plan_run(pinned)
    assert (len(plan.todo), len(plan.done)) == (count - len(there), len(there))
    del plan, there, half, whole

    with phase("plan, no output is there"):
        pinned.checked.sink = FileSink(MadeUp(str(directory / "none"), []))
        plan = plan_run(pinned)
    assert len(plan.todo) == count
    run(f"pool of {workers:,}, and record", plan, directory / "none", phase, workers=workers)
    # Fewer: what is looked for is a time that grows with the square.
    plan = Plan(todo=splits[: count // 10], files=count // 10)
    name, few = "the same, a tenth of both, one worker broken", max(2, workers // 10)
    run(name, plan, directory / "bad", phase, workers=few, broken="worker-1")
    return phases


def run(
    name: str,
    plan: Plan,
    output: Path,
    phase: Callable[[str, int], Any],
    *,
    workers: int,
    broken: str | None = None,
) -> None:
    """Works a plan off, and proves that each split ended once."""
    record = RunRecord(LocalStore(str(output)).own, "run")
    count = len(plan.todo)
    with phase(name, count), record:
        tally = Tally(plan, TASKS, record, Silent(), lambda path: None)
        work(plan.todo, tally, workers=workers, broken=broken)
        summary = Summary(
            run="run", job="million", state="done", exit_code=0, started="", seconds=0,
            input="", output="",
        )  # fmt: skip
        tally.fill(summary)
    assert (summary.splits.done, summary.splits.failed, summary.splits.left) == (count, 0, 0)
    assert summary.rows.rows == 100 * count
    own = Path(record.store.address(record.directory))
    events = sum(len(part.read_bytes().splitlines()) for part in own.glob("events-*.jsonl"))
    assert events >= count


def held_mb() -> float:
    """What the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def most_mb() -> float:
    """The most that it held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def table(phases: Sequence[Phase]) -> str:
    """The phases as Markdown."""
    lines = [
        "| phase | splits | seconds | processor seconds | µs a split | MB held | MB at most |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in phases:
        each = f"{one.seconds / one.splits * 1e6:.1f}" if one.splits else ""
        lines.append(
            f"| {one.name} | {one.splits:,} | {one.seconds:.2f} | {one.processor:.2f} | {each} "
            f"| {one.mb:,.0f} | {one.most_mb:,.0f} |"
        )
    seconds, processor = sum(p.seconds for p in phases), sum(p.processor for p in phases)
    lines.append(
        f"| **all** | | **{seconds:.2f}** | {processor:.2f} | | | **{phases[-1].most_mb:,.0f}** |"
    )
    return "\n".join(lines)


def main() -> int:
    """Prints the table; 1 if the driver took too long or too much."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--profile", action="store_true", help="Also print where the time went.")
    options = parser.parse_args()
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as directory:
        if options.profile:
            profile.enable()
        phases = measure(options.splits, Path(directory), workers=options.workers)
        profile.disable()
    print(table(phases))
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    most = phases[-1].most_mb
    pooled = next(phase for phase in phases if phase.name.startswith("pool of"))
    # The driver is one thread: what else the machine does is not its own.
    rate = pooled.splits / pooled.processor
    print(
        f"\n{rate:,.0f} splits a processor second through the pool of {options.workers:,} workers"
    )
    if rate < LEAST_RATE and not options.profile:
        print(f"fewer than {LEAST_RATE:,.0f}")
        return 1
    if most > MAX_MB:
        print(f"{most:,.0f} MB is more than {MAX_MB:,.0f} MB")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
