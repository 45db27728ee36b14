"""Which engine computes a job's models."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.models.device import Device
from pipeline.models.heads import Models
from pipeline.models.resolve import ModelInfo


def open_models(
    infos: Mapping[str, ModelInfo], *, device: Device, budget: int | None = None
) -> Models:
    """The models of a worker; each is loaded when a head of it is first asked for.

    Args:
        infos: By reference, every model that the job names.
        device: Where they go.
        budget: Padded tokens per batch; None: what each model likes best.
    """
    from pipeline.models.torch.load import TorchModels

    return TorchModels(infos, device=device, budget=budget)
