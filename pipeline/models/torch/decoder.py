"""Decoders of transformers, written with in slots: prompts read without padding, steps in place.

The modules are transformers' own; what is put in is an attention function and a cache. It is known
to give what the module gives for families in a table, each of which was compared with `generate`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from pipeline.models.decoding import Decoding
from pipeline.models.families import SLOTTED
from pipeline.models.torch.configured import HEARD_AFTER_PROMPTS, AsConfigured, asked_for
from pipeline.models.torch.linear import laid_out
from pipeline.models.torch.model import Model
from pipeline.models.torch.rules import Rule
from pipeline.models.torch.slot_writer import SlotWriter
from pipeline.models.torch.slots import ARGUMENT, ATTENTION, Slots, attention
from pipeline.models.torch.transfer import transfer

# Kinds of layers that see all tokens, or all in a window.
WHOLE = {"full_attention", "sliding_attention"}
# A common beginning shorter than this is not worth a call of its own.
LEAST_SHARED = 8


def twin(module: Any) -> Any | None:
    """The module with attention over slots; None where that is not known to be the same.

    Args:
        module: A decoder of transformers in evaluation mode, on its device. Its twin shares its
            weights; it stays as it is itself.
    """
    from transformers import AttentionInterface

    if (
        getattr(module.config, "model_type", None) not in SLOTTED
        or not type(module).__module__.startswith("transformers.models.")
        or getattr(module.config, "add_cross_attention", False)
        or not set(getattr(module.config, "layer_types", None) or ()) <= WHOLE
        or "logits_to_keep" not in inspect.signature(module.forward).parameters
    ):
        return None
    # With no mask function under the name, transformers builds no mask.
    AttentionInterface.register(ATTENTION, attention)
    shared = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    made = copy.deepcopy(module, shared).eval()
    made.set_attn_implementation(ATTENTION)
    # Of the twin alone: a head that is tied to the embeddings stays theirs in the module.
    made.set_output_embeddings(laid_out(made.get_output_embeddings()))
    return made if made.config._attn_implementation == ATTENTION else None


class SlotDecoder(SlotWriter):
    """A decoder that is written with in slots.

    Args:
        model: As it was loaded.
        module: What `twin` made of its module.
    """

    in_runs = True

    def __init__(self, model: Model, module: Any) -> None:
        super().__init__(model)
        self._module = module
        self._window = getattr(module.config, "sliding_window", None) or None
        self._token_bytes: int | None = None
        self._asked = asked_for(module.generation_config)
        self._ends = module.generation_config.eos_token_id

    def token_bytes(self) -> int:
        """What the keys and values of a token take, found by reading one."""
        if self._token_bytes is None:
            self._token_bytes = token_bytes(self._module)
        return self._token_bytes

    def holds(self, capacity: int, decoding: Decoding) -> bool:
        """Whether rows of so many tokens are seen whole, not through a window."""
        return self._window is None or capacity <= self._window

    def rules(self, prompts: Sequence[np.ndarray], decoding: Decoding) -> list[Rule]:
        """What the model's own generation config asks for."""
        if not self._asked:
            return []
        most = decoding.max_new_tokens
        return [AsConfigured(self._asked, before=prompts.__getitem__, most=most, ends=self._ends)]

    def steps(
        self, prompts: Sequence[np.ndarray], rows: Sequence[int], decoding: Decoding, *, slots: int
    ) -> DecoderSteps:
        """Takes a lane's memory for rows of one group."""
        most = decoding.max_new_tokens
        return DecoderSteps(self._module, prompts, rows, slots=slots, most=most)


def slot_decoder(model: Model) -> SlotDecoder | None:
    """How a model is written with in slots; None where `generate` has to do it."""
    # Positions of some change with the longest text of a batch.
    asked = asked_for(model.module.generation_config).keys()
    if not model.runner.padded or not asked <= HEARD_AFTER_PROMPTS:
        return None
    module = twin(model.module)
    return None if module is None else SlotDecoder(model, module)


def token_bytes(module: Any) -> int:
    """What the keys and values of a token take, found by reading one."""
    steps = DecoderSteps(module, [np.zeros(1, dtype=np.int64)], [0], slots=1, most=1)
    steps.admit([0], [0])
    return steps.token_bytes


class DecoderSteps:
    """A decoder whose rows are written. Live rows are those in the first slots.

    Args:
        module: What `twin` made.
        prompts: Of the call.
        rows: Those that are going to be written.
        slots: How many at once.
        most: The most tokens that are written for one.
    """

    def __init__(
        self,
        module: Any,
        prompts: Sequence[np.ndarray],
        rows: Sequence[int],
        *,
        slots: int,
        most: int,
    ) -> None:
        import torch

        self.slots = slots
        self._module = module
        self._prompts = prompts
        self._transfer = transfer(str(next(module.parameters()).device))
        # How many tokens stand in each slot.
        self._at = np.zeros(slots, dtype=np.int64)
        longest = max(len(prompts[row]) for row in rows)
        self._dtype = module.dtype
        with torch.inference_mode():
            self._cache = Slots(count=slots, capacity=longest + most)
            self._shared = self._read_shared([prompts[row] for row in rows])

    @property
    def token_bytes(self) -> int:
        """What the keys and values of a token take."""
        return self._cache.token_bytes

    def admit(self, rows: Sequence[int], slots: Sequence[int]) -> Any:
        """Reads prompts, one after the other without padding, from where they begin to differ."""
        texts = [self._prompts[row][self._shared :] for row in rows]
        lengths = [len(text) for text in texts]
        self._cache.reading(slots, lengths, past=self._shared)
        positions = np.concatenate([np.arange(n) for n in lengths]) + self._shared
        logits = self._forward(
            np.concatenate(texts)[None], positions[None], keep=np.cumsum(lengths) - 1
        )
        self._at[list(slots)] = np.array(lengths) + self._shared
        return logits[0].float()

    def step(self, tokens: np.ndarray, counts: np.ndarray | None = None) -> Any:
        """Goes on in each of the first slots, with a token or as many as are said."""
        counts = np.ones_like(tokens) if counts is None else counts
        at = self._at[: len(counts)]
        before = self._cache.stepping(at, counts, place=self._place, dtype=self._dtype)
        logits = self._forward(tokens[None], before[None], keep=np.cumsum(counts) - 1)
        self._at[: len(counts)] += counts
        return logits[0].float()

    def move(self, source: int, target: int) -> None:
        """A slot becomes what another is."""
        self._cache.move(source, target, int(self._at[source]))
        self._at[target] = self._at[source]

    def _read_shared(self, prompts: Sequence[np.ndarray]) -> int:
        """Reads the common beginning of the prompts into all slots.

        Returns:
            How long it is; each prompt has at least one token more.
        """
        length = shared_beginning(prompts)
        if len(prompts) == 1 or length < LEAST_SHARED:
            return 0
        self._cache.reading([0], [length], past=0)
        self._forward(prompts[0][None, :length], np.arange(length)[None], keep=np.array([0]))
        self._cache.share(length)
        return length

    def _forward(self, ids: np.ndarray, positions: np.ndarray, *, keep: np.ndarray) -> Any:
        return self._module(
            input_ids=self._place(ids),
            position_ids=self._place(positions),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=self._place(keep),
            **{ARGUMENT: self._cache},
        ).logits

    def _place(self, array: np.ndarray) -> Any:
        return self._transfer.place(np.ascontiguousarray(array, dtype=np.int64))


def shared_beginning(prompts: Sequence[np.ndarray]) -> int:
    """How many tokens all prompts begin with; each has at least one more."""
    first = prompts[0]
    length = min(len(prompt) for prompt in prompts) - 1
    for prompt in prompts[1:]:
        differing = np.flatnonzero(first[:length] != prompt[:length])
        if len(differing):
            length = int(differing[0])
    return length
