"""The workers of a run: create, feed, watch, replace. Thin: it asks the scheduler what to do.

What it does for an event takes the same time, however many workers there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any

from pipeline.engine.driver.actors import Actors, Call, Reply
from pipeline.engine.driver.listener import Listener
from pipeline.engine.driver.member import Member
from pipeline.engine.driver.placement import Node, Shape
from pipeline.engine.driver.room import Room
from pipeline.engine.driver.scheduler import Attempt, Scheduler
from pipeline.engine.driver.starts import Starts
from pipeline.engine.driver.stillness import WatchedTime
from pipeline.engine.messages import (
    IN_FLIGHT,
    LOADING,
    Failure,
    Heartbeat,
    SplitResult,
    WorkPlan,
)
from pipeline.errors import Interrupted, JobError, RunError, ShardscribeError, WorkerLost

SHARED_BYTES = 4 * 1024 * 1024
TICK = 0.5
LOAD_SECONDS = 1800.0  # without a sign; a large model may come from the hub first
GRACE = 15.0  # Kubernetes gives 30 s after SIGTERM
HEARTBEATS = 200  # a second, of all workers together; to ask alone takes the driver 0.2 ms
LAST_SECONDS = 2.0


class Pool:
    """The workers of a run.

    Args:
        plan: What each worker gets.
        scheduler: Knows the splits.
        actors: Makes workers, and waits for them.
        shape: What each worker asks of the cluster.
        limit: The most workers; None for as many as can be placed.
        nodes: Gives the resources of each living node, by its id.
        listener: Hears of everything.
    """

    def __init__(
        self,
        plan: WorkPlan,
        scheduler: Scheduler,
        *,
        actors: Actors,
        shape: Shape,
        limit: int | None,
        nodes: Callable[[], Mapping[str, Node]],
        listener: Listener,
    ) -> None:
        self.plan = plan
        self.listener = listener
        self.members: dict[str, Member] = {}
        self.starts = Starts(
            plan.job.compute,
            actors=actors, shape=shape, limit=limit, nodes=nodes, notice=listener.notice,
        )  # fmt: skip
        self.ready = 0
        self.most_ready = 0
        self.lost = 0
        self.deaths: list[str] = []
        self._scheduler = scheduler
        self._actors = actors
        self._ticked = actors.now()
        self._time = WatchedTime()
        self._calls: dict[Call, Member] = {}
        self._room = Room()
        self._looks: list[tuple[float, str]] = []  # when to look at which worker

    def run(self, *, stop: Callable[[], int]) -> None:
        """Works until every split has ended.

        Args:
            stop: 0 to go on, 1 to finish what is in flight, 2 to stop at once.

        Raises:
            JobError: The models can't be loaded.
            RunError: No worker can be placed or stays alive.
            Interrupted: `stop` said so.
        """
        draining: float | None = None
        try:
            while not self._scheduler.finished:
                now = self._actors.now()
                if stop() and draining is None:
                    draining = now
                    told = f"up to {GRACE:.0f} s for {self._scheduler.running} splits in flight"
                    self.listener.notice(f"stopping: {told}; again to stop at once")
                if draining is None:
                    self._start(now)
                    self._feed()
                elif stop() > 1 or not self._scheduler.running or now - draining > GRACE:
                    raise Interrupted("interrupted")
                for answer in self._actors.wait(TICK):
                    self._take(answer)
                self._watch(self._actors.now())
        finally:
            try:
                self._last_heartbeats()
                self.listener.tick(ready=self.ready)
            finally:
                for member in self.members.values():
                    member.actor.kill()

    def _last_heartbeats(self) -> None:
        """Short runs end between two heartbeats; their totals should be whole all the same."""
        ready = [member for member in self.members.values() if member.ready]
        asked = {member.actor.heartbeat(): member for member in ready}
        end = self._actors.now() + LAST_SECONDS
        while asked and (left := end - self._actors.now()) > 0:
            for answer in self._actors.wait(left):
                member = asked.pop(answer.call, None)
                if member is not None and not answer.died:
                    self._on_heartbeat(member, answer.call, answer.value)

    def _start(self, now: float) -> None:
        work = self._scheduler.waiting + self._scheduler.running
        for member in self.starts.more(now, there=len(self.members), work=work):
            self.members[member.name] = member
            self._ask(member, member.actor.hello(), self._on_hello)

    def _feed(self) -> None:
        scheduler = self._scheduler
        refused: list[Member] = []
        while scheduler.waiting:
            member = self._room.next(idle=not scheduler.waiting_for_any)
            if member is None:
                break
            # Towards the end calls get smaller, so that all workers end together.
            fair = scheduler.waiting // (2 * IN_FLIGHT * self.ready)
            most = max(1, min(member.call_splits, fair))
            attempts = scheduler.take(member.name, most=most, size=SHARED_BYTES)
            if attempts:
                self._give(member, attempts)
            else:  # it has failed all that waits, and another has not; so there are few such
                self._room.drop(member)
                refused.append(member)
        for member in refused:
            self._room.put(member)

    def _give(self, member: Member, attempts: Sequence[Attempt]) -> None:
        call = member.actor.annotate([attempt.split for attempt in attempts])
        member.attempts[call] = list(attempts)
        limit = self.plan.job.limits.stall
        member.still.start(attempts[0].split.id, self._time.seconds, limit=limit)
        self._ask(member, call, self._on_annotate)
        self._find_room(member)

    def _find_room(self, member: Member) -> None:
        if len(member.attempts) < IN_FLIGHT and self._scheduler.has_room(member.name):
            self._room.put(member)
        else:
            self._room.drop(member)

    def _ask(
        self, member: Member, call: Call, answered: Callable[[Member, Call, Any], None]
    ) -> None:
        self._calls[call] = member
        member.calls[call] = answered

    def _take(self, answer: Reply) -> None:
        member = self._calls.pop(answer.call, None)
        if member is None:
            return  # its worker was given up a moment ago
        answered = member.calls.pop(answer.call)
        if answer.died:
            self._lose(member, member.actor.cause())
        else:
            answered(member, answer.call, answer.value)

    def _on_hello(self, member: Member, call: Call, answer: Mapping[str, Any]) -> None:
        member.hello = answer
        self.starts.placed(member)
        if answer["version"] != self.plan.version:
            wrong = f"shardscribe is {answer['version']} there and {self.plan.version} here"
            hint = "Install the same version on every machine of the cluster"
            self._lose(member, JobError(wrong, hint=hint))
            return
        member.still.start(LOADING, self._time.seconds, limit=LOAD_SECONDS)
        heappush(self._looks, (self._actors.now(), member.name))
        plan = replace(self.plan, threads=member.shape.cpus)
        self._ask(member, member.actor.load(plan), self._on_load)

    def _on_load(self, member: Member, call: Call, failure: Failure | None) -> None:
        member.still.end(LOADING)
        if failure is not None:
            self._lose(member, failure.error)
            return
        self.starts.ready(member)
        member.ready = True
        self.ready += 1
        self.most_ready = max(self.most_ready, self.ready)
        self._scheduler.join(member.name)
        self._room.put(member)

    def _on_annotate(
        self, member: Member, call: Call, answers: Sequence[SplitResult | Failure]
    ) -> None:
        attempts = member.attempts.pop(call)
        member.still.end(attempts[0].split.id)
        seconds = [answer.seconds for answer in answers if isinstance(answer, SplitResult)]
        if seconds:
            member.learn(len(attempts), max(seconds))
        worst: RunError | WorkerLost | None = None
        for attempt, answer in zip(attempts, answers, strict=True):
            if isinstance(answer, SplitResult):
                if self._scheduler.succeed(attempt):
                    self.listener.done(attempt.split, answer)
            elif isinstance(answer.error, (RunError, WorkerLost)):
                worst = answer.error
            elif self._scheduler.fail(attempt, answer.message):
                final = attempt.split.id in self._scheduler.failed
                self.listener.failed(attempt.split, answer.message, final=final)
        if isinstance(worst, RunError):
            raise worst
        if worst is not None:
            self._lose(member, worst)
        else:
            self._find_room(member)

    def _on_heartbeat(self, member: Member, call: Call, heartbeat: Heartbeat) -> None:
        member.asked = False
        member.still.hear(heartbeat.moves, self._time.seconds)
        self.listener.heard(member.name, heartbeat.only(member.in_flight()))

    def _watch(self, now: float) -> None:
        watched = self._time.look(now)
        while self._looks and self._looks[0][0] <= now:
            _, name = heappop(self._looks)
            member = self.members.get(name)
            if member is None:
                continue
            if (limit := member.still.judge(watched)) is not None:
                self._lose(member, WorkerLost(f"no progress for {limit:.0f} s"))
                continue
            if not member.asked:
                member.asked = True
                self._ask(member, member.actor.heartbeat(), self._on_heartbeat)
            # Often enough to be seen standing still in time, however many there are.
            every = min(len(self.members) / HEARTBEATS, self.plan.job.limits.stall / 4)
            heappush(self._looks, (now + max(1.0, every), name))
        for member in self.starts.wait(now, there=len(self.members)):
            self._drop(member)
        if now - self._ticked >= TICK:
            self._ticked = now
            self.listener.tick(ready=self.ready)

    def _lose(self, member: Member, error: ShardscribeError) -> None:
        self._drop(member)
        if not member.ready:
            self._not_started(member, error)
            return
        told = f"{member.told} was lost: {error}"
        self.lost += 1
        self.deaths.append(told)
        splits = self._scheduler.lose(member.name, told)
        self.listener.notice(f"{told}; {len(splits)} splits go back")
        for split in splits:
            self.listener.failed(split, told, final=split.id in self._scheduler.failed)

    def _not_started(self, member: Member, error: ShardscribeError) -> None:
        failed = self.starts.fail(member, error)
        if failed is None:
            return
        self.deaths.append(failed.told)
        for other in failed.others:
            self._drop(other)
        if len(self.members) == len(self.starts.unplaced):
            end = self.starts.end()
            if end is not None:
                raise end
        left_out = "; no more workers start there" if failed.left_out else ""
        self.listener.notice(failed.told + left_out)

    def _drop(self, member: Member) -> None:
        del self.members[member.name]
        self.ready -= member.ready
        self.starts.drop(member)
        self._room.drop(member)
        for call in member.calls:
            del self._calls[call]
        member.actor.kill()
