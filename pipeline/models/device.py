"""The device of a worker: who may compute on it, and counters of what went through it.

A GPU takes one batch at a time. A CPU takes one for each of the worker's threads, each computed by
one thread: that is faster than all threads in one batch, which wait for each other at the end of
every operation.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import JobError
from pipeline.moves import Moves, line, moved, working

CPU_BUDGET = 2048  # padded tokens: 2 cores, MiniLM; 1,024 and 4,096 were both slower
GPU_BUDGET = 65_536
# Of a GPU that is shared: each process has some of its memory before any of it is for batches.
SHARED_MEMORY = 0.95
# What starting another batch costs, in tokens of computing.
CPU_SLACK = 48
GPU_SLACK = 4096
# One of these is there where a driver for GPUs is: NVIDIA's, Windows' for its Linux, AMD's.
DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def device_here() -> str:
    """What ``auto`` is on this machine: ``cuda`` where torch sees a GPU, or ``cpu``.

    torch, which takes seconds to import, is asked only where a GPU may be.
    """
    if not any(Path(driver).exists() for driver in DRIVERS):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_on(device: str, asked: str) -> str:
    """What a dtype of a job file is on a device: ``auto`` is bfloat16 on a GPU, else float32."""
    if asked != "auto":
        return asked
    return "bfloat16" if device.startswith("cuda") else "float32"


@dataclass
class Hold:
    """What a thread holds the device for.

    Attributes:
        tokens: Of the batch.
        padded: The same with padding.
        lanes: That it takes.
        end: Called once, when the device is through with it.
        counted: Of its tokens, how many are counted already.
        padded_counted: The same with padding.
        stays: Whether the device is still at it when the thread goes on.
        landed: Whether it has ended.
    """

    tokens: int
    padded: int
    lanes: int
    end: Callable[[Hold], None]
    counted: int = 0
    padded_counted: int = 0
    stays: bool = False
    landed: bool = False

    def stay(self) -> None:
        """The batch was only given to the device: it is there until `land`."""
        self.stays = True

    def land(self) -> None:
        """The device is through with it, or nobody waits for it any more."""
        if not self.landed:
            self.landed = True
            self.end(self)


class Device:
    """Where a worker's models live. Two splits may be in flight; they share its lanes.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1`` ..., or ``auto`` for a GPU where torch sees one.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: bfloat16 on a GPU, else
            float32. ``int8`` on a CPU: float32, beside which models have a twin in int8.
        threads: Of the processor, for this process from here on; torch's own number by default.
        sharing: Processes that have a GPU together. Each keeps to its part of the memory, so that
            one that runs out of it gives back rows of its own, and takes nothing from the others.

    Raises:
        JobError: The device is not there, or has no native arithmetic in that dtype.

    Attributes:
        lanes: Batches that it takes at once.
        sharing: Processes that have it together.
    """

    def __init__(
        self,
        name: str = "auto",
        *,
        dtype: str = "auto",
        threads: int | None = None,
        sharing: int = 1,
    ) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise JobError(
                f"compute.device is {name}, but torch {torch.__version__} sees no CUDA device here",
                hint="Set compute.device to cpu, or install a CUDA build of torch on that machine",
            )
        dtype = dtype_on(name, dtype)
        if name == "cpu" and not _is_native(dtype):
            raise JobError(
                f"compute.dtype is {dtype}, which the processor of this machine has no arithmetic "
                "for: it would be slower than float32, not faster",
                hint="Set compute.dtype to float32 or auto",
            )
        self.name = name
        self.dtype_name = dtype
        self.dtype: Any = torch.float32 if dtype == "int8" else getattr(torch, dtype)
        on_gpu = name.startswith("cuda")
        self.sharing = sharing if on_gpu else 1
        if self.sharing > 1:
            # By number, or None for the process's own: of a bare "cuda" torch has none.
            at = torch.device(name).index
            torch.cuda.set_per_process_memory_fraction(SHARED_MEMORY / sharing, at)
        self.default_budget = GPU_BUDGET // self.sharing if on_gpu else CPU_BUDGET
        self.slack = GPU_SLACK if on_gpu else CPU_SLACK
        self.lanes = 1 if on_gpu else torch.get_num_threads()
        self.busy_seconds = 0.0
        self._used, self._since = 0, time.perf_counter()
        self.tokens = 0
        self.padded_tokens = 0
        # Of whoever computes on it, for those who wait for them.
        self.moves = Moves()
        # Two calls of two splits, each as wide as the device.
        self._pool = ThreadPoolExecutor(2 * self.lanes, thread_name_prefix="lane")
        self._free = self.lanes
        self._changed = threading.Condition()
        # Who waits for many lanes is not overtaken by others that want one.
        self._turn = threading.Lock()
        self._thread = threading.local()

    def reset(self) -> None:
        """Counts from here on."""
        self.busy_seconds, self.tokens, self.padded_tokens = 0.0, 0, 0
        self._since = time.perf_counter()

    @contextmanager
    def reporting(self, report: Callable[[float], None]) -> Iterator[None]:
        """While the block runs, `report` hears how far this thread is in it, 0 to 1."""
        before = getattr(self._thread, "report", None)
        self._thread.report = report
        try:
            yield
        finally:
            self._thread.report = before

    def reporter(self) -> Callable[[float], None]:
        """What to tell how far this thread is; also from another thread."""
        return getattr(self._thread, "report", None) or (lambda fraction: None)

    def report(self, fraction: float) -> None:
        """Says how far this thread is in what `reporting` is about, 0 to 1.

        If it holds the device, that is the batch: its tokens count as they are gone through, as
        one that is written may take minutes.
        """
        self.reporter()(fraction)
        batch: Hold | None = getattr(self._thread, "batch", None)
        if batch is not None:
            with self._changed:
                self._count(batch, fraction)
        self.moved()

    def _count(self, batch: Hold, fraction: float) -> None:
        """Brings what is counted of a batch up to a fraction of it."""
        tokens, padded = int(fraction * batch.tokens), int(fraction * batch.padded)
        self.tokens += tokens - batch.counted
        self.padded_tokens += padded - batch.padded_counted
        batch.counted, batch.padded_counted = tokens, padded

    def moved(self) -> None:
        """Something of what this thread computes is done."""
        self.moves.moved()
        moved()

    def side_by_side(self, work: Callable[[], None], *, lanes: int) -> None:
        """Calls `work` in that many threads at once and waits for all of them.

        Raises:
            Exception: The first that a call raised; the others have ended by then.
        """
        mine = line()

        def run() -> None:
            with working(mine):
                work()

        running = [self._pool.submit(run) for _ in range(lanes)]
        for one in running:
            one.exception()
        for one in running:
            one.result()

    @contextmanager
    def hold(self, *, lanes: int | None = None, tokens: int = 0, padded: int = 0) -> Iterator[Hold]:
        """Takes lanes for one batch, with as many threads, and counts its time and tokens.

        On a device that computes while the thread goes on, the block gives it the batch and says
        `Hold.stay`; another thread may then give it the next.

        Args:
            lanes: How many; all by default.
            tokens: Of the batch.
            padded: The same with padding.
        """
        wanted = self.lanes if lanes is None else lanes
        with line().waiting(), self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
            self._use(wanted)
        self.moved()
        batch = self._thread.batch = Hold(tokens, padded, wanted, self._landed)
        try:
            with self._threads(wanted):
                yield batch
        except BaseException:
            batch.stays = False
            raise
        finally:
            self._thread.batch = None
            with self._changed:
                self._free += wanted
                self._changed.notify_all()
            if not batch.stays:
                batch.land()

    def _landed(self, batch: Hold) -> None:
        with self._changed:
            self._use(-batch.lanes)
            self._count(batch, 1.0)
        self.moved()

    def _use(self, lanes: int) -> None:
        """Counts the time until now by the lanes that were in use; so many more are from here on.

        Batches that wait behind one another on a GPU are one lane's work.
        """
        now = time.perf_counter()
        self.busy_seconds += (now - self._since) * min(1.0, self._used / self.lanes)
        self._used, self._since = self._used + lanes, now

    @contextmanager
    def _threads(self, count: int) -> Iterator[None]:
        """torch's threads are counted for each thread that calls it."""
        import torch

        before = torch.get_num_threads()
        if self.name != "cpu" or before == count:
            yield
            return
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _is_native(dtype: str) -> bool:
    """Whether the processor computes in a dtype, rather than converting to float32 and back."""
    import torch

    if dtype in ("float32", "int8"):  # of int8, the engine knows
        return True
    name = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}[dtype]
    return bool(getattr(torch.ops.mkldnn, name)())
