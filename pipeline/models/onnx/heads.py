"""The heads of `pipeline.models.heads` that onnxruntime computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.errors import JobError
from pipeline.models.batching import Sequences
from pipeline.models.heads import Pooling
from pipeline.models.inference import BatchRunner, Done, Inference
from pipeline.models.onnx.session import Session
from pipeline.models.results import strongest
from pipeline.models.sentence_files import SentenceFiles
from pipeline.models.text.side import TextSide

# A batch's output and its mask, None where nothing is padded -> one result for each row.
Finish = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


class OnnxHead:
    """A model with a head.

    Args:
        session: The model's graph.
        text: How the model is given texts.
        runner: Takes batches through the device.
    """

    def __init__(self, session: Session, text: TextSide, runner: BatchRunner) -> None:
        self.session = session
        self.text = text
        self.runner = runner

    def infer(
        self, sequences: Sequences, finish: Finish, *, per_token: bool = False
    ) -> Inference[np.ndarray]:
        """Runs sequences through the graph."""
        device = self.runner.device
        on_cpu = device.name == "cpu"

        def compute(batch: Sequence[int], lanes: int | None) -> Done:
            ids, mask = sequences.padded(batch, pad_id=self.text.pad_id)
            useful = ids.size if mask is None else int(mask.sum())
            # One thread computes it, also where it is the only one.
            with device.hold(lanes=1 if on_cpu else lanes, tokens=useful, padded=ids.size):
                found = self.session.run(ids, mask, typed=sequences.typed)
            return Done(finish(found, mask), ids.size)

        return self.runner.run(sequences, compute, per_token=per_token)


class OnnxClassifier(OnnxHead):
    """Labels of whole sequences."""

    def logits(self, sequences: Sequences) -> Inference[np.ndarray]:
        """Float32 of shape [labels] for each sequence."""
        return self.infer(sequences, lambda found, mask: found)


class OnnxTokenClassifier(OnnxHead):
    """Labels of tokens."""

    def scores(self, sequences: Sequences) -> Inference[np.ndarray]:
        """Float32 of shape [tokens, labels] for each sequence, special tokens included."""

        return self.infer(sequences, _shares, per_token=True)

    def strongest(self, sequences: Sequences) -> Inference[np.ndarray]:
        """The best label, its score and the next best, of shape [tokens, 3]."""

        def few(found: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
            return strongest(_shares(found, mask))

        return self.infer(sequences, few, per_token=True)


def _shares(found: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    exp = np.exp(found - found.max(axis=-1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=-1, keepdims=True))


class OnnxEncoder(OnnxHead):
    """Vectors of sequences."""

    def vectors(self, sequences: Sequences, *, pooling: Pooling) -> Inference[np.ndarray]:
        """Float32 of shape [dim] for each sequence, not normalised unless the graph does it.

        Raises:
            JobError: The graph pools, and not as asked.
        """
        if self.session.ports.dimensions == 2:
            files = SentenceFiles.of(self.text.folder, reference=str(self.text.folder))
            if pooling != files.pooling:
                raise JobError(
                    f"the ONNX file of {self.text.folder} gives vectors of texts, which can't be "
                    f"pooled by {pooling}",
                    hint="Leave pooling at auto, or export it with last_hidden_state",
                )
            return self.infer(sequences, lambda found, mask: found)
        return self.infer(sequences, lambda found, mask: pool(found, mask, how=pooling))


def pool(hidden: np.ndarray, mask: np.ndarray | None, *, how: Pooling) -> np.ndarray:
    """Vectors of tokens, of shape [rows, longest, dim] -> vectors of rows, of shape [rows, dim].

    Args:
        hidden: Float32.
        mask: Int64 of shape [rows, longest], 0 on padding; None when there is none.
        how: ``mean`` over tokens, ``cls`` (the first token) or ``max`` per dimension.
    """
    if how == "cls":
        return hidden[:, 0]
    if mask is None:
        return np.asarray(hidden.mean(axis=1) if how == "mean" else hidden.max(axis=1))
    inside = mask[:, :, None]
    if how == "max":
        return np.asarray(np.where(inside == 0, -np.inf, hidden).max(axis=1), dtype=np.float32)
    weights = inside.astype(np.float32)
    return np.asarray((hidden * weights).sum(axis=1) / weights.sum(axis=1))
