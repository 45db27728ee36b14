"""Which members of a pool have room for a call, and whose turn it is. Pure."""

from __future__ import annotations

from collections import OrderedDict

from pipeline.engine.driver.member import Member
from pipeline.engine.messages import IN_FLIGHT


class Room:
    """Members with room for a call: those that have none first, and who waits longest of these.

    Every step takes the same time, however many there are.
    """

    def __init__(self) -> None:
        # By the calls that they have. Of a plain dict the first is not found in constant time.
        self._members: list[OrderedDict[Member, None]] = [OrderedDict() for _ in range(IN_FLIGHT)]

    def put(self, member: Member) -> None:
        """A member has room from now on, or has one call more or less than before."""
        self.drop(member)
        self._members[len(member.attempts)][member] = None

    def drop(self, member: Member) -> None:
        """A member has no room any more."""
        for members in self._members:
            members.pop(member, None)

    def next(self, *, idle: bool) -> Member | None:
        """Whose turn it is.

        Args:
            idle: Only of those that have no call.
        """
        for members in self._members[:1] if idle else self._members:
            if members:
                return next(iter(members))
        return None
