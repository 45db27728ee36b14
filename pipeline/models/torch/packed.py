"""Padding-free attention: the texts of a batch in one row of tokens, each attending to itself only.

A padded batch computes every layer for its padding as well, and its attention for pairs of tokens
that a mask throws away again. A packed one does neither, so texts of any lengths go together.

The modules are transformers' own: what is put in is an attention function, under a name of ours,
on a twin of the module that shares its weights. The module itself stays as it is, so its padded
path gives what it gave, also while another thread is in it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from pipeline.models.heads import HeadName
from pipeline.models.torch.first_token import shorten_packed
from pipeline.models.torch.packed_attention import ATTENTION, attention, has_kernel
from pipeline.models.torch.strongest import strongest
from pipeline.models.torch.transfer import transfer

# config.model_type -> how its classes begin. Each was compared with its padded path; any other
# architecture may look at tokens beside its attention function, so it is not guessed at.
FAMILIES = {
    "bert": "Bert",
    "distilbert": "DistilBert",
    "modernbert": "ModernBert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
}
# What is left of a class's name behind that -> the head that the model is loaded with.
CLASS_ENDS: Mapping[str, HeadName] = {
    "Model": "encoder",
    "ForSequenceClassification": "sequence-classification",
    "ForTokenClassification": "token-classification",
}


@dataclass(frozen=True)
class Packed:
    """The texts of a batch, one after the other, on a device.

    Attributes:
        ids: Int64 tensor of shape [tokens].
        borders: Int32 tensor of shape [texts + 1]: where each text starts, and the end.
        longest: Tokens of the longest text.
        starts: Where each text starts, in the memory of the process.
    """

    ids: Any
    borders: Any
    longest: int
    starts: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[Sequence[int] | np.ndarray], *, device: str) -> Packed:
        """Packs token ids, a sequence for each text."""
        flat = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in texts])
        lengths = np.array([len(ids) for ids in texts])
        return cls.place(flat, lengths, place=transfer(device).place)

    @classmethod
    def place(
        cls, ids: np.ndarray, lengths: np.ndarray, *, place: Callable[[np.ndarray], Any]
    ) -> Packed:
        """Puts texts that stand one after the other on a device, without waiting for the copy.

        Args:
            ids: The tokens of all texts, of shape [tokens].
            lengths: Tokens of each text, at least one, of shape [texts].
            place: Puts an array on the device.
        """
        if not len(lengths) or int(lengths.min()) < 1 or int(lengths.sum()) != len(ids):
            raise ValueError("each text of a packed batch has at least one token")
        borders = np.concatenate([[0], np.cumsum(lengths)])
        return cls(
            place(ids.astype(np.int64, copy=False)),
            place(borders.astype(np.int32)),
            int(lengths.max()),
            borders[:-1],
        )


class PackedEncoder:
    """An encoder, or one with a classification head, on packed batches. `packed` makes it.

    Nothing of a call is kept, so several threads may be in it.

    Args:
        twin: A supported transformers model that computes attention as `ATTENTION`; changed.
        head: ``encoder``, ``sequence-classification`` or ``token-classification``.
    """

    def __init__(self, twin: Any, *, head: HeadName) -> None:
        self.head = head
        self._base = twin.base_model
        self._classifier: Any = None
        self._shortened = shorten_packed(twin)
        if head != "encoder":
            setattr(twin, twin.base_model_prefix, _stand_in(getattr(self._base, "pooler", None)))
            self._classifier = _in_float32(twin)
        # ModernBERT's head may want the mean; all others take the first token.
        self._pooling = getattr(twin.config, "classifier_pooling", "cls")
        embeddings = self._base.embeddings
        self._has_types = hasattr(embeddings, "token_type_embeddings")
        counted = getattr(embeddings, "position_embeddings", None)
        self._padding = getattr(counted, "padding_idx", None)

    def forward(self, batch: Packed) -> Any:
        """Token vectors of shape [tokens, dim], in the module's dtype.

        Where the head reads the first token of a text alone: vectors of these, [texts, dim].
        """
        import torch

        positions = self._positions(batch).unsqueeze(0)
        inputs = {"input_ids": batch.ids.unsqueeze(0), "position_ids": positions}
        if self._has_types:
            inputs["token_type_ids"] = torch.zeros_like(positions)
        # transformers' own names for them; all layers hand them on to the attention function.
        out = self._base(**inputs, cu_seq_lens_q=batch.borders, max_length_q=batch.longest)
        return out.last_hidden_state[0]

    def pooled(self, batch: Packed, *, how: str) -> Any:
        """Float32 vectors of shape [texts, dim]; `how` is ``mean``, ``cls`` or ``max``."""
        return _pool(self.forward(batch), batch, how)

    def classify_logits(self, batch: Packed) -> Any:
        """Float32 logits of shape [texts, labels]."""
        self._need("sequence-classification")
        hidden = self.forward(batch)
        text = hidden.float() if self._shortened else _pool(hidden, batch, self._pooling)
        # The head is given rows of one token each, which it takes for the first and for the mean.
        return self._classifier(inputs_embeds=text.unsqueeze(1)).logits

    def token_logits(self, batch: Packed) -> Any:
        """Float32 logits of shape [tokens, labels]."""
        self._need("token-classification")
        hidden = self.forward(batch).float()
        return self._classifier(inputs_embeds=hidden.unsqueeze(0)).logits[0]

    def strongest_labels(self, batch: Packed) -> Any:
        """What `strongest` gives of the labels' scores: of shape [tokens, 3]."""
        return strongest(self.token_logits(batch).softmax(dim=-1))

    def _need(self, head: HeadName) -> None:
        if self.head != head:
            raise TypeError(f"the model has {self.head} for its head, not {head}")

    def _positions(self, batch: Packed) -> Any:
        """Positions that start anew with each text, of shape [tokens]."""
        import torch

        starts, tokens = batch.borders[:-1].long(), len(batch.ids)
        texts = torch.arange(len(starts), device=starts.device)
        # Without the size, the device would have to be waited for.
        owner = torch.repeat_interleave(texts, batch.borders.diff(), output_size=tokens)
        if self._padding is None:
            return torch.arange(tokens, device=starts.device) - starts[owner]
        # RoBERTa's kind counts from padding_idx + 1, and passes over padding tokens in a text.
        counted = (batch.ids != self._padding).long()
        total = counted.cumsum(0)
        before = (total - counted)[starts]
        return (total - before[owner]) * counted + self._padding


def packed(module: Any) -> PackedEncoder | None:
    """The packed path of a model.

    On a CPU it is a plain loop over texts, to test with: slower than padding.

    Args:
        module: A transformers model in evaluation mode, on its device.

    Returns:
        None where the architecture, the dtype or the device has no packed path, only the padded.
    """
    from transformers import AttentionInterface

    head = _head(module)
    if head is None or not has_kernel(module):
        return None
    # With no mask function under the name, transformers builds no mask.
    AttentionInterface.register(ATTENTION, attention)
    shared = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    twin = copy.deepcopy(module, shared).eval()
    twin.set_attn_implementation(ATTENTION)
    # ModernBERT as of transformers 5.0 had attention of its own, and only warned.
    if twin.config._attn_implementation != ATTENTION:
        return None
    return PackedEncoder(twin, head=head)


def _head(module: Any) -> HeadName | None:
    """The head of a supported architecture; None for any other."""
    config, kind = module.config, type(module)
    family = FAMILIES.get(getattr(config, "model_type", None) or "")
    if family is None or not kind.__module__.startswith("transformers.models."):
        return None
    takes = inspect.signature(module.base_model.forward).parameters
    hands_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    # Chunks of the row may not come out even. Some rotary embeddings scale with the longest text
    # of a batch, so they differ with what a text stands beside.
    rope = getattr(config, "rope_parameters", None) or {}
    layers = [layer for layer in rope.values() if isinstance(layer, Mapping)]
    if (
        "position_ids" not in takes
        or not hands_on
        or getattr(config, "is_decoder", False)
        or getattr(config, "chunk_size_feed_forward", 0)
        or any(layer.get("rope_type", "default") != "default" for layer in layers)
    ):
        return None
    return CLASS_ENDS.get(kind.__name__.removeprefix(family))


def _stand_in(pooler: Any) -> Any:
    """Stands in for the encoder under a head, so that the head's own code runs on its output."""
    import torch
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    class StandIn(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pooler = pooler

        def forward(self, *_: Any, inputs_embeds: Any, **__: Any) -> Any:
            return BaseModelOutputWithPooling(
                last_hidden_state=inputs_embeds,
                pooler_output=None if self.pooler is None else self.pooler(inputs_embeds),
            )

    return StandIn()


def _in_float32(twin: Any) -> Any:
    """Gives a head weights of its own where it has half the bits: it is small, and decides."""
    for name, part in list(twin.named_children()):
        if any(weight.dtype.itemsize < 4 for weight in part.parameters()):
            setattr(twin, name, copy.deepcopy(part).float())
    return twin


def _pool(hidden: Any, batch: Packed, how: str) -> Any:
    import torch

    if how == "cls":
        return hidden[batch.borders[:-1].long()].float()
    if how not in ("mean", "max"):
        raise ValueError(f"pooling is mean, cls or max, not {how}")
    # Unsafe only means unchecked: the check would wait for the device, and `Packed` made it.
    lengths = batch.borders.diff().long()
    return torch.segment_reduce(hidden.float(), how, lengths=lengths, axis=0, unsafe=True)
