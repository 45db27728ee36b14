"""What becomes of what a model raises: a row's error, or the end of its split, job or worker."""

from __future__ import annotations

from pipeline.errors import OutOfMemory, RowError, ShardscribeError, one_line


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
