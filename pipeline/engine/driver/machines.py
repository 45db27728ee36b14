"""Which machines may have workers, by what became of those that started there. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pipeline.engine.driver.placement import Node, Shape, places
from pipeline.errors import JobError, RunError, ShardscribeError

STARTS = 4  # workers in a row that may die on a machine before they are ready


class Machines:
    """The machines of a run.

    Attributes:
        left_out: Why, by node, no more workers start there.
    """

    def __init__(self) -> None:
        self.left_out: dict[str, ShardscribeError] = {}
        self._proven: set[str] = set()
        self._deaths: Counter[str] = Counter()
        self._last: ShardscribeError = RunError("no worker could start")

    def ready(self, node: str) -> None:
        """A worker is ready there."""
        self._proven.add(node)
        self._deaths.pop(node, None)
        self._deaths.pop("", None)

    def deaths(self, node: str) -> int:
        """Workers in a row that did not become ready there."""
        return self._deaths[node]

    def fail(self, node: str, error: ShardscribeError) -> bool:
        """A worker did not become ready.

        Args:
            node: Where; empty if it is not known.
            error: Why. A `JobError` leaves the machine out at once, unless it has worked before:
                then something may be away for a moment.

        Returns:
            Whether the machine is left out from now on.
        """
        self._deaths[node] += 1
        self._last = error
        wrong = isinstance(error, JobError) and node not in self._proven
        if not node or not (wrong or self._deaths[node] >= STARTS):
            return False
        self.left_out[node] = error
        return True

    def usable(self, nodes: Mapping[str, Node]) -> list[Node]:
        """Those of the cluster's nodes that are not left out."""
        return [node for name, node in nodes.items() if name not in self.left_out]

    def end(self, nodes: Mapping[str, Node], shape: Shape) -> ShardscribeError | None:
        """Why the run can't go on where no worker is there or starting; None if it can.

        Args:
            nodes: The resources of each living node.
            shape: Of a worker.
        """
        if self._deaths[""] < STARTS and (
            not self.left_out or places(shape, self.usable(nodes)) or not nodes
        ):
            return None
        last = self._last
        if not self._proven and isinstance(last, JobError):
            return last
        told = f"no machine is left that can work: {last.message}" if self._proven else last.message
        return RunError(told, hint=last.hint)
