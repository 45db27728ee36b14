"""Where workers of a run start, of what shape, and what follows when they can't."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pipeline.engine.driver.actors import Actors
from pipeline.engine.driver.machines import STARTS, Machines
from pipeline.engine.driver.member import Member
from pipeline.engine.driver.placement import Node, Shape, describe, places, shape_of
from pipeline.errors import JobError, RunError, ShardscribeError
from pipeline.job.compute import Compute

PAUSE = 2.0  # seconds before the next start, doubled each time
REPORT_EVERY = 30.0
RESIZE_EVERY = 10.0


class FailedStart(NamedTuple):
    """What follows when a worker did not become ready.

    Attributes:
        told: What happened.
        left_out: Whether no more workers start on its machine.
        others: Workers that must go with it.
    """

    told: str
    left_out: bool
    others: list[Member]


class Starts:
    """Starts the workers of a run, and knows those that are not ready.

    Args:
        compute: Of the job.
        actors: Makes workers.
        shape: What each worker asks of the cluster.
        limit: The most workers; None for as many as can be placed.
        nodes: Gives the resources of each living node, by its id.
        notice: Takes lines for people.

    Attributes:
        shape: What the next worker asks for.
        machines: What became of workers, by node.
        unplaced: Workers that have no place yet, the oldest first.
        loading: Workers that have one, and load their models.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        actors: Actors,
        shape: Shape,
        limit: int | None,
        nodes: Callable[[], Mapping[str, Node]],
        notice: Callable[[str], None],
    ) -> None:
        self.shape = shape
        self.machines = Machines()
        self.unplaced: OrderedDict[str, Member] = OrderedDict()
        self.loading: dict[str, Member] = {}
        self._compute = compute
        self._actors = actors
        self._limit = limit
        self._nodes = nodes
        self._notice = notice
        self._born = 0
        self._wanted = 0
        self._not_before = self._sized = float("-inf")
        self._reported = actors.now()

    def more(self, now: float, *, there: int, work: int) -> list[Member]:
        """Starts workers where some are missing.

        Args:
            now: When.
            there: How many there are.
            work: How many could have something to do.
        """
        if now - self._sized > RESIZE_EVERY:
            self._sized = now
            usable = self.machines.usable(self._nodes())
            self._wanted = self._limit or max(1, places(self.shape, usable))
        if now < self._not_before:
            return []  # what killed the last one, such as another program's memory, may pass
        return [self._start(now) for _ in range(there, min(self._wanted, work))]

    def _start(self, now: float) -> Member:
        self._born += 1
        name = f"worker-{self._born}"
        actor = self._actors.start(name, self.shape, avoid=self.machines.left_out)
        member = self.unplaced[name] = Member(name, actor, self.shape, now)
        return member

    def placed(self, member: Member) -> None:
        """A worker has a place."""
        del self.unplaced[member.name]
        self.loading[member.name] = member

    def ready(self, member: Member) -> None:
        """A worker has loaded its models."""
        del self.loading[member.name]
        self.machines.ready(member.actor.node)

    def drop(self, member: Member) -> None:
        """A worker is gone."""
        self.unplaced.pop(member.name, None)
        self.loading.pop(member.name, None)

    def fail(self, member: Member, error: ShardscribeError) -> FailedStart | None:
        """A worker did not become ready: its machine is left out, or tried again later.

        Args:
            member: Dropped already.
            error: Why.

        Returns:
            What follows; None if it has been said of another one there.
        """
        node = member.actor.node
        told = f"{member.told} was lost: {error}"
        if isinstance(error, JobError):
            told = f"{member.hello['host']} can't work: {error}"
            error = JobError(f"{error.message} (on {member.hello['host']})", hint=error.hint)
        elif self.machines.deaths(node) + 1 >= STARTS:
            many = f"{STARTS} workers in a row died before they were ready"
            error = RunError(f"{member.told} was lost: {error.message}; {many}", hint=error.hint)
        if node in self.machines.left_out:
            return None  # it was starting beside the one that told
        if not self.machines.fail(node, error):
            self._not_before = self._actors.now() + PAUSE * 2 ** self.machines.deaths(node)
            return FailedStart(told, False, [])
        self._sized = float("-inf")
        beside = [other for other in self.loading.values() if other.actor.node == node]
        # Those that have no place yet might be given that one.
        return FailedStart(told, True, [*self.unplaced.values(), *beside])

    def end(self) -> ShardscribeError | None:
        """Why the run can't go on where no worker has a place; None if it can."""
        return self.machines.end(self._nodes(), self.shape)

    def wait(self, now: float, *, there: int) -> list[Member]:
        """Looks at workers that have no place, and says so from time to time.

        Args:
            now: When.
            there: How many there are, with a place and without.

        Returns:
            Workers that must go, as smaller ones are to be started.

        Raises:
            RunError: None of them got a place for as long as the job waits.
        """
        if not self.unplaced:
            return []
        waited = now - next(iter(self.unplaced.values())).born
        wait = self._compute.wait
        every = min(REPORT_EVERY, wait)
        if waited < every or now - self._reported < every:
            return []
        self._reported = now
        living = self._nodes()
        nodes = list(living.values())
        if not nodes:
            raise RunError("no node of the Ray cluster is alive", hint="Run the same command again")
        nobody = len(self.unplaced) == there
        if nobody and self._shrink(self.machines.usable(living)):
            return list(self.unplaced.values())
        asked = f"each asks for {self.shape}; the cluster has {describe(nodes)}"
        told = f"{len(self.unplaced)} of {there} workers can't be placed: {asked}"
        if nobody and waited >= wait:
            raise RunError(
                f"{told}; waited {waited:.0f} s",
                hint="Lower compute.cpus_per_worker, free the cluster, or raise compute.wait",
            )
        self._notice(told)
        return []

    def _shrink(self, nodes: list[Node]) -> bool:
        """Takes another shape where no node is left that could have a worker of this one.

        Not another device: results might depend on it.
        """
        if places(self.shape, nodes):
            return False
        shape = shape_of(self._compute, nodes)
        if shape.device != self.shape.device or not places(shape, nodes):
            return False
        self._notice(
            f"no node is left that has room for a worker of {self.shape}: from now on each asks "
            f"for {shape}"
        )
        self.shape = shape
        self._sized = float("-inf")
        return True
