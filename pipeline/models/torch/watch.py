"""Signs of life of a model that computes."""

from __future__ import annotations

from typing import Any

from pipeline.models.device import Device


def watch(module: Any, device: Device) -> None:
    """Each layer of a model counts: one forward may last longer than a worker may stand still.

    Args:
        module: A transformers model; is given hooks.
        device: Told.
    """
    import torch

    # A function, as copies of the model share it; a method would be copied with the device.
    def passed(*_: Any) -> None:
        device.moved()

    for part in module.modules():
        if isinstance(part, torch.nn.ModuleList):
            for layer in part:
                layer.register_forward_hook(passed)
