"""Sequences through a device in batches that fit it, whatever computes them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from pipeline.errors import RowError, ShardscribeError
from pipeline.models.batching import Sequences, batches, packed_batches
from pipeline.models.device import Device
from pipeline.models.faults import is_out_of_memory, raise_if_fatal, row_error
from pipeline.models.results import Stack, TokenRows

# A batch is not made smaller than this only to give each lane of the device one.
LANE_TOKENS = 512

Result = TypeVar("Result")


class Flight(Protocol):
    """A batch that the device was given."""

    @property
    def padded(self) -> int:
        """Its tokens with padding."""

    def collect(self) -> Sequence[Any] | np.ndarray:
        """Waits for its results, one for each sequence; raises what went wrong on the device."""

    def abandon(self) -> None:
        """Nobody will collect it."""


@dataclass(frozen=True)
class Done:
    """A batch whose results are there already.

    Attributes:
        rows: One result for each sequence.
        padded: Its tokens with padding.
    """

    rows: Sequence[Any] | np.ndarray
    padded: int

    def collect(self) -> Sequence[Any] | np.ndarray:
        """Its results."""
        return self.rows

    def abandon(self) -> None:
        """Nothing is left to do."""


# Indices of a batch's sequences, and the lanes that it may hold (None: all).
Compute = Callable[[Sequence[int], int | None], Flight]


@dataclass
class Inference(Generic[Result]):
    """What came out of the device, in the order of the sequences.

    Attributes:
        results: One per sequence; None where it failed. Of arrays, a `Stack` or `TokenRows`
            where they are of one form.
        failures: Why, by sequence index.
        tokens: Tokens of the sequences, special tokens included, padding not.
        padded_tokens: The same with padding.
    """

    results: Sequence[Result | None]
    failures: dict[int, RowError] = field(default_factory=dict)
    tokens: int = 0
    padded_tokens: int = 0


class BatchRunner:
    """Takes a model's sequences through the device, and remembers what batches it can take.

    Args:
        device: Shared by all models of the worker.
        budget: The most padded tokens in a batch.
        padded: Whether a row's result is the same with padding beside it; if not, batches hold
            rows of one length.

    Attributes:
        lanes: Batches of the model that the device may take at once.
        depth: Batches that a lane is given before the results of the first are waited for. With 2,
            the device has the next one at hand when it ends one.
    """

    def __init__(self, device: Device, *, budget: int, padded: bool = True) -> None:
        self.device = device
        self.budget = budget
        self.padded = padded
        self.lanes = device.lanes
        self.depth = 1

    def run(
        self,
        sequences: Sequences,
        compute: Compute,
        *,
        extra_tokens: int = 0,
        factor: int = 1,
        packed: bool = False,
        per_token: bool = False,
    ) -> Inference[Any]:
        """Runs sequences through the device in token-budgeted batches.

        On a CPU several batches run at once, so `compute` may be in several threads. A batch that
        raises is halved until the row that makes it raise stands alone; the others go on. One
        that does not fit the memory lowers the budget, for this call and all later.

        Args:
            sequences: Token ids, special tokens included.
            compute: Holds the device and gives it a batch, which need not be computed when it
                returns.
            extra_tokens: Tokens that each row will grow by, counted into the budget.
            factor: How many times the budget a batch may hold.
            packed: Whether batches are computed without padding.
            per_token: Whether the results are of tokens, as `TokenRows.put` takes them.

        Returns:
            Results in the order of `sequences`.

        Raises:
            ShardscribeError: What no halving of a batch can heal.
        """
        queue = _BatchQueue(self, sequences, extra_tokens=extra_tokens, factor=factor, pack=packed)
        if per_token:
            queue.out.results = TokenRows(sequences.lengths)
        lanes = max(1, min(self.lanes, len(queue.waiting)))
        held = 1 if lanes > 1 else None

        def work() -> None:
            queue.work(lambda batch: compute(batch, held), depth=self.depth)

        if lanes == 1:
            work()
        else:
            try:
                self.device.side_by_side(work, lanes=lanes)
            except BaseException:  # Ctrl-C: the lanes end with the batch that they are at
                queue.waiting.clear()
                raise
        return queue.out


class _BatchQueue:
    """The batches of one inference, which the lanes of the device share.

    Attributes:
        out: What has come out so far.
        waiting: Batches that no lane has taken yet, longest first.
    """

    def __init__(
        self,
        runner: BatchRunner,
        sequences: Sequences,
        *,
        extra_tokens: int,
        factor: int,
        pack: bool,
    ) -> None:
        self.runner = runner
        self.out: Inference[Any] = Inference([None] * len(sequences))
        self._kept = False
        self._sizes = sequences.lengths
        self._lengths = self._sizes + extra_tokens
        self._factor = factor
        self._pack = pack
        for index in np.flatnonzero(self._sizes == 0).tolist():
            self.out.failures[index] = no_tokens()
        self.waiting = self._cut(np.flatnonzero(self._sizes > 0))
        self._total, self._ended = max(1, int(self._lengths.sum())), 0
        self._report = runner.device.reporter()
        self._lock = threading.Lock()

    def work(self, launch: Callable[[list[int]], Flight], *, depth: int) -> None:
        """What each lane does: batches, until none is left.

        Args:
            launch: Gives a batch to the device.
            depth: How many may be there that nobody has collected.

        Raises:
            ShardscribeError: What no halving of a batch can heal.
        """
        flying: deque[tuple[list[int], Flight]] = deque()
        try:
            while True:
                with self._lock:
                    batch = self.waiting.popleft() if self.waiting else None
                if batch is not None:
                    self._launch(batch, launch, flying)
                elif not flying:
                    return
                if flying and (batch is None or len(flying) >= depth):
                    self._collect(*flying.popleft())
        finally:
            for _, flight in flying:
                flight.abandon()

    def _launch(
        self,
        batch: list[int],
        launch: Callable[[list[int]], Flight],
        flying: deque[tuple[list[int], Flight]],
    ) -> None:
        try:
            # A batch that takes long, as writing does, may say how far it is.
            with self.runner.device.reporting(self._inside(batch)):
                flying.append((batch, launch(batch)))
        except Exception as error:  # a model may raise anything for a row
            with self._lock:
                self._again(batch, error)

    def _collect(self, batch: list[int], flight: Flight) -> None:
        try:
            rows = flight.collect()
        except Exception as error:  # what a device raises for a row may show only now
            with self._lock:
                self._again(batch, error)
            return
        with self._lock:
            self._keep(batch, rows)
            self.out.tokens += int(self._sizes[batch].sum())
            self.out.padded_tokens += flight.padded
            self._end(batch)

    def _keep(self, batch: list[int], rows: Sequence[Any] | np.ndarray) -> None:
        results = self.out.results
        if isinstance(results, TokenRows):
            results.put(batch, np.asarray(rows))
            return
        if len(rows) != len(batch):
            raise ValueError(f"a batch of {len(batch)} sequences gave {len(rows)} results")
        if not self._kept and isinstance(rows, np.ndarray) and rows.ndim == 2:
            results = Stack(len(results), rows.shape[1], dtype=rows.dtype)
        self._kept = True
        if isinstance(results, Stack) and isinstance(rows, np.ndarray) and results.takes(rows):
            results.put(batch, rows)
        else:
            results = list(results)
            for index, row in zip(batch, rows, strict=True):
                results[index] = row
        self.out.results = results

    def _inside(self, batch: list[int]) -> Callable[[float], None]:
        """What hears how far a batch is, 0 to 1."""
        tokens = int(self._lengths[batch].sum())
        return lambda fraction: self._report((self._ended + fraction * tokens) / self._total)

    def _end(self, batch: list[int]) -> None:
        self._ended += int(self._lengths[batch].sum())
        self._report(self._ended / self._total)

    def _again(self, batch: list[int], error: Exception) -> None:
        """Puts back what is left to do of a batch that raised."""
        try:
            raise_if_fatal(error)
        except ShardscribeError:
            self.waiting.clear()  # for the other lanes too
            raise
        half = len(batch) // 2
        if not half:
            self.out.failures[batch[0]] = row_error(error)
            self._end(batch)
        elif is_out_of_memory(error):
            lengths, runner = self._lengths, self.runner
            whole = lengths[batch].sum() if self._pack else len(batch) * lengths[batch[0]]
            runner.budget = max(1, min(runner.budget, int(whole) // 2 // self._factor))
            rest = [index for other in self.waiting for index in other]
            self.waiting = self._cut(np.array([*batch, *rest]))
        else:
            self.waiting.extendleft([batch[half:], batch[:half]])

    def _cut(self, rows: np.ndarray) -> deque[list[int]]:
        runner, lengths = self.runner, self._lengths[rows]
        budget = runner.budget * self._factor
        if runner.lanes > 1:
            fair = -(-int(lengths.sum()) // runner.lanes)
            budget = min(budget, max(fair, LANE_TOKENS))
        if self._pack:
            cut = packed_batches(lengths, budget=budget)
        else:
            slack = runner.device.slack * self._factor if runner.padded else 0
            cut = batches(lengths, budget=budget, slack=slack)
        return deque(rows[batch].tolist() for batch in cut)


def no_tokens() -> RowError:
    """What an empty sequence comes to."""
    return RowError("the model sees no token in it", code="no_tokens")
