"""Low-rank updates of frozen linear layers, for training ``starter/sentiment``.

The method is LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.starter.low_rank import DOWN, UP

RANK = 8
SCALE = 2.0


class LowRank(nn.Module):
    """A frozen linear layer with a learned low-rank update.

    Args:
        linear: The layer; it is not changed.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(RANK, linear.in_features) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute ``W x + b + s B A x``.

        Args:
            inputs: Of shape (..., in_features).

        Returns:
            Of shape (..., out_features).
        """
        update = functional.linear(functional.linear(inputs, self.down), self.up)
        result: Tensor = self.linear(inputs) + SCALE * update
        return result


def low_rank_layers(model: Any) -> dict[str, LowRank]:
    """Freeze a BERT classifier but for its pooler and head, and wrap its linear layers.

    Args:
        model: A `BertForSequenceClassification`; changed in place.

    Returns:
        Name of the wrapped layer to its wrapper.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(("bert.embeddings.", "bert.encoder.")))
    layers = {}
    for name, module in list(model.bert.encoder.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, attribute = name.rpartition(".")
            layers[f"bert.encoder.{name}"] = LowRank(module)
            setattr(
                model.bert.encoder.get_submodule(parent), attribute, layers[f"bert.encoder.{name}"]
            )
    return layers


def trained_part(model: Any, layers: dict[str, LowRank]) -> dict[str, Tensor]:
    """Collect what training changed, in 16 bits, with the scale folded in.

    Args:
        model: The trained model.
        layers: What `low_rank_layers` gave.

    Returns:
        Name to tensor, as `pipeline.starter.low_rank.merge` reads them.
    """
    part: dict[str, Tensor] = {}
    for name, layer in layers.items():
        part[name + DOWN] = layer.down
        part[name + UP] = layer.up * SCALE
    for name, parameter in model.named_parameters():
        if name.startswith(("bert.pooler.", "classifier.")):
            part[name] = parameter
    return {name: value.detach().half().contiguous() for name, value in part.items()}
