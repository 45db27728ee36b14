"""The workers of a run: create, feed, watch, replace. Thin: it asks the scheduler what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from pipeline.engine.deaths import cause, node_of
from pipeline.engine.driver.listener import Listener
from pipeline.engine.driver.machines import STARTS, Machines
from pipeline.engine.driver.member import Member
from pipeline.engine.driver.placement import Node, Shape, describe, places
from pipeline.engine.driver.scheduler import Scheduler
from pipeline.engine.messages import LOADING, Heartbeat, SplitResult, WorkPlan
from pipeline.engine.worker.actor import Worker
from pipeline.errors import Interrupted, JobError, RunError, ShardscribeError, WorkerLost

IN_FLIGHT = 2  # calls: while one holds the device, the other is read and tokenized
SHARED_BYTES = 4 * 1024 * 1024
PAUSE = 2.0  # seconds before the next start, doubled each time
TICK = 0.5
REPORT_EVERY = 30.0
RESIZE_EVERY = 10.0
LOAD_SECONDS = 1800.0  # without a sign; a large model may come from the hub first
GRACE = 15.0  # Kubernetes gives 30 s after SIGTERM


class Pool:
    """The workers of a run.

    Args:
        plan: What each worker gets.
        shape: What each worker asks of the cluster.
        limit: The most workers; None for as many as can be placed.
        nodes: Gives the resources of each living node, by its id.
        listener: Hears of everything.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        plan: WorkPlan,
        *,
        shape: Shape,
        limit: int | None,
        nodes: Callable[[], Mapping[str, Node]],
        listener: Listener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan = plan
        self.shape = shape
        self.listener = listener
        self.members: dict[str, Member] = {}
        self.machines = Machines()
        self.lost = 0
        self.deaths: list[str] = []
        self.most_ready = 0
        self.retired: list[Heartbeat] = []
        self._limit = limit
        self._nodes = nodes
        self._clock = clock
        self._born = 0
        self._not_before = float("-inf")
        self._wanted = 0
        self._sized = float("-inf")
        self._reported = clock()
        self._refs: dict[Any, tuple[Member, str]] = {}
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

    def heartbeats(self) -> list[Heartbeat]:
        """What each worker says; of those that are gone, the counters."""
        return [
            *self.retired,
            *(m.heartbeat for m in self.members.values() if m.heartbeat is not None),
        ]

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
                    told = f"up to {GRACE:.0f} s for {scheduler.running} splits in flight"
                    self.listener.notice(f"stopping: {told}; again to stop at once")
                if draining is None:
                    self._resize(scheduler, now)
                    self._feed(scheduler)
                elif stop() > 1 or not scheduler.running or now - draining > GRACE:
                    raise Interrupted("interrupted")
                self._collect(scheduler)
                self._watch(scheduler)
                self.listener.tick(self)
        finally:
            self._last_heartbeats()
            for member in self.members.values():
                ray.kill(member.handle)

    def _last_heartbeats(self) -> None:
        """Short runs end between two heartbeats; their totals should be whole all the same."""
        refs = {m.handle.heartbeat.remote(): m for m in self.members.values() if m.ready}
        if refs:
            answered, _ = ray.wait(list(refs), num_returns=len(refs), timeout=2.0)
            for ref in answered:
                with suppress(RayError):
                    refs[ref].heartbeat = ray.get(ref) or refs[ref].heartbeat

    def _resize(self, scheduler: Scheduler, now: float) -> None:
        if now - self._sized > RESIZE_EVERY:
            self._sized = now
            usable = self.machines.usable(self._nodes())
            self._wanted = self._limit or max(1, places(self.shape, usable))
        if now < self._not_before:
            return  # what killed the last one, such as another program's memory, may pass
        work = scheduler.waiting + scheduler.running
        while len(self.members) < min(self._wanted, work):
            self._born += 1
            name = f"worker-{self._born}"
            actor, out = self._actor, ",".join(self.machines.left_out)
            if out:
                actor = actor.options(label_selector={"ray.io/node-id": f"!in({out})"})
            member = Member(name, actor.remote(name, self.plan.threads), now)
            self.members[name] = member
            self._refs[member.handle.hello.remote()] = (member, "hello")

    def _feed(self, scheduler: Scheduler) -> None:
        for member in self.members.values():
            while member.ready and len(member.attempts) < IN_FLIGHT:
                # Towards the end calls get smaller, so that all workers end together.
                fair = scheduler.waiting // (2 * IN_FLIGHT * max(1, self.ready))
                most = max(1, min(member.call_splits, fair))
                attempts = scheduler.take(member.name, most=most, size=SHARED_BYTES)
                if not attempts:
                    break
                ref = member.handle.annotate.remote([attempt.split for attempt in attempts])
                member.give(ref, attempts, stall=self.plan.job.limits.stall)
                self._refs[ref] = (member, "annotate")

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
            except RayError as error:
                self._lose(member, scheduler, cause(error, member.hello))
                continue
            if kind == "heartbeat":
                member.hear(answer)
            else:
                getattr(self, f"_on_{kind}")(member, ref, answer, scheduler)

    def _on_hello(self, member: Member, ref: Any, answer: Any, scheduler: Scheduler) -> None:
        member.hello = answer
        if answer["version"] != self.plan.version:
            wrong = f"shardscribe is {answer['version']} there and {self.plan.version} here"
            hint = "Install the same version on every machine of the cluster"
            self._lose(member, scheduler, JobError(wrong, hint=hint))
        else:
            member.still.start(LOADING, limit=LOAD_SECONDS)
            self._refs[member.handle.load.remote(self.plan)] = (member, "load")

    def _on_load(self, member: Member, ref: Any, answer: Any, scheduler: Scheduler) -> None:
        member.still.end(LOADING)
        if answer is not None:
            self._lose(member, scheduler, answer.error)
        else:
            member.ready = True
            self.machines.ready(member.node)
            self.most_ready = max(self.most_ready, self.ready)
            scheduler.join(member.name)

    def _on_annotate(self, member: Member, ref: Any, answers: Any, scheduler: Scheduler) -> None:
        attempts = member.take(ref)
        seconds = [answer.seconds for answer in answers if isinstance(answer, SplitResult)]
        if seconds:
            member.learn(len(attempts), max(seconds))
        worst: RunError | WorkerLost | None = None
        for attempt, answer in zip(attempts, answers, strict=True):
            if isinstance(answer, SplitResult):
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
            self._lose(member, scheduler, worst)

    def _watch(self, scheduler: Scheduler) -> None:
        now = self._clock()
        every = max(1.0, len(self.members) / 50)
        for member in list(self.members.values()):
            if member.hello and member.heartbeat_ref is None and now - member.asked > every:
                member.asked = now
                member.heartbeat_ref = member.handle.heartbeat.remote()
                self._refs[member.heartbeat_ref] = (member, "heartbeat")
            if (limit := member.still.look(now)) is not None and member.name in self.members:
                self._lose(member, scheduler, WorkerLost(f"no progress for {limit:.0f} s"))
        self._report_unplaced(now)

    def _report_unplaced(self, now: float) -> None:
        unplaced = [m for m in self.members.values() if not m.hello]
        oldest = min((m.born for m in unplaced), default=now)
        wait = self.plan.job.compute.wait
        if now - oldest < min(REPORT_EVERY, wait) or now - self._reported < min(REPORT_EVERY, wait):
            return
        self._reported = now
        nodes = list(self._nodes().values())
        if not nodes:
            raise RunError("no node of the Ray cluster is alive", hint="Run the same command again")
        asked = f"each asks for {self.shape}; the cluster has {describe(nodes)}"
        told = f"{len(unplaced)} of {len(self.members)} workers can't be placed: {asked}"
        if len(unplaced) == len(self.members) and now - oldest >= wait:
            raise RunError(
                f"{told}; waited {now - oldest:.0f} s",
                hint="Lower compute.cpus_per_worker, free the cluster, or raise compute.wait",
            )
        self.listener.notice(told)

    def _lose(self, member: Member, scheduler: Scheduler, error: ShardscribeError) -> None:
        self._drop(member)
        told = f"{member.told} was lost: {error}"
        if not member.ready:
            self._not_started(member, error, told)
            return
        self.lost += 1
        self.deaths.append(told)
        splits = scheduler.lose(member.name, told)
        self.listener.notice(f"{told}; {len(splits)} splits go back")
        for split in splits:
            self.listener.failed(split, told, final=split.id in scheduler.failed)

    def _not_started(self, member: Member, error: ShardscribeError, told: str) -> None:
        """Leaves its machine out, or tries again; ends the run where nobody is left to work."""
        node = member.node or node_of(member.handle)
        if isinstance(error, JobError):
            told = f"{member.hello['host']} can't work: {error}"
            error = JobError(f"{error.message} (on {member.hello['host']})", hint=error.hint)
        elif self.machines.deaths(node) + 1 >= STARTS:
            many = f"{STARTS} workers in a row died before they were ready"
            error = RunError(f"{member.told} was lost: {error.message}; {many}", hint=error.hint)
        if node in self.machines.left_out:
            return  # it was starting beside the one that told
        self.deaths.append(told)
        if self.machines.fail(node, error):
            told += "; no more workers start there"
            self._sized = float("-inf")
            for other in list(self.members.values()):
                # Those that have no place yet might be given that one.
                if not other.hello or (other.node == node and not other.ready):
                    self._drop(other)
        else:
            self._not_before = self._clock() + PAUSE * 2 ** self.machines.deaths(node)
        placed = any(other.hello for other in self.members.values())
        if not placed and (end := self.machines.end(self._nodes(), self.shape)) is not None:
            raise end
        self.listener.notice(told)

    def _drop(self, member: Member) -> None:
        self.members.pop(member.name, None)
        self._refs = {ref: at for ref, at in self._refs.items() if at[0] is not member}
        if member.heartbeat is not None:
            self.retired.append(member.heartbeat.at_rest())
        ray.kill(member.handle)
