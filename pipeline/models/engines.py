"""The engines that compute models, by the name that a job gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pipeline.models.device import Device
from pipeline.models.heads import HeadName, Models
from pipeline.models.onnx.engine import OnnxEngine
from pipeline.models.resolve import ModelInfo
from pipeline.models.torch.engine import TorchEngine
from pipeline.models.weights import Weights


class Engine(Protocol):
    """What computes heads: one folder beside this file."""

    @property
    def weights(self) -> Weights:
        """What it takes of a model's folder."""
        ...

    def check(self, info: ModelInfo, *, head: HeadName, adapter: ModelInfo | None) -> None:
        """Refuses a model that it can't compute, before anything heavy is imported.

        Args:
            info: Found with the engine's own `weights`; fetched or not.
            head: What the model is to be loaded as.
            adapter: What is to be merged into it.

        Raises:
            JobError: Naming the model.
        """
        ...

    def open(
        self, infos: Mapping[str, ModelInfo], *, device: Device, budget: int | None = None
    ) -> Models:
        """The models of a worker; each is loaded when a head of it is first asked for.

        Args:
            infos: By reference, every model that the job names.
            device: Where they go.
            budget: Padded tokens per batch; None: what each model likes best.
        """
        ...


ENGINES: Mapping[str, Engine] = {"torch": TorchEngine(), "onnxruntime": OnnxEngine()}
