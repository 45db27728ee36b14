"""A model: tokenizer and weights on a device, shared by all tasks of a worker that name it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import RowError, ShardscribeError
from pipeline.models.batching import Sequences, batches, packed_batches
from pipeline.models.device import Device
from pipeline.models.faults import is_out_of_memory, raise_if_fatal, row_error
from pipeline.models.text.texts import Encoded, Texts, Tokenizer
from pipeline.models.text.windows import Cuts, cut_all
from pipeline.models.torch.inputs import TYPE_BIT, Inputs, Layout, longest_input, pad_token
from pipeline.models.torch.packed import Packed, PackedEncoder

# A batch is not made smaller than this only to give each lane of the device one.
LANE_TOKENS = 512

Forward = Callable[[Any, Any], Sequence[Any]]
PackedForward = Callable[[PackedEncoder, Packed], Sequence[Any]]


@dataclass
class Inference:
    """What came out of the device, in the order of the sequences.

    Attributes:
        results: One per sequence; None where it failed.
        failures: Why, by sequence index.
        tokens: Tokens of the sequences, special tokens included, padding not.
        padded_tokens: The same with padding.
    """

    results: list[Any]
    failures: dict[int, RowError] = field(default_factory=dict)
    tokens: int = 0
    padded_tokens: int = 0


class Model:
    """Tokenizer and weights on a device.

    Args:
        module: The transformers model, in evaluation mode, on the device.
        tokenizer: Its fast tokenizer.
        device: Shared by all models of the worker.
        budget: The most padded tokens in a batch.
        folder: Where the files came from.
        padded: Whether a row's result is the same with padding beside it; if not, batches hold
            rows of one length.
    """

    def __init__(
        self,
        module: Any,
        tokenizer: Any,
        *,
        device: Device,
        budget: int,
        folder: Path,
        padded: bool = True,
    ) -> None:
        self.module = module
        self.config = module.config
        self.tokenizer = tokenizer
        self.device = device
        self.budget = budget
        self.folder = folder
        # Batches of it that the device may take at once.
        self.lanes = device.lanes
        # Set where the device gains from batches without padding.
        self.packed: PackedEncoder | None = None
        self.tokens = Tokenizer(tokenizer)
        self.prefix, self.suffix = self.tokens.prefix, self.tokens.suffix
        self.inputs = Inputs(module)
        self.padded = padded
        self.pad_id = pad_token(module, tokenizer)
        self.max_tokens = longest_input(module, tokenizer)
        layout = Layout.of(tokenizer, texts=1)
        # Types that a single text has to come with travel in the ids, as those of a pair do.
        self.typed = self.inputs.wants(layout)
        self._text_type = layout.types[0] << TYPE_BIT if self.typed else 0
        self._around: tuple[Sequence[int], Sequence[int]] = (self.prefix, self.suffix)
        if self.typed:
            self._around = layout.runs[0].coded(), layout.runs[1].coded()

    @property
    def room(self) -> int:
        """Content tokens that fit beside the special tokens."""
        return self.max_tokens - len(self.prefix) - len(self.suffix)

    @property
    def labels(self) -> list[str]:
        """The head's labels, by class index."""
        return [str(self.config.id2label[i]) for i in range(self.config.num_labels)]

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Tokenizes texts whole, without special tokens; `Texts` are tokenized once for all."""
        if isinstance(texts, Texts):
            return texts.encoded(self.tokens)
        return self.tokens.encode(texts)

    def wrap(self, ids: Sequence[int]) -> list[int]:
        """Content tokens -> the sequence the model was trained on, special tokens around it."""
        return [*self.prefix, *ids, *self.suffix]

    def windows(
        self, encoded: Encoded, *, size: int | None = None, overlap: int = 0, first: bool = False
    ) -> tuple[Sequences, Cuts]:
        """Texts -> sequences that the model takes.

        Args:
            encoded: The texts' tokens.
            size: The most content tokens of a window; all that the model takes by default.
            overlap: Tokens shared by neighbouring windows of a text.
            first: Only the first window of each text.
        """
        cuts = cut_all(encoded.starts, size=size or self.room, overlap=overlap, first=first)
        ids = encoded.ids | np.int32(self._text_type) if self._text_type else encoded.ids
        return Sequences(ids, cuts.start, cuts.stop, *self._around), cuts

    def compute(self, ids: Any, mask: Any) -> Any:
        """The module's output for a batch of sequences that `windows` cut."""
        return self.module(**self.inputs.of(ids, mask, types=self.typed))

    def infer(
        self,
        sequences: Sequences | Sequence[Sequence[int]],
        forward: Forward,
        *,
        left_padded: bool = False,
        extra_tokens: int = 0,
        budget_factor: int = 1,
        packed: PackedForward | None = None,
    ) -> Inference:
        """Runs sequences through the device in token-budgeted batches.

        On a CPU several batches run at once, so `forward` may be in several threads. A batch that
        raises is halved until the row that makes it raise stands alone; the others go on. One
        that does not fit the memory lowers the budget, for this call and all later.

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
        if not isinstance(sequences, Sequences):
            sequences = Sequences.of(sequences)
        encoder = self.packed if packed is not None else None
        call = _Call(
            self,
            sequences,
            extra_tokens=extra_tokens,
            factor=budget_factor,
            pack=encoder is not None,
        )
        lanes = max(1, min(self.lanes, len(call.queue)))
        held = 1 if lanes > 1 else None

        def run(batch: list[int]) -> tuple[Sequence[Any], int]:
            if packed is not None and encoder is not None:
                return self._run_packed(batch, sequences, packed, encoder)
            return self._run(batch, sequences, forward, left_padded, held)

        if lanes == 1:
            call.work(run)
        else:
            try:
                self.device.side_by_side(lambda: call.work(run), lanes=lanes)
            except BaseException:  # Ctrl-C: the lanes end with the batch that they are at
                call.queue.clear()
                raise
        return call.out

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

        ids, mask = sequences.padded(batch, pad_id=self.pad_id, left=left_padded)
        useful = ids.size if mask is None else int(mask.sum())
        with self.device.hold(lanes=lanes, tokens=useful, padded=ids.size), torch.inference_mode():
            rows = forward(self._place(ids), None if mask is None else self._place(mask))
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
        with self.device.hold(tokens=len(ids), padded=len(ids)), torch.inference_mode():
            rows = forward(encoder, Packed.place(ids, lengths, device=self.device.name))
        return rows, len(ids)

    def _place(self, array: np.ndarray) -> Any:
        import torch

        tensor = torch.from_numpy(array)
        if self.device.name == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device.name, non_blocking=True)


class _Call:
    """One call of `Model.infer`: the batches that are left, which the lanes share.

    Attributes:
        out: What has come out so far.
        queue: Batches that no lane has taken yet, longest first.
    """

    def __init__(
        self, model: Model, sequences: Sequences, *, extra_tokens: int, factor: int, pack: bool
    ) -> None:
        self.model = model
        self.out = Inference([None] * len(sequences))
        self._sizes = sequences.lengths
        self._lengths = self._sizes + extra_tokens
        self._factor = factor
        self._pack = pack
        for index in np.flatnonzero(self._sizes == 0).tolist():
            self.out.failures[index] = RowError("the model sees no token in it", code="no_tokens")
        self.queue = self._cut(np.flatnonzero(self._sizes > 0))
        self._total, self._ended = max(1, int(self._lengths.sum())), 0
        self._report = model.device.reporter()
        self._lock = threading.Lock()

    def work(self, run: Callable[[list[int]], tuple[Sequence[Any], int]]) -> None:
        """What each lane does: batches, until none is left.

        Args:
            run: Gives a batch's results and its tokens with padding.

        Raises:
            ShardscribeError: What no halving of a batch can heal.
        """
        while True:
            with self._lock:
                if not self.queue:
                    return
                batch = self.queue.popleft()
            try:
                rows, padded = run(batch)
            except Exception as error:  # a model may raise anything for a row
                with self._lock:
                    self._again(batch, error)
                continue
            with self._lock:
                for index, row in zip(batch, rows, strict=True):
                    self.out.results[index] = row
                self.out.tokens += int(self._sizes[batch].sum())
                self.out.padded_tokens += padded
                self._ended += int(self._lengths[batch].sum())
                self._report(self._ended / self._total)

    def _again(self, batch: list[int], error: Exception) -> None:
        """Puts back what is left to do of a batch that raised."""
        try:
            raise_if_fatal(error)
        except ShardscribeError:
            self.queue.clear()  # for the other lanes too
            raise
        half = len(batch) // 2
        if not half:
            self.out.failures[batch[0]] = row_error(error)
        elif is_out_of_memory(error):
            lengths, model = self._lengths, self.model
            whole = lengths[batch].sum() if self._pack else len(batch) * lengths[batch[0]]
            model.budget = max(1, min(model.budget, int(whole) // 2 // self._factor))
            rest = [index for other in self.queue for index in other]
            self.queue = self._cut(np.array([*batch, *rest]))
        else:
            self.queue.extendleft([batch[half:], batch[:half]])

    def _cut(self, rows: np.ndarray) -> deque[list[int]]:
        model, lengths = self.model, self._lengths[rows]
        budget = model.budget * self._factor
        if model.lanes > 1:
            fair = -(-int(lengths.sum()) // model.lanes)
            budget = min(budget, max(fair, LANE_TOKENS))
        if self._pack:
            cut = packed_batches(lengths, budget=budget)
        else:
            slack = model.device.slack * self._factor if model.padded else 0
            cut = batches(lengths, budget=budget, slack=slack)
        return deque(rows[batch].tolist() for batch in cut)
