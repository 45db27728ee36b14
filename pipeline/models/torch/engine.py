"""torch as an engine: every head, of any model that transformers has."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import JobError
from pipeline.models.device import Device
from pipeline.models.heads import HeadName
from pipeline.models.resolve import ModelInfo
from pipeline.models.torch.int8 import has_int8
from pipeline.models.torch.load import TorchModels
from pipeline.models.weights import SAFETENSORS, Weights


class TorchEngine:
    """Models whose weights are safetensors, with their adapters."""

    weights: Weights = SAFETENSORS

    def check(self, info: ModelInfo, *, head: HeadName, adapter: ModelInfo | None) -> None:
        """Takes what `pipeline.models.families` lets through."""

    def open(
        self, infos: Mapping[str, ModelInfo], *, device: Device, budget: int | None = None
    ) -> TorchModels:
        """The models of a worker.

        Raises:
            JobError: The device is to compute in int8, and can't.
        """
        if device.dtype_name == "int8" and not has_int8():
            raise JobError(
                "compute.dtype is int8, which this build of torch does not multiply right on the "
                "processor of this machine",
                hint="Set compute.dtype to float32 or auto",
            )
        return TorchModels(infos, device=device, budget=budget)
