"""A graph that onnxruntime computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import JobError, OutOfMemory, one_line
from pipeline.models.batching import Sequences
from pipeline.models.device import Device
from pipeline.models.onnx.ports import Ports
from pipeline.models.text.side import TextSide

SAME = 1e-3  # more than kernels for rows of other shapes differ by
FATAL_ONLY = 4  # of onnxruntime's log levels: what goes wrong is raised, too
GPU = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
# onnxruntime has no exception of its own for it.
FULL = ("bad_alloc", "failed to allocate", "out of memory")


class Session:
    """A graph with its weights on a device.

    On a CPU each batch is computed by the thread that asks for it, and the lanes of the device are
    as many threads: as with torch, faster than all of them in one batch.

    Args:
        path: The ONNX file.
        ports: How it is fed and read.
        device: Where it goes.

    Raises:
        JobError: onnxruntime is not installed, or was built without the device.
        Exception: Whatever onnxruntime makes of the file.
    """

    def __init__(self, path: Path, ports: Ports, *, device: Device) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise JobError(
                "compute.engine: onnxruntime needs the onnxruntime package, which can't be "
                f"imported here ({one_line(error)})",
                hint="pip install 'shardscribe[onnx]'",
            ) from error
        provider = CPU if device.name == "cpu" else GPU
        if provider not in onnxruntime.get_available_providers():
            raise JobError(
                f"compute.device is {device.name}, but onnxruntime {onnxruntime.__version__} was "
                "built for the CPU only",
                hint="pip install onnxruntime-gpu in its place, or set compute.device to cpu",
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._options = onnxruntime.RunOptions()
        self._options.log_severity_level = FATAL_ONLY
        where: list[Any] = [CPU]
        if provider == GPU:
            at = int(device.name.partition(":")[2] or 0)
            where = [(GPU, {"device_id": at}), CPU]
        self._session = onnxruntime.InferenceSession(str(path), options, providers=where)
        self.ports = ports

    def run(self, ids: np.ndarray, mask: np.ndarray | None, *, typed: bool) -> np.ndarray:
        """The output for a batch, as float32.

        Args:
            ids: Int64 of shape [rows, longest].
            mask: Of the same shape, 0 on padding; None where there is none.
            typed: Whether the ids have token types in their upper bits.

        Raises:
            OutOfMemory: The batch does not fit.
            Exception: Whatever onnxruntime makes of a row.
        """
        feed = self.ports.feed(ids, mask, typed=typed)
        try:
            (found,) = self._session.run([self.ports.output], feed, self._options)
        except Exception as error:  # it has a dozen classes without a common one of their own
            if any(word in str(error).lower() for word in FULL):
                raise OutOfMemory(one_line(error)) from error
            raise
        self.ports.check(found, ids)
        return np.asarray(found, dtype=np.float32)

    def try_out(self, text: TextSide, *, labels: int | None) -> bool:
        """Computes some short rows, so that a graph of another model shows before any text does.

        Args:
            text: How the model is given texts.
            labels: How many it has to tell apart; None for an encoder.

        Returns:
            Whether a row's numbers are the same with padding beside it. An exporter that traces a
            model may keep the mask of the rows that it was shown.

        Raises:
            ValueError: It has another number of labels.
            Exception: Whatever onnxruntime makes of it.
        """
        short = [*text.prefix, *text.suffix] or [text.pad_id]
        rows = Sequences.of([[*short, *short[-1:] * min(5, text.room)], short])
        beside, alone = (
            self.run(*rows.padded(batch, pad_id=text.pad_id), typed=False)
            for batch in ([0, 1], [1])
        )
        if labels is not None and beside.shape[-1] != labels:
            raise ValueError(f"it gives {beside.shape[-1]} labels, and config.json says {labels}")
        [theirs], [mine] = beside[1:], alone
        if self.ports.dimensions > 2:
            theirs = theirs[: len(short)]
        return bool(np.allclose(theirs, mine, rtol=SAME, atol=SAME))
