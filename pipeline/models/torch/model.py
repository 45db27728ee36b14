"""A model: weights on a device, shared by all tasks of a worker that name it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.models.batching import Sequences
from pipeline.models.inference import BatchRunner, Inference
from pipeline.models.text.side import TextSide
from pipeline.models.torch.faults import own_errors
from pipeline.models.torch.inputs import Inputs
from pipeline.models.torch.packed import Packed, PackedEncoder

Forward = Callable[[Any, Any], Sequence[Any]]
PackedForward = Callable[[PackedEncoder, Packed], Sequence[Any]]


class Model:
    """Weights on a device, and what is text about them.

    Args:
        module: The transformers model, in evaluation mode, on the device.
        text: Its text side.
        runner: Takes batches through the device.

    Attributes:
        packed: Set where the device gains from batches without padding.
    """

    def __init__(self, module: Any, text: TextSide, runner: BatchRunner) -> None:
        self.module = module
        self.config = module.config
        self.text = text
        self.runner = runner
        self.device = runner.device
        self.packed: PackedEncoder | None = None
        self._inputs = Inputs(module)

    def compute(self, ids: Any, mask: Any, *, typed: bool) -> Any:
        """The module's output for a batch.

        Args:
            ids: Int64 tensor of shape [rows, longest].
            mask: Of the same shape, 0 on padding; None where there is none.
            typed: Whether the ids have token types in their upper bits.
        """
        return self.module(**self._inputs.of(ids, mask, typed=typed))

    def infer(
        self,
        sequences: Sequences | Sequence[Sequence[int]],
        forward: Forward,
        *,
        left_padded: bool = False,
        extra_tokens: int = 0,
        budget_factor: int = 1,
        packed: PackedForward | None = None,
    ) -> Inference[Any]:
        """Runs sequences through the device, as `BatchRunner.run` does.

        Args:
            sequences: Token ids, special tokens included.
            forward: Given ids and mask (both int64 of shape [rows, longest]; the mask is None
                when there is no padding), returns one result per row.
            left_padded: Pad on the left, as generation needs.
            extra_tokens: Tokens that each row will grow by, counted into the budget.
            budget_factor: How many times the model's own budget a batch may hold.
            packed: The same as `forward` for a batch without padding; taken where the model has a
                packed encoder.

        Returns:
            Results in the order of `sequences`.
        """
        rows = sequences if isinstance(sequences, Sequences) else Sequences.of(sequences)
        encoder = self.packed

        def run(batch: Sequence[int], lanes: int | None) -> tuple[Sequence[Any], int]:
            if packed is not None and encoder is not None:
                return self._run_packed(batch, rows, packed, encoder)
            return self._run(batch, rows, forward, left_padded, lanes)

        return self.runner.run(
            rows,
            run,
            extra_tokens=extra_tokens,
            factor=budget_factor,
            packed=packed is not None and encoder is not None,
        )

    def _run(
        self,
        batch: Sequence[int],
        sequences: Sequences,
        forward: Forward,
        left_padded: bool,
        lanes: int | None,
    ) -> tuple[Sequence[Any], int]:
        """Results of a batch, and its tokens with padding."""
        import torch

        ids, mask = sequences.padded(batch, pad_id=self.text.pad_id, left=left_padded)
        useful = ids.size if mask is None else int(mask.sum())
        held = self.device.hold(lanes=lanes, tokens=useful, padded=ids.size)
        with held, own_errors(), torch.inference_mode():
            name = self.device.name
            rows = forward(placed(ids, name), None if mask is None else placed(mask, name))
        return rows, ids.size

    def _run_packed(
        self,
        batch: Sequence[int],
        sequences: Sequences,
        forward: PackedForward,
        encoder: PackedEncoder,
    ) -> tuple[Sequence[Any], int]:
        """Results of a batch, and its tokens with padding."""
        import torch

        ids, lengths = sequences.flat(batch)
        held = self.device.hold(tokens=len(ids), padded=len(ids))
        with held, own_errors(), torch.inference_mode():
            rows = forward(encoder, Packed.place(ids, lengths, device=self.device.name))
        return rows, len(ids)


def placed(array: np.ndarray, device: str) -> Any:
    """An array as a tensor on a device; what it is copied from need not be waited for."""
    import torch

    tensor = torch.from_numpy(array)
    if device == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
