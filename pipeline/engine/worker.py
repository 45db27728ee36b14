"""The Ray actor: one process with its models loaded."""

from __future__ import annotations

import os
import socket
from typing import Any

import ray

from pipeline import __version__
from pipeline.engine.work import Failure, Pulse, Receipt, WorkPlan
from pipeline.errors import RunError, ShardscribeError, SplitError, WorkerLost
from pipeline.lake.dataset import Split


class Worker:
    """The actor around one annotator. It catches all errors: what comes back is plain data."""

    def __init__(self, plan: WorkPlan, name: str) -> None:
        # Read once when these libraries are first imported, so before anything imports them.
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        os.environ["RAYON_NUM_THREADS"] = str(plan.threads)
        # oneDNN keeps what it made for each shape, a thousand of them and some 0.5 MB each, but
        # batches hardly ever have the shape of another: 1 GB for nothing, and no slower without.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
        os.environ.setdefault("LRU_CACHE_CAPACITY", "16")
        self.plan = plan
        self.name = name
        self.annotator: Any = None

    @ray.method(concurrency_group="watch")
    def hello(self) -> tuple[str, str]:
        """Host and shardscribe version; answers as soon as the worker is placed."""
        return socket.gethostname(), __version__

    @ray.method(concurrency_group="work")
    def load(self) -> Failure | None:
        """Loads the models."""
        from pipeline.engine.annotator import Annotator

        try:
            self.annotator = Annotator(self.plan, name=self.name)
        except ShardscribeError as error:
            return Failure(error)
        return None

    @ray.method(concurrency_group="work")
    def annotate(self, splits: list[Split]) -> list[Receipt | Failure]:
        """Turns splits into committed files."""
        try:
            answers = self.annotator.annotate_all(splits)
        except (RunError, WorkerLost) as error:
            return [Failure(error) for _ in splits]
        except Exception as error:
            # No split's own: whichever it was, each is tried again.
            told = str(error) if isinstance(error, ShardscribeError) else repr(error)
            where = self.annotator.input.address
            return [Failure(SplitError(f"{where(split.path)}: {told}")) for split in splits]
        return [Failure(a) if isinstance(a, ShardscribeError) else a for a in answers]

    @ray.method(concurrency_group="watch")
    def pulse(self) -> Pulse | None:
        """How far the worker is; None while it loads."""
        return self.annotator.pulse() if self.annotator is not None else None
