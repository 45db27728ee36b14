"""torch as an engine: every head, of any model that transformers has."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.models.device import Device
from pipeline.models.heads import HeadName
from pipeline.models.resolve import ModelInfo
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
        """The models of a worker."""
        return TorchModels(infos, device=device, budget=budget)
