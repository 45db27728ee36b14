"""The heads of `pipeline.models.heads`, computed by torch: padded, or packed where a model can."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.models.batching import Sequences
from pipeline.models.heads import Pooling
from pipeline.models.inference import Inference
from pipeline.models.torch.model import Model
from pipeline.models.torch.packed import Packed, PackedEncoder
from pipeline.models.torch.pooling import pool
from pipeline.models.torch.strongest import strongest
from pipeline.models.torch.transfer import OnDevice


class TorchHead:
    """A model with a head.

    Args:
        model: Loaded with it.

    Attributes:
        text: How the model is given texts.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.text = model.text


class TorchClassifier(TorchHead):
    """Labels of whole sequences."""

    def logits(self, sequences: Sequences) -> Inference[np.ndarray]:
        """Float32 of shape [labels] for each sequence."""

        def forward(ids: Any, mask: Any) -> Any:
            out = self.model.compute(ids, mask, typed=sequences.typed)
            return OnDevice(out.logits.float())

        def packed(encoder: PackedEncoder, batch: Packed) -> Any:
            return OnDevice(encoder.classify_logits(batch))

        # Packed results were never compared with padded ones for two texts in one sequence.
        return self.model.infer(sequences, forward, packed=None if sequences.paired else packed)


class TorchTokenClassifier(TorchHead):
    """Labels of tokens."""

    def scores(self, sequences: Sequences) -> Inference[np.ndarray]:
        """Float32 of shape [tokens, labels] for each sequence, special tokens included."""

        def forward(ids: Any, mask: Any) -> Any:
            out = self.model.compute(ids, mask, typed=sequences.typed)
            return OnDevice(out.logits.float().softmax(dim=-1))

        def packed(encoder: PackedEncoder, batch: Packed) -> Any:
            return OnDevice(encoder.token_logits(batch).softmax(dim=-1))

        return self.model.infer(sequences, forward, packed=packed, per_token=True)

    def strongest(self, sequences: Sequences) -> Inference[np.ndarray]:
        """The best label, its score and the next best, of shape [tokens, 3]."""

        def forward(ids: Any, mask: Any) -> Any:
            out = self.model.compute(ids, mask, typed=sequences.typed)
            return OnDevice(strongest(out.logits.float().softmax(dim=-1)))

        def packed(encoder: PackedEncoder, batch: Packed) -> Any:
            return OnDevice(encoder.strongest_labels(batch))

        return self.model.infer(sequences, forward, packed=packed, per_token=True)


class TorchSpanScorer(TorchHead):
    """First and last tokens of spans."""

    def logits(self, sequences: Sequences) -> Inference[np.ndarray]:
        """Float32 of shape [2, tokens] for each sequence, special tokens included."""
        import torch

        def forward(ids: Any, mask: Any) -> Any:
            out = self.model.compute(ids, mask, typed=sequences.typed)
            return OnDevice(torch.stack([out.start_logits.float(), out.end_logits.float()], dim=1))

        found = self.model.infer(sequences, forward)
        found.results = [
            None if row is None else row[:, :length]
            for row, length in zip(found.results, sequences.lengths.tolist(), strict=True)
        ]
        return found


class TorchEncoder(TorchHead):
    """Vectors of sequences."""

    def vectors(self, sequences: Sequences, *, pooling: Pooling) -> Inference[np.ndarray]:
        """Float32 of shape [dim] for each sequence, not normalised."""

        def forward(ids: Any, mask: Any) -> Any:
            hidden = self.model.compute(ids, mask, typed=sequences.typed).last_hidden_state
            return OnDevice(pool(hidden, mask, how=pooling))

        def packed(encoder: PackedEncoder, batch: Packed) -> Any:
            return OnDevice(encoder.pooled(batch, how=pooling))

        return self.model.infer(sequences, forward, packed=packed)
