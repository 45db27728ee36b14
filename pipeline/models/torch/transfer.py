"""Between the memory of the process and that of its device: without waiting where it can be helped.

A GPU computes while the thread that gave it a batch goes on. A copy from memory that is not pinned,
and any look at a result, would wait for all that it was given before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.models.device import Hold
from pipeline.models.torch.faults import own_errors

# With the next batch at hand, a GPU never waits for the host; more would only hold memory.
DEPTH = 2


@dataclass(frozen=True)
class OnDevice:
    """What a forward gives whose result is still to be computed or copied.

    Attributes:
        tensor: On the device: one result for each row, or for each token.
    """

    tensor: Any


class Transfer(Protocol):
    """How arrays go to a device and come back.

    Attributes:
        depth: Batches that may be on the device before the results of the first are waited for.
    """

    depth: int

    def place(self, array: np.ndarray) -> Any:
        """A tensor on the device."""

    def fetch(self, tensor: Any) -> Callable[[], np.ndarray]:
        """Asks for a result; what it gives waits for it."""


class Direct:
    """On a CPU there is nothing to copy, and what was computed is there."""

    depth = 1

    def place(self, array: np.ndarray) -> Any:
        """The same memory as a tensor."""
        import torch

        return torch.from_numpy(array)

    def fetch(self, tensor: Any) -> Callable[[], np.ndarray]:
        """The same memory as an array."""
        array: np.ndarray = tensor.numpy()
        return lambda: array


class Queued:
    """By the stream that computes, between the kernels of one batch and those of the next.

    Args:
        device: Such as ``cuda:0``.
    """

    depth = DEPTH

    def __init__(self, device: str) -> None:
        self.device = device

    def place(self, array: np.ndarray) -> Any:
        """Copies by way of pinned memory, which torch keeps for the next batch."""
        import torch

        return torch.from_numpy(array).pin_memory().to(self.device, non_blocking=True)

    def fetch(self, tensor: Any) -> Callable[[], np.ndarray]:
        """Copies to pinned memory; an event tells when it is there."""
        import torch

        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        pinned.copy_(tensor, non_blocking=True)
        # Blocking: who waits sleeps, as others need the core to tokenize.
        done: Any = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(tensor.device))

        def wait() -> np.ndarray:
            done.synchronize()
            # Rows live as long as their row batch; pinned memory goes back for the next one.
            array: np.ndarray = pinned.numpy().copy()
            return array

        return wait


def transfer(device: str) -> Transfer:
    """How arrays go to a device: ``cpu``, or such as ``cuda:0``."""
    return Queued(device) if device.startswith("cuda") else Direct()


class OnTheWay:
    """A batch on a device that computes while the thread goes on.

    Args:
        wait: Gives the result when it is there.
        held: The device, until the result is there.
        padded: Its tokens with padding.
    """

    def __init__(
        self,
        wait: Callable[[], np.ndarray],
        held: Hold,
        padded: int,
    ) -> None:
        self.padded = padded
        self._wait, self._held = wait, held

    def collect(self) -> np.ndarray:
        """Waits for it."""
        try:
            with own_errors():
                return self._wait()
        finally:
            self._held.land()

    def abandon(self) -> None:
        """The device may go on with it: nobody looks."""
        self._held.land()
