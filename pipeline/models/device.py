"""The device of a worker: one lock, and counters of what went through it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.errors import JobError

CPU_BUDGET = 2048  # padded tokens: 2 cores, MiniLM; 1,024 and 4,096 were both slower
GPU_BUDGET = 65_536
# What starting another batch costs, in tokens of computing.
CPU_SLACK = 48
GPU_SLACK = 4096


class Device:
    """Where a worker's models live. Two splits may be in flight; one at a time computes.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1`` ..., or ``auto`` for a GPU where torch sees one.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: bfloat16 on a GPU, else
            float32.

    Raises:
        JobError: The device is not there, or has no native arithmetic in that dtype.
    """

    def __init__(self, name: str = "auto", *, dtype: str = "auto") -> None:
        import torch

        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise JobError(
                f"compute.device is {name}, but torch {torch.__version__} sees no CUDA device here",
                mend="Set compute.device to cpu, or install a CUDA build of torch on that machine",
            )
        if dtype == "auto":
            dtype = "bfloat16" if name.startswith("cuda") else "float32"
        if name == "cpu" and not _is_native(dtype):
            raise JobError(
                f"compute.dtype is {dtype}, which the processor of this machine has no arithmetic "
                "for: it would be slower than float32, not faster",
                mend="Set compute.dtype to float32 or auto",
            )
        self.name = name
        self.dtype_name = dtype
        self.dtype: Any = getattr(torch, dtype)
        on_gpu = name.startswith("cuda")
        self.default_budget = GPU_BUDGET if on_gpu else CPU_BUDGET
        self.slack = GPU_SLACK if on_gpu else CPU_SLACK
        self.busy_seconds = 0.0
        self.tokens = 0
        self.padded_tokens = 0
        self._lock = threading.Lock()
        self._thread = threading.local()

    def reset(self) -> None:
        """Counts from here on."""
        self.busy_seconds, self.tokens, self.padded_tokens = 0.0, 0, 0

    @contextmanager
    def reporting(self, report: Callable[[float], None]) -> Iterator[None]:
        """While the block runs, `report` hears how far this thread's inference is, 0 to 1."""
        self._thread.report = report
        try:
            yield
        finally:
            self._thread.report = None

    def report(self, share: float) -> None:
        """Says how far the inference of this thread is."""
        report = getattr(self._thread, "report", None)
        if report is not None:
            report(share)

    @contextmanager
    def hold(self, *, tokens: int = 0, padded: int = 0) -> Iterator[None]:
        """Takes the device for one batch and counts the time and the tokens of it."""
        with self._lock:
            started = time.perf_counter()
            try:
                yield
            finally:
                self.busy_seconds += time.perf_counter() - started
                self.tokens += tokens
                self.padded_tokens += padded


def _is_native(dtype: str) -> bool:
    """Whether the processor computes in a dtype, rather than converting to float32 and back."""
    import torch

    if dtype == "float32":
        return True
    name = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}[dtype]
    return bool(getattr(torch.ops.mkldnn, name)())
