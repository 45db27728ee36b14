"""What becomes of what a model raises: a row's error, or the end of its split, job or worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import JobError, OutOfMemory, RowError, ShardscribeError, WorkerLost, one_line

ROOM = "Free the device of other programs, set compute.dtype to bfloat16, or take a smaller model"


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may go through. Engines raise `OutOfMemory` for their libraries."""
    return isinstance(error, (OutOfMemory, MemoryError))


def raise_if_fatal(error: Exception) -> None:
    """Lets through what no halving of a batch can heal.

    Raises:
        ShardscribeError: The error is of the worker, the split, the job or the run.
    """
    if isinstance(error, ShardscribeError) and not isinstance(error, (RowError, OutOfMemory)):
        raise error


def row_error(error: Exception, *, code: str = "model_error") -> RowError:
    """What a row's error is called.

    Args:
        error: What was raised for the row alone.
        code: For an error that has none of its own.
    """
    if isinstance(error, RowError):
        return error
    if is_out_of_memory(error):
        return RowError("the text alone does not fit the device's memory", code="out_of_memory")
    reason = one_line(error)
    return RowError(f"{type(error).__name__}: {reason}", code=code)


@contextmanager
def loading(reference: str, *, what: str, hint: str) -> Iterator[None]:
    """Whatever a library makes of a model's files, it is the model that can't be loaded.

    Args:
        reference: How the job names the model.
        what: What it is loaded for.
        hint: What to do about its files.

    Raises:
        JobError: As said.
        WorkerLost: The model may be well, but there is no memory for it here.
    """
    try:
        yield
    except Exception as error:
        raise_if_fatal(error)
        said = one_line(error)
        if is_out_of_memory(error):
            raise WorkerLost(
                f"there is no memory for model {reference}: {said}", hint=ROOM
            ) from error
        raise JobError(
            f"model {reference} can't be loaded for {what}: {said}", hint=hint
        ) from error
