"""The Ray actor: one process with its models loaded."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle

from pipeline import __version__
from pipeline.engine.last_words import CODE, memory_kills
from pipeline.engine.messages import LOADING, Failure, Heartbeat, SplitResult, WorkPlan
from pipeline.errors import RunError, ShardscribeError, SplitError, WorkerLost, one_line
from pipeline.lake.split import Split
from pipeline.moves import Moves, working

STEP_BYTES = 16 * 1024 * 1024
ROOM = "Free it of other programs, set compute.dtype to bfloat16, or take a smaller model"


class Worker:
    """The actor around one annotator. It catches all errors: what comes back is plain data."""

    def __init__(self, name: str, threads: int) -> None:
        # Read once when these libraries are first imported, so before anything imports them.
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        os.environ["RAYON_NUM_THREADS"] = str(threads)
        # oneDNN keeps what it made for each shape, a thousand of them and some 0.5 MB each, but
        # batches hardly ever have the shape of another: 1 GB for nothing, and no slower without.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
        os.environ.setdefault("LRU_CACHE_CAPACITY", "16")
        self.name = name
        self.annotator: Any = None
        self.moves = Moves()

    @ray.method(concurrency_group="watch")
    def hello(self) -> dict[str, Any]:
        """Where it is; answers as soon as it is placed. Plain, as another version may read it."""
        return {
            "host": socket.gethostname(),
            "version": __version__,
            "node": ray.get_runtime_context().get_node_id(),
            # Where its last words will be, if it has any.
            "log": str(Path("/proc/self/fd/2").readlink()),
            "memory_kills": memory_kills(),
        }

    @ray.method(concurrency_group="work")
    def load(self, packed: bytes) -> Failure | None:
        """Opens input and output, and loads the models.

        Args:
            packed: A work plan, pickled.
        """
        from pipeline.engine.worker.annotator import Annotator
        from pipeline.models.faults import is_out_of_memory

        try:
            with working(self.moves):
                plan: WorkPlan = cloudpickle.loads(packed)
                self.annotator = Annotator(plan, name=self.name)
        except ShardscribeError as error:
            return Failure(error)
        except Exception as error:
            said = f"{type(error).__name__}: {one_line(error)}"
            if is_out_of_memory(error):
                return Failure(WorkerLost(f"there is no memory for its models: {said}", hint=ROOM))
            return Failure(WorkerLost(f"it raised {said}", hint=CODE))
        return None

    @ray.method(concurrency_group="work")
    def annotate(self, splits: list[Split]) -> list[SplitResult | Failure]:
        """Turns splits into committed files."""
        try:
            answers = self.annotator.annotate_all(splits)
        except (RunError, WorkerLost) as error:
            return [Failure(error) for _ in splits]
        except Exception as error:
            # No split's own: whichever it was, each is tried again.
            told = str(error) if isinstance(error, ShardscribeError) else repr(error)
            where = self.annotator.source.where
            return [Failure(SplitError(f"{where(split.path)}: {told}")) for split in splits]
        return [Failure(a) if isinstance(a, ShardscribeError) else a for a in answers]

    @ray.method(concurrency_group="watch")
    def heartbeat(self) -> Heartbeat:
        """How far the worker is."""
        if self.annotator is not None:
            heartbeat: Heartbeat = self.annotator.heartbeat()
            return heartbeat
        return Heartbeat(0, 0, 0.0, 0.0, {}, {}, {LOADING: (self.moves.count, _bytes_passed(), 0)})


def _bytes_passed() -> int:
    """What this process has read and written, a download or weights, in steps worth the name.

    What Ray's own threads say meanwhile comes to far less.
    """
    with suppress(OSError):
        lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return sum(int(lines[name]) for name in ("rchar", "wchar", "read_bytes")) // STEP_BYTES
    return 0
