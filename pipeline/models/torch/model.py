"""A model: weights on a device, shared by all tasks of a worker that name it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.models.batching import Sequences
from pipeline.models.device import Hold
from pipeline.models.inference import BatchRunner, Done, Flight, Inference
from pipeline.models.text.side import TextSide
from pipeline.models.torch.faults import own_errors
from pipeline.models.torch.inputs import Inputs
from pipeline.models.torch.int8_twin import Int8Layers
from pipeline.models.torch.packed import Packed, PackedEncoder
from pipeline.models.torch.transfer import OnDevice, OnTheWay, Transfer, transfer

Forward = Callable[[Any, Any], Sequence[Any] | OnDevice]
PackedForward = Callable[[PackedEncoder, Packed], OnDevice]


class Model:
    """Weights on a device, and what is text about them.

    Args:
        module: The transformers model, in evaluation mode, on the device.
        text: Its text side.
        runner: Takes batches through the device.

    Attributes:
        packed: Set where the device gains from batches without padding.
        transfer: How arrays go to the device and come back.
        int8: Its layers in int8, where the job asks for a twin in it.
    """

    def __init__(self, module: Any, text: TextSide, runner: BatchRunner) -> None:
        self.module = module
        self.config = module.config
        self.text = text
        self.runner = runner
        self.device = runner.device
        self.packed: PackedEncoder | None = None
        self.int8: Int8Layers | None = None
        self.transfer: Transfer = transfer(self.device.name)
        self._inputs = Inputs(module)

    def in_int8(self, measured: Any) -> Model:
        """Its twin, which batches as it does.

        Args:
            measured: Of its layers, from `Int8Layers.measuring`.

        Raises:
            ValueError: It is of others.
        """
        if self.int8 is None:
            raise ValueError("the model has no layers in int8")
        mine = self.runner
        runner = BatchRunner(self.device, budget=mine.budget, padded=mine.padded)
        runner.lanes, runner.depth = mine.lanes, mine.depth
        return Model(self.int8.twin(self.module, measured), self.text, runner)

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
        per_token: bool = False,
    ) -> Inference[Any]:
        """Runs sequences through the device, as `BatchRunner.run` does.

        Args:
            sequences: Token ids, special tokens included.
            forward: Given ids and mask (both int64 of shape [rows, longest]; the mask is None
                when there is no padding), returns one result per row, or what they are made of,
                on the device.
            left_padded: Pad on the left, as generation needs.
            extra_tokens: Tokens that each row will grow by, counted into the budget.
            budget_factor: How many times the model's own budget a batch may hold.
            packed: The same as `forward` for a batch without padding; taken where the model has a
                packed encoder.
            per_token: Whether results are of tokens: of shape [rows, longest, numbers], or without
                padding [tokens, numbers].

        Returns:
            Results in the order of `sequences`.
        """
        rows = sequences if isinstance(sequences, Sequences) else Sequences.of(sequences)
        encoder = self.packed

        def run(batch: Sequence[int], lanes: int | None) -> Flight:
            if packed is not None and encoder is not None:
                return self._run_packed(batch, rows, packed, encoder)
            return self._run(batch, rows, forward, left_padded, lanes)

        return self.runner.run(
            rows,
            run,
            extra_tokens=extra_tokens,
            factor=budget_factor,
            packed=packed is not None and encoder is not None,
            per_token=per_token,
        )

    def _run(
        self,
        batch: Sequence[int],
        sequences: Sequences,
        forward: Forward,
        left_padded: bool,
        lanes: int | None,
    ) -> Flight:
        import torch

        ids, mask = sequences.padded(batch, pad_id=self.text.pad_id, left=left_padded)
        useful = ids.size if mask is None else int(mask.sum())
        hold = self.device.hold(lanes=lanes, tokens=useful, padded=ids.size)
        place = self.transfer.place
        with hold as held, own_errors(), torch.inference_mode():
            given = forward(place(ids), None if mask is None else place(mask))
            return self._flight(given, held)

    def _run_packed(
        self,
        batch: Sequence[int],
        sequences: Sequences,
        forward: PackedForward,
        encoder: PackedEncoder,
    ) -> Flight:
        import torch

        ids, lengths = sequences.flat(batch)
        hold = self.device.hold(tokens=len(ids), padded=len(ids))
        with hold as held, own_errors(), torch.inference_mode():
            given = forward(encoder, Packed.place(ids, lengths, place=self.transfer.place))
            return self._flight(given, held)

    def _flight(self, given: Sequence[Any] | OnDevice, held: Hold) -> Flight:
        if not isinstance(given, OnDevice):
            return Done(given, held.padded)
        wait = self.transfer.fetch(given.tensor)
        if self.transfer.depth == 1:
            return Done(wait(), held.padded)
        held.stay()
        return OnTheWay(wait, held, held.padded)
