"""The workers of a run: create, feed, watch, replace. Thin: it asks the scheduler what to do."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from pipeline.engine.placement import Shape, describe, places
from pipeline.engine.scheduler import Attempt, Scheduler
from pipeline.engine.work import Pulse, Receipt, WorkPlan
from pipeline.engine.worker import Worker
from pipeline.errors import Interrupted, JobError, RunError, WorkerLost
from pipeline.lake.dataset import Split

IN_FLIGHT = 2  # calls: while one holds the device, the other is read and tokenized
# Small files go through a model together, so that batches are full and a call is worth its
# millisecond: as many as a worker does in about this time, as a kill loses what is in flight.
CALL_SECONDS = 3.0
SHARED_SPLITS = 256
SHARED_BYTES = 4 * 1024 * 1024
STARTS = 4  # workers in a row that may die before they are ready
RAISED = "it raised"
PAUSE = 2.0  # seconds before the next start, doubled each time
TICK = 0.5
REPORT_EVERY = 30.0
RESIZE_EVERY = 10.0
LOAD_SECONDS = 1800.0  # a large model may come from the hub first
GRACE = 15.0  # Kubernetes gives 30 s after SIGTERM


class Listener(Protocol):
    """Who hears of what happens in a pool."""

    def notice(self, text: str) -> None:
        """Something a person should know now."""

    def done(self, split: Split, receipt: Receipt) -> None:
        """A split is committed."""

    def failed(self, split: Split, reason: str, *, final: bool) -> None:
        """An attempt failed; if final, the split did."""

    def tick(self, pool: Pool) -> None:
        """Called about twice a second."""


@dataclass
class _Member:
    name: str
    handle: Any
    born: float
    host: str = ""
    placed: float = 0.0
    ready: bool = False
    attempts: dict[Any, list[Attempt]] = field(default_factory=dict)
    pulse: Pulse | None = None
    pulse_ref: Any = None
    asked: float = 0.0
    moved: dict[str, tuple[float, float]] = field(default_factory=dict)
    share: int = 1

    def learn(self, splits: int, seconds: float) -> None:
        """Takes more splits in a call, or fewer, by how long the last one took."""
        if seconds < CALL_SECONDS and splits == self.share:
            self.share = min(2 * self.share, SHARED_SPLITS)
        elif seconds > 2 * CALL_SECONDS:
            self.share = max(1, splits // 2)

    def loads_for_ever(self, now: float) -> bool:
        """Whether it was placed long ago and is not ready."""
        return bool(self.host) and not self.ready and now - self.placed > LOAD_SECONDS

    def stands_still(self, now: float, stall: float) -> bool:
        """Whether one of its splits has not moved for so long, whatever the other one does."""
        flying = (a.split.id for attempts in self.attempts.values() for a in attempts)
        return any(now - self.moved[split][1] > stall for split in flying)


class Pool:
    """The workers of a run.

    Args:
        plan: What each worker gets.
        shape: What each worker asks of the cluster.
        limit: The most workers; None for as many as can be placed.
        nodes: Gives the resources of each living node.
        listener: Hears of everything.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        plan: WorkPlan,
        *,
        shape: Shape,
        limit: int | None,
        nodes: Callable[[], list[dict[str, float]]],
        listener: Listener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan = plan
        self.shape = shape
        self.listener = listener
        self.members: dict[str, _Member] = {}
        self.lost = 0
        self.most_ready = 0
        self.retired: list[Pulse] = []
        self._limit = limit
        self._nodes = nodes
        self._clock = clock
        self._born = 0
        self._failed_starts = 0
        self._not_before = float("-inf")
        self._wanted = 0
        self._sized = float("-inf")
        self._reported = clock()
        self._refs: dict[Any, tuple[_Member, str]] = {}
        self._actor = ray.remote(
            num_cpus=shape.cpus,
            num_gpus=shape.gpus,
            max_restarts=0,
            concurrency_groups={"work": IN_FLIGHT, "watch": 1},
        )(Worker)

    @property
    def ready(self) -> int:
        """Workers that can take splits."""
        return sum(member.ready for member in self.members.values())

    def pulses(self) -> list[Pulse]:
        """The latest sign of life of each worker; of those that are gone, the counters."""
        return [*self.retired, *(m.pulse for m in self.members.values() if m.pulse is not None)]

    def run(self, scheduler: Scheduler, *, stop: Callable[[], int]) -> None:
        """Works until every split has ended.

        Args:
            scheduler: Knows the splits.
            stop: 0 to go on, 1 to finish what is in flight, 2 to stop at once.

        Raises:
            JobError: The models can't be loaded.
            RunError: No worker can be placed or stays alive.
            Interrupted: `stop` said so.
        """
        draining: float | None = None
        try:
            while not scheduler.finished:
                now = self._clock()
                if stop() and draining is None:
                    draining = now
                    self.listener.notice(
                        f"stopping: up to {GRACE:.0f} s for {scheduler.running} splits in flight; "
                        "again to stop at once"
                    )
                if draining is None:
                    self._resize(scheduler, now)
                    self._feed(scheduler)
                elif stop() > 1 or not scheduler.running or now - draining > GRACE:
                    raise Interrupted("interrupted")
                self._collect(scheduler)
                self._watch(scheduler)
                self.listener.tick(self)
        finally:
            self._last_pulses()
            for member in self.members.values():
                ray.kill(member.handle)

    def _last_pulses(self) -> None:
        """Short runs end between two pulses; their totals should be whole all the same."""
        refs = {m.handle.pulse.remote(): m for m in self.members.values() if m.ready}
        if refs:
            answered, _ = ray.wait(list(refs), num_returns=len(refs), timeout=2.0)
            for ref in answered:
                with suppress(RayError):
                    refs[ref].pulse = ray.get(ref) or refs[ref].pulse

    def _resize(self, scheduler: Scheduler, now: float) -> None:
        if now - self._sized > RESIZE_EVERY:
            self._sized = now
            self._wanted = self._limit or max(1, places(self.shape, self._nodes()))
        if now < self._not_before:
            return  # what killed the last one, such as another program's memory, may pass
        work = scheduler.waiting + scheduler.running
        while len(self.members) < min(self._wanted, work):
            self._born += 1
            name = f"worker-{self._born}"
            member = _Member(name, self._actor.remote(self.plan, name), now)
            self.members[name] = member
            self._refs[member.handle.hello.remote()] = (member, "hello")

    def _feed(self, scheduler: Scheduler) -> None:
        for member in self.members.values():
            while member.ready and len(member.attempts) < IN_FLIGHT:
                attempts = self._share(scheduler, member)
                if not attempts:
                    break
                for attempt in attempts:
                    member.moved[attempt.split.id] = (0.0, self._clock())
                ref = member.handle.annotate.remote([attempt.split for attempt in attempts])
                member.attempts[ref] = attempts
                self._refs[ref] = (member, "annotate")

    def _share(self, scheduler: Scheduler, member: _Member) -> list[Attempt]:
        """What a worker gets in one call: a split, or several small ones."""
        # Towards the end shares get smaller, so that all workers end together.
        most = min(member.share, scheduler.waiting // (2 * IN_FLIGHT * max(1, self.ready)))
        attempts: list[Attempt] = []
        size = 0
        while len(attempts) < max(1, most) and size < SHARED_BYTES:
            attempt = scheduler.next(member.name, at_most=SHARED_BYTES - size if attempts else None)
            if attempt is None:
                break
            attempts.append(attempt)
            size += attempt.split.size
        return attempts

    def _collect(self, scheduler: Scheduler) -> None:
        if not self._refs:
            time.sleep(TICK)
            return
        ready, _ = ray.wait(list(self._refs), num_returns=1, timeout=TICK)
        if ready and len(self._refs) > 1:
            ready, _ = ray.wait(list(self._refs), num_returns=len(self._refs), timeout=0)
        for ref in ready:
            if ref not in self._refs:
                continue  # its worker was lost a moment ago
            member, kind = self._refs.pop(ref)
            try:
                answer = ray.get(ref)
            except (RayActorError, RayError) as error:
                self._lose(member, scheduler, _why(error))
                continue
            getattr(self, f"_on_{kind}")(member, ref, answer, scheduler)

    def _on_hello(self, member: _Member, ref: Any, answer: Any, scheduler: Scheduler) -> None:
        member.host, version = answer
        member.placed = self._clock()
        if version != self.plan.version:
            raise JobError(
                f"shardscribe is {version} on {member.host} and {self.plan.version} here",
                mend="Install the same version on every machine of the cluster",
            )
        self._refs[member.handle.load.remote()] = (member, "load")

    def _on_load(self, member: _Member, ref: Any, answer: Any, scheduler: Scheduler) -> None:
        if answer is not None:
            raise JobError(f"{answer.error.message} (on {member.host})", mend=answer.error.mend)
        member.ready = True
        self._failed_starts = 0
        self.most_ready = max(self.most_ready, self.ready)
        scheduler.join(member.name)

    def _on_annotate(self, member: _Member, ref: Any, answers: Any, scheduler: Scheduler) -> None:
        attempts = member.attempts.pop(ref)
        receipts = [answer.seconds for answer in answers if isinstance(answer, Receipt)]
        if receipts:
            member.learn(len(attempts), max(receipts))
        if member.pulse is not None:
            member.pulse = member.pulse.without({attempt.split.id for attempt in attempts})
        worst: RunError | WorkerLost | None = None
        for attempt, answer in zip(attempts, answers, strict=True):
            member.moved.pop(attempt.split.id, None)
            if isinstance(answer, Receipt):
                if scheduler.succeed(attempt):
                    self.listener.done(attempt.split, answer)
            elif isinstance(answer.error, (RunError, WorkerLost)):
                worst = answer.error
            elif scheduler.fail(attempt, answer.message):
                final = attempt.split.id in scheduler.failed
                self.listener.failed(attempt.split, answer.message, final=final)
        if isinstance(worst, RunError):
            raise worst
        if worst is not None:
            self._lose(member, scheduler, str(worst))

    def _on_pulse(self, member: _Member, ref: Any, answer: Any, scheduler: Scheduler) -> None:
        member.pulse_ref = None
        if answer is not None:
            member.pulse = answer
            for split, share in answer.fractions.items():
                if split in member.moved and share != member.moved[split][0]:
                    member.moved[split] = (share, self._clock())

    def _watch(self, scheduler: Scheduler) -> None:
        now = self._clock()
        every = max(1.0, len(self.members) / 50)
        stall = self.plan.job.limits.stall
        for member in list(self.members.values()):
            if member.ready and member.pulse_ref is None and now - member.asked > every:
                member.asked = now
                member.pulse_ref = member.handle.pulse.remote()
                self._refs[member.pulse_ref] = (member, "pulse")
            if member.loads_for_ever(now):
                self._lose(member, scheduler, f"not ready after {LOAD_SECONDS:.0f} s")
            elif member.stands_still(now, stall):
                self._lose(member, scheduler, f"no progress for {stall:.0f} s")
        self._report_unplaced(now)

    def _report_unplaced(self, now: float) -> None:
        unplaced = [m for m in self.members.values() if not m.host]
        oldest = min((m.born for m in unplaced), default=now)
        wait = self.plan.job.compute.wait
        if now - oldest < min(REPORT_EVERY, wait) or now - self._reported < min(REPORT_EVERY, wait):
            return
        self._reported = now
        nodes = self._nodes()
        if not nodes:
            raise RunError("no node of the Ray cluster is alive", mend="Run the same command again")
        told = (
            f"{len(unplaced)} of {len(self.members)} workers can't be placed: each asks for "
            f"{self.shape}; the cluster has {describe(nodes)}"
        )
        if len(unplaced) == len(self.members) and now - oldest >= wait:
            raise RunError(
                f"{told}; waited {now - oldest:.0f} s",
                mend="Lower compute.cpus_per_worker, free the cluster, or raise compute.wait",
            )
        self.listener.notice(told)

    def _lose(self, member: _Member, scheduler: Scheduler, reason: str) -> None:
        self.members.pop(member.name, None)
        self._refs = {ref: at for ref, at in self._refs.items() if at[0] is not member}
        if member.pulse is not None:
            self.retired.append(member.pulse.at_rest())
        ray.kill(member.handle)
        where = f" on {member.host}" if member.host else ""
        told = f"{member.name}{where} was lost: {reason}"
        if not member.ready:
            self._failed_starts += 1
            self._not_before = self._clock() + PAUSE * 2**self._failed_starts
            if self._failed_starts >= STARTS and not self.ready:
                raise RunError(
                    f"{told}; {STARTS} workers in a row died before they were ready",
                    mend="Not the machine is at fault but the model, or shardscribe: they raised"
                    if reason.startswith(RAISED)
                    else "Look for memory: a model and torch must fit beside each other there",
                )
            self.listener.notice(told)
            return
        self.lost += 1
        splits = scheduler.lose(member.name, told)
        self.listener.notice(f"{told}; {len(splits)} splits go back")
        for split in splits:
            self.listener.failed(split, told, final=split.id in scheduler.failed)


def _why(error: Exception) -> str:
    """What a person needs to know of a dead actor."""
    if "OutOfMemory" in type(error).__name__:
        return "its machine ran out of memory"
    if isinstance(error, RayTaskError):
        last = [line for line in error.traceback_str.splitlines() if line.strip()][-1]
        return f"{RAISED} {textwrap.shorten(last, 300)}"
    text = " ".join(str(error).split())
    for mark in ("Worker exit detail: ", "The actor is dead because "):
        _, found, detail = text.partition(mark)
        if found:
            return f"its process ended unexpectedly ({textwrap.shorten(detail, 160)})"
    return f"{type(error).__name__}: {textwrap.shorten(text, 200)}"
