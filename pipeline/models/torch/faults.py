"""torch's own errors, in our words: the one place that knows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import OutOfMemory, WorkerLost, one_line


@contextmanager
def own_errors() -> Iterator[None]:
    """What torch raises in the block, by its consequence.

    Raises:
        OutOfMemory: The device is full.
        WorkerLost: The device is broken for the whole process, as after a failed assertion in a
            CUDA kernel.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(one_line(error)) from error
    except getattr(torch, "AcceleratorError", ()) as error:
        raise WorkerLost(f"the device is broken: {error}") from error
