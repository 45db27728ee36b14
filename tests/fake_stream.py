"""A device that computes while the thread goes on, as a GPU does, and writes down what happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np

from pipeline.models.batching import Sequences
from pipeline.models.device import Hold
from pipeline.models.inference import BatchRunner, Inference
from pipeline.models.torch.transfer import OnTheWay

DEPTH = 2
SECONDS = 30.0  # a device that nobody keeps busy is told from a slow one

# Raises what a batch makes the device raise.
Trouble = Callable[[Sequence[int]], None]


def no_trouble(batch: Sequence[int]) -> None:
    """A batch like any other."""


class FakeStream:
    """Computes batches in the order in which they were given, in a thread of its own.

    A row's result is ten times its number.

    Args:
        runner: Whose batches they are.
        launch: What is raised when a batch is given.
        read: What is raised when its results are read back.
        together: Batches that must have been given before it computes any.

    Attributes:
        log: ``launch``, ``read`` or ``abandon``, and the first row of the batch.
        rows: How often each row was read back.
    """

    def __init__(
        self,
        runner: BatchRunner,
        *,
        launch: Trouble = no_trouble,
        read: Trouble = no_trouble,
        together: int = 0,
    ) -> None:
        self.runner = runner
        self.log: list[tuple[str, int]] = []
        self.rows: Counter[int] = Counter()
        self._at_launch, self._at_read = launch, read
        self._missing = together
        self._begin = Event()
        self._stream = ThreadPoolExecutor(1)
        runner.depth = DEPTH
        runner.lanes = 1

    def infer(self, lengths: Sequence[int]) -> Inference[int]:
        """Sequences of these lengths through the device."""
        sequences = Sequences.of([[5] * length for length in lengths])
        try:
            return self.runner.run(sequences, lambda batch, lanes: self._launch(batch, lengths))
        finally:
            self._begin.set()
            self._stream.shutdown()

    def _launch(self, batch: Sequence[int], lengths: Sequence[int]) -> OnTheWay:
        tokens = sum(lengths[row] for row in batch)
        with self.runner.device.hold(tokens=tokens, padded=tokens) as held:
            self.log.append(("launch", batch[0]))
            self._at_launch(batch)
            computed = self._stream.submit(self._compute, batch)
            self._missing -= 1
            if self._missing <= 0:
                self._begin.set()
            held.stay()
            return _Logged(self, batch, computed, held, tokens)

    def _compute(self, batch: Sequence[int]) -> np.ndarray:
        if not self._begin.wait(SECONDS):
            raise TimeoutError("the next batch was not given before this one was waited for")
        return np.array(batch) * 10

    def read(self, batch: Sequence[int], computed: Future[np.ndarray]) -> np.ndarray:
        """Waits for a batch."""
        self.log.append(("read", batch[0]))
        self._at_read(batch)
        found = computed.result()
        self.rows.update(batch)
        return found


class _Logged(OnTheWay):
    def __init__(
        self,
        stream: FakeStream,
        batch: Sequence[int],
        computed: Future[np.ndarray],
        held: Hold,
        padded: int,
    ) -> None:
        super().__init__(lambda: stream.read(batch, computed), held, padded)
        self._log: Callable[[], None] = lambda: stream.log.append(("abandon", batch[0]))

    def abandon(self) -> None:
        self._log()
        super().abandon()


class LateTransfer:
    """Of torch on a CPU, as if it were a GPU: what is not read back is not there.

    Attributes:
        log: ``ask`` and ``read``, with the number of the result.
    """

    depth = DEPTH

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []
        self._asked = 0

    def place(self, array: np.ndarray) -> Any:
        """A copy, as the host's memory is another batch's by the time the device reads it."""
        import torch

        return torch.from_numpy(array.copy())

    def fetch(self, tensor: Any) -> Callable[[], np.ndarray]:
        """Asks for a result."""
        number, self._asked = self._asked, self._asked + 1
        self.log.append(("ask", number))

        def wait() -> np.ndarray:
            self.log.append(("read", number))
            found: np.ndarray = tensor.numpy().copy()
            return found

        return wait
