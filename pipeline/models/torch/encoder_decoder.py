"""Encoder-decoders, written with in slots: a prompt is read once, keys and values stay in place.

At each step transformers' `generate` puts its cache together anew, and computes rows that have
ended on until the last of the batch has. Here memory is taken once for each slot, rows are each at
a step of their own, and the next one takes a slot that has become free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.models.batching import Sequences, batches
from pipeline.models.decoding import Decoding
from pipeline.models.torch.configured import HEARD, AsConfigured, asked_for
from pipeline.models.torch.decoder_layers import Attention, Decoder, decoder_of
from pipeline.models.torch.model import Model
from pipeline.models.torch.rules import Rule
from pipeline.models.torch.slot_writer import SlotWriter
from pipeline.models.torch.slots import hiding
from pipeline.models.torch.transfer import transfer

# Padded tokens that are read at once: what comes between layers stays near the processor.
READ_TOKENS = 4096


class SlotEncoderDecoder(SlotWriter):
    """An encoder-decoder that is written with in slots.

    Args:
        model: As it was loaded.
        decoder: Its decoder.
    """

    def __init__(self, model: Model, decoder: Decoder) -> None:
        super().__init__(model)
        self._module = model.module
        self._decoder = decoder
        self._pad_id = model.text.pad_id
        config = model.module.generation_config
        self._start = config.decoder_start_token_id
        self._asked = asked_for(config)
        self._ends = config.eos_token_id

    def token_bytes(self) -> int:
        """What the keys and values of a token take, of those that are read as of those written."""
        sizes = [layer.own.heads * layer.own.size for layer in self._decoder.layers]
        return 2 * sum(sizes) * int(self._module.dtype.itemsize)

    def holds(self, capacity: int, decoding: Decoding) -> bool:
        """Whether it is known what rows start to write from."""
        return self._first(decoding) is not None

    def _first(self, decoding: Decoding) -> int | None:
        return self._start if decoding.start_token is None else decoding.start_token

    def rules(self, prompts: Sequence[np.ndarray], decoding: Decoding) -> list[Rule]:
        """What the model's own generation config asks for."""
        asked = dict(self._asked)
        if decoding.first_token is not None:
            asked.pop("forced_bos_token_id", None)
        if not asked:
            return []
        start, most = self._first(decoding), decoding.max_new_tokens
        assert start is not None
        begun = np.array([start])
        return [AsConfigured(asked, before=lambda row: begun, most=most, ends=self._ends)]

    def steps(
        self, prompts: Sequence[np.ndarray], rows: Sequence[int], decoding: Decoding, *, slots: int
    ) -> EncoderDecoderSteps:
        """Takes a lane's memory for rows of one group."""
        start, most = self._first(decoding), decoding.max_new_tokens
        assert start is not None
        return EncoderDecoderSteps(
            self._module,
            self._decoder,
            prompts,
            rows,
            slots=slots,
            most=most,
            start=start,
            pad_id=self._pad_id,
        )


def slot_encoder_decoder(model: Model) -> SlotEncoderDecoder | None:
    """How a model is written with in slots; None where `generate` has to do it."""
    if not model.runner.padded or not asked_for(model.module.generation_config).keys() <= HEARD:
        return None
    decoder = decoder_of(model.module)
    return None if decoder is None else SlotEncoderDecoder(model, decoder)


class EncoderDecoderSteps:
    """An encoder-decoder whose rows are written. Live rows are those in the first slots.

    Args:
        module: Of transformers.
        decoder: Its decoder.
        prompts: Of the call.
        rows: Those that are going to be written.
        slots: How many at once.
        most: The most tokens that are written for one.
        start: What each starts to write from.
        pad_id: Fills rows that are read together with longer ones.
    """

    def __init__(
        self,
        module: Any,
        decoder: Decoder,
        prompts: Sequence[np.ndarray],
        rows: Sequence[int],
        *,
        slots: int,
        most: int,
        start: int,
        pad_id: int,
    ) -> None:
        import torch

        self.slots = slots
        self._encoder = module.get_encoder()
        self._decoder = decoder
        self._prompts = prompts
        self._start = start
        self._pad_id = pad_id
        weight = next(module.parameters())
        self._device = weight.device
        self._transfer = transfer(str(self._device))
        longest = max(len(prompts[row]) for row in rows)
        # By slot: tokens that were read, and that are written, the one to start from included.
        self._read = np.zeros(slots, dtype=np.int64)
        self._at = np.zeros(slots, dtype=np.int64)
        with torch.inference_mode():
            # Zeros, as what is masked is computed too and must be a number.
            self._cross = [self._taken(layer.cross, longest, module) for layer in decoder.layers]
            self._own = [self._taken(layer.own, most, module) for layer in decoder.layers]
            self._distances = None if decoder.distances is None else decoder.distances(most)

    def _taken(self, attention: Attention, tokens: int, module: Any) -> tuple[Any, Any]:
        """Memory for keys and values, each of shape [slots, heads, tokens, size]."""
        import torch

        shape = (self.slots, attention.heads, tokens, attention.size)
        made = [torch.zeros(shape, dtype=module.dtype, device=self._device) for _ in range(2)]
        return made[0], made[1]

    def admit(self, rows: Sequence[int], slots: Sequence[int]) -> Any:
        """Reads prompts, and starts to write.

        Returns:
            Float32 scores of what comes first, of shape [rows, vocabulary].
        """
        texts = Sequences.of([self._prompts[row] for row in rows])
        for batch in batches(texts.lengths, budget=READ_TOKENS):
            self._admit(texts, batch, [slots[at] for at in batch])
        at = np.asarray(slots, dtype=np.int64)
        self._read[at] = texts.lengths
        self._at[at] = 0
        return self._forward(np.full(len(rows), self._start), at)

    def _admit(self, texts: Sequences, batch: Sequence[int], slots: Sequence[int]) -> None:
        ids, mask = texts.padded(batch, pad_id=self._pad_id)
        placed = None if mask is None else self._place(mask)
        states = self._encoder(input_ids=self._place(ids), attention_mask=placed).last_hidden_state
        count = states.shape[1]
        places = self._place(np.asarray(slots, dtype=np.int64))
        for layer, (keys, values) in zip(self._decoder.layers, self._cross, strict=True):
            keys[places, :, :count] = layer.cross.split(layer.cross.key(states))
            values[places, :, :count] = layer.cross.split(layer.cross.value(states))
        # Of the row before: a number that is none would be seen through any mask.
        for pair in self._cross:
            for held in pair:
                held[places, :, count:] = 0
        for pair in self._own:
            for held in pair:
                held[places] = 0

    def step(self, tokens: np.ndarray, counts: np.ndarray | None = None) -> Any:
        """Goes on with a token in each of the first slots; more are not known ahead.

        Returns:
            Float32 scores of what comes next, of shape [tokens, vocabulary].
        """
        if counts is not None:
            raise ValueError("a row's tokens are computed one by one")
        return self._forward(tokens, np.arange(len(tokens)))

    def move(self, source: int, target: int) -> None:
        """A slot becomes what another is."""
        for held, counts in ((self._cross, self._read), (self._own, self._at)):
            count = int(counts[source])
            for pair in held:
                for states in pair:
                    states[target, :, :count] = states[source, :, :count]
            counts[target] = count

    def _forward(self, tokens: np.ndarray, slots: np.ndarray) -> Any:
        import torch

        decoder, count = self._decoder, len(slots)
        first, last = int(slots[0]), int(slots[-1]) + 1
        if last - first != count:
            raise ValueError("rows that are computed together are in slots that follow each other")
        at, read = self._at[slots], self._read[slots]
        written, given = int(at.max()) + 1, int(read.max())
        places = self._place(at)
        own_mask, cross_mask = self._own_mask(at, places), self._cross_mask(read)
        slot = torch.arange(first, last, device=self._device)

        def own(attention: Attention, held: tuple[Any, Any], states: Any) -> Any:
            keys, values = held
            keys[slot, :, places] = attention.key(states).unflatten(-1, (attention.heads, -1))
            values[slot, :, places] = attention.value(states).unflatten(-1, (attention.heads, -1))
            held = keys[first:last, :, :written], values[first:last, :, :written]
            return _attend(attention, states, held, own_mask)

        def cross(attention: Attention, held: tuple[Any, Any], states: Any) -> Any:
            held = held[0][first:last, :, :given], held[1][first:last, :, :given]
            return _attend(attention, states, held, cross_mask)

        states = decoder.embed(self._place(tokens), places)
        for layer, own_held, cross_held in zip(decoder.layers, self._own, self._cross, strict=True):
            norms = layer.norms

            def to_own(x: Any, layer: Any = layer, held: Any = own_held) -> Any:
                return own(layer.own, held, x)

            def to_cross(x: Any, layer: Any = layer, held: Any = cross_held) -> Any:
                return cross(layer.cross, held, x)

            states = decoder.around(norms[0], to_own, states)
            states = decoder.around(norms[1], to_cross, states)
            states = decoder.around(norms[2], layer.feed, states)
        scores = decoder.scores(states).float()
        self._at[slots] += 1
        return scores

    def _own_mask(self, at: np.ndarray, places: Any) -> Any:
        """What is added to scores of attention to what was written: of shape [rows, heads or 1,
        1, tokens], or None."""
        import torch

        count = int(at.max()) + 1
        before = places[:, None] - torch.arange(count, device=self._device)
        if self._distances is not None:
            found = self._distances[:, before.clamp(min=0)].transpose(0, 1)
            return found.masked_fill((before < 0)[:, None], -torch.inf).unsqueeze(2)
        if (at == at[0]).all():
            return None
        return hiding((before < 0)[:, None], dtype=self._own[0][0].dtype)

    def _cross_mask(self, read: np.ndarray) -> Any:
        """The same for what the row was given."""
        import torch

        if (read == read[0]).all():
            return None
        beyond = torch.arange(int(read.max()), device=self._device) >= self._place(read)[:, None]
        return hiding(beyond[:, None], dtype=self._own[0][0].dtype)

    def _place(self, array: np.ndarray) -> Any:
        return self._transfer.place(np.ascontiguousarray(array, dtype=np.int64))


def _attend(attention: Attention, states: Any, held: tuple[Any, Any], mask: Any) -> Any:
    """A token of each row to the keys and values of its slot, of shape [rows, dim]."""
    import torch

    query = attention.query(states).unflatten(-1, (attention.heads, -1)).unsqueeze(2)
    found = torch.nn.functional.scaled_dot_product_attention(
        query, *held, attn_mask=mask, scale=attention.scale
    )
    return attention.out(found.flatten(1))
