"""One million splits through the driver: planning and scheduling, without Ray and without models.

The input's listing and the output's are made up; everything the driver does with them is its own
code: hashing splits, comparing with what is there, handing splits to 64 workers with two in
flight each, adding up results, and writing the run record to a local directory. In a second
round one worker fails whatever it gets, and fast, as a machine with a broken disk does. Exits 1
if it takes more than 60 s or 1 GB.

    python benchmarks/million.py
    python benchmarks/million.py --splits 100000 --profile
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from pipeline.engine.driver.scheduler import Attempt, Scheduler
from pipeline.engine.driver.tally import Tally
from pipeline.engine.messages import Heartbeat, SplitResult
from pipeline.lake.memory import Memory
from pipeline.lake.plan import Plan
from pipeline.lake.source.base import Listing
from pipeline.lake.source.cut import splits_of
from pipeline.lake.split import Split
from pipeline.lake.store.base import Entry
from pipeline.lake.store.local import LocalStore
from pipeline.planning import plan_run
from pipeline.records.schema import Progress, RowCounts, Summary
from pipeline.records.writer import RunRecord

SPLITS = 1_000_000
WORKERS = 64
IN_FLIGHT = 2
BROKEN_IS_FASTER = 100
TICK_EVERY = 1_000  # splits; a real run ticks twice a second
MAX_SECONDS = 60.0
MAX_MB = 1_000.0
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


class Crowd:
    """What the tally asks of a pool of workers."""

    ready = WORKERS

    def __init__(self) -> None:
        self.flying: dict[str, list[Attempt]] = {f"worker-{n}": [] for n in range(WORKERS)}

    def heartbeats(self) -> list[Heartbeat]:
        """One per worker."""
        return [
            Heartbeat(
                tokens=1000,
                padded_tokens=1100,
                busy_seconds=9.0,
                seconds=10.0,
                fractions={attempt.split.id: 0.5 for attempt in attempts},
                rows={attempt.split.id: 50 for attempt in attempts},
            )
            for attempts in self.flying.values()
        ]


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


def result_of(split: Split, worker: str) -> SplitResult:
    """As a worker would give it."""
    counts = {name: RowCounts(100, 98, 1, 1) for name in TASKS}
    return SplitResult(
        split.id, split.output_path, True, RowCounts(100, 98, 1, 1), counts, 12_000, 13_000, 1.25,
        51_000, [(7, "pii", "the text is not UTF-8")], worker,
    )  # fmt: skip


def work(plan: Plan, scheduler: Scheduler, tally: Tally, *, broken: str | None = None) -> None:
    """The pool's loop with workers that answer at once.

    `broken` fails whatever it gets, a hundred times in the time that others need for one split.
    """
    crowd = Crowd()
    for worker in crowd.flying:
        scheduler.join(worker)
    ended = ticked = 0
    while not scheduler.finished:
        for worker, attempts in crowd.flying.items():
            for _ in range(BROKEN_IS_FASTER if worker == broken else 1):
                while len(attempts) < IN_FLIGHT and (attempt := scheduler.next(worker)):
                    attempts.append(attempt)
                ended += len(attempts)
                if worker == broken and not attempts:
                    break
                if worker == broken:
                    fail(attempts, scheduler, tally)
        if ended - ticked >= TICK_EVERY:
            ticked = ended
            tally.tick(crowd)
        for worker, attempts in crowd.flying.items():
            for attempt in attempts:
                if scheduler.succeed(attempt):
                    tally.done(attempt.split, result_of(attempt.split, worker))
            attempts.clear()


def fail(attempts: list[Attempt], scheduler: Scheduler, tally: Tally) -> None:
    """Takes the answers of a worker that can't read its disk."""
    for attempt in attempts:
        reason = f"/lake/{attempt.split.path}: OSError: input/output error"
        if scheduler.fail(attempt, reason):
            tally.failed(attempt.split, reason, final=attempt.split.id in scheduler.failed)
    attempts.clear()


def measure(count: int, directory: Path) -> list[Phase]:
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
        import_module("pipeline.engine.driver.pool")
    with phase("list the input (made up)"):
        files = listing(count)
    with phase("cut it into splits"):
        splits = list(splits_of(LocalStore(str(directory)), files, fingerprint=FINGERPRINT))
    pinned: Any = SimpleNamespace(
        splits=lambda memory, there: splits,
        checked=SimpleNamespace(listing=Listing(files)),
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
        plan = plan_run(pinned, half)
    assert (len(plan.todo), len(plan.done)) == (count - len(there), len(there))
    del plan, there, half, whole

    with phase("plan, no output is there"):
        plan = plan_run(pinned, MadeUp(str(directory / "none"), []))
    assert len(plan.todo) == count
    run("schedule and record", plan, directory / "none", phase)
    # Fewer: what is looked for is a time that grows with the square.
    plan = Plan(todo=splits[: count // 10], files=count // 10)
    run("the same, a tenth, one worker broken", plan, directory / "bad", phase, "worker-0")
    return phases


def run(
    name: str,
    plan: Plan,
    output: Path,
    phase: Callable[[str, int], Any],
    broken: str | None = None,
) -> None:
    """Schedules a plan, and proves that each split ended once."""
    record = RunRecord(LocalStore(str(output)).own, "run")
    count = len(plan.todo)
    with phase(name, count), record:
        tally = Tally(plan, TASKS, record, Silent(), lambda path: None)
        scheduler = Scheduler(plan.todo)
        work(plan, scheduler, tally, broken=broken)
        summary = Summary(
            run="run", job="million", state="done", exit_code=0, started="", seconds=0,
            input="", output="",
        )  # fmt: skip
        tally.fill(summary)
    assert (summary.splits.done, summary.splits.failed, summary.splits.left) == (count, 0, 0)
    assert summary.rows.rows == 100 * count
    events = sum(
        len(part.read_bytes().splitlines())
        for part in (record.store.base / "runs/run").glob("events-*.jsonl")
    )
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
    parser.add_argument("--profile", action="store_true", help="Also print where the time went.")
    options = parser.parse_args()
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as directory:
        if options.profile:
            profile.enable()
        phases = measure(options.splits, Path(directory))
        profile.disable()
    print(table(phases))
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    seconds, most = sum(phase.seconds for phase in phases), phases[-1].most_mb
    scale = options.splits / SPLITS
    if seconds > MAX_SECONDS * max(scale, 0.01) and not options.profile:
        print(f"{seconds:.1f} s is more than {MAX_SECONDS * scale:g} s")
        return 1
    if most > MAX_MB:
        print(f"{most:,.0f} MB is more than {MAX_MB:,.0f} MB")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
