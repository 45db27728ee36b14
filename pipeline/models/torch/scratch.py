"""A transformer built from `torch.nn.Transformer`, to be trained from scratch, and to learn from.

**What it computes.** Given a text (the source), it writes another one (the target), a token at a
time: what is the chance of each possible next token, given the source and what is written so far?
Texts come as numbers of tokens; a table of *embeddings* gives each token a vector of ``d_model``
numbers. All that follows turns these vectors into ones that know of each other.

**Attention.** A vector asks a question, the *query*; every vector it may look at has a *key*,
which says what it is about, and a *value*, which is what it tells. All three are linear functions
of vectors. The nearer a key is to the query (their product, divided by the root of their size, so
that it does not grow with it), the larger is the share of its value in the answer::

    answer = softmax(query @ keys.T / sqrt(size)) @ values

`nhead` of these go on side by side, each in a part of the vector of its own: one may look for the
month while another looks for the year. The encoder's vectors look at each other (self-attention).
The decoder's look at those before them, and then at the encoder's (cross-attention). After each
attention a small network of two linear layers works on every vector alone. Each of these steps
adds to the vector (a *residual*) what it makes of the normalised vector, so that a deep stack
learns as well as a shallow one.

**Positions.** Attention alone does not know order: exchange two tokens, and the answers are the
same, exchanged. So each vector gets the pattern of its place added: sines and cosines of many
wavelengths, as the hands of many clocks. The pattern of a place ``n`` further on is a fixed turn
of these hands, which is what lets a layer learn "the token before".

**Masks.** Two things must not be looked at. *Padding*: texts of several lengths share a batch,
filled up with a token that means nothing; the key padding mask hides it, so that a row's result
is the same alone and beside any other. *The future*: in training the decoder is given the right
target whole, and learns to tell every token of it at once; the causal mask lets each place see
what is before it alone, as it will be when there is nothing after it. Without it the model would
learn to copy its answer.

**Writing.** The decoder starts from one token and is asked for the next, over and over. Keys and
values of what is written, and those of the source in every layer, do not change any more: they
are kept (`EncoderDecoderCache`), so that a step computes one vector instead of all. *Greedy*
takes the likeliest token each time; a *beam* of k keeps the k likeliest beginnings, and is found
by transformers' own ``generate``, as greedy is: ``model.generate(input_ids, num_beams=4)``.

**The head** that gives each token its score is the table of embeddings again (*tied*): a token is
likely where the decoder's vector points to where the token stands. *Label smoothing*, in
training, asks for a little less than certainty, which keeps the scores from growing without end.

The names are those of `torch.nn.Transformer`, which holds all weights but the embeddings.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from pipeline.models.folder import SCRATCH


class ScratchConfig(PreTrainedConfig):  # type: ignore[misc]
    """The sizes of a `ScratchForConditionalGeneration`; see `torch.nn.Transformer` for theirs."""

    model_type = SCRATCH
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012
    # As transformers' caches ask for it.
    attribute_map = {"hidden_size": "d_model", "num_attention_heads": "nhead",  # noqa: RUF012
                     "num_hidden_layers": "num_decoder_layers"}  # fmt: skip

    vocab_size: int = 1000
    d_model: int = 128
    nhead: int = 4
    num_encoder_layers: int = 2
    num_decoder_layers: int = 2
    dim_feedforward: int = 256
    dropout: float = 0.1
    max_position_embeddings: int = 512
    is_encoder_decoder: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    bos_token_id: int | None = 2
    decoder_start_token_id: int | None = 2


def positions(count: int, size: int, *, first: int = 0, device: Any = None) -> Tensor:
    """The patterns of places, of shape [count, size]: sines and cosines in turn.

    Args:
        count: How many places.
        size: Numbers of each.
        first: The number of the first place.
        device: Where the tensor is made.
    """
    place = torch.arange(first, first + count, device=device, dtype=torch.float32)[:, None]
    # Wavelengths from 2 pi to 10,000 times that.
    speed = torch.exp(torch.arange(0, size, 2, device=device) * (-math.log(10_000.0) / size))
    return torch.stack([torch.sin(place * speed), torch.cos(place * speed)], dim=-1).flatten(1)


class ScratchForConditionalGeneration(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """An encoder and a decoder with one table of embeddings for all tokens."""

    config_class = ScratchConfig
    main_input_name = "input_ids"
    base_model_prefix = ""

    def __init__(self, config: ScratchConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        with warnings.catch_warnings():
            # Of a shortcut for padding that layers which normalise first can't take.
            warnings.filterwarnings("ignore", message="enable_nested_tensor")
            self.transformer = nn.Transformer(
                config.d_model, config.nhead, config.num_encoder_layers, config.num_decoder_layers,
                config.dim_feedforward, config.dropout, batch_first=True, norm_first=True,
            )  # fmt: skip
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        # So that embeddings, times the root of their size, are about as large as positions are.
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.d_model**-0.5)

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of embeddings."""
        return self.embeddings

    def get_encoder(self, modality: Any = None) -> Any:
        """What reads a source, as transformers' ``generate`` calls it: `_Reader`."""
        return _Reader(self)

    def embed(self, ids: Tensor, *, first: int = 0) -> Tensor:
        """Vectors of tokens at their places, of shape [rows, tokens, d_model].

        Args:
            ids: Of shape [rows, tokens].
            first: The place of the first token.
        """
        size = self.config.d_model
        places = positions(ids.shape[1], size, first=first, device=ids.device)
        vectors = self.embeddings(ids) * math.sqrt(size) + places.to(self.embeddings.weight.dtype)
        result: Tensor = self.dropout(vectors)
        return result

    def encode(self, ids: Tensor, padding: Tensor | None) -> Tensor:
        """What the encoder makes of sources, of shape [rows, tokens, d_model].

        Args:
            ids: Of shape [rows, tokens].
            padding: True where there is padding, of the same shape; None where there is none.
        """
        read: Tensor = self.transformer.encoder(self.embed(ids), src_key_padding_mask=padding)
        return read

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> Seq2SeqLMOutput:
        """Scores of the token that follows each place of the target.

        Args:
            input_ids: Sources, of shape [rows, tokens].
            attention_mask: 0 on their padding, of the same shape.
            decoder_input_ids: Targets so far, of shape [rows, written]; with a cache those tokens
                of them alone that are not in it.
            encoder_outputs: What the encoder gave, where it has read already.
            past_key_values: Keys and values of what is read and written, added to in place.
            use_cache: Whether to keep them where no cache is given.
            labels: Right targets, of shape [rows, written], -100 where nothing is asked.

        Returns:
            ``logits`` of shape [rows, written, vocabulary], and ``loss`` where there are labels.
        """
        padding = None
        if attention_mask is not None and not bool(attention_mask.all()):
            padding = attention_mask == 0
        if encoder_outputs is None:
            assert input_ids is not None
            encoder_outputs = BaseModelOutput(last_hidden_state=self.encode(input_ids, padding))
        memory = encoder_outputs[0]
        if decoder_input_ids is None:
            assert labels is not None
            decoder_input_ids = shifted(labels, self.config)
        if past_key_values is None and use_cache:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        if past_key_values is None:
            states = self._decode(decoder_input_ids, memory, padding)
        else:
            states = self._step(decoder_input_ids, memory, padding, past_key_values)
        logits = functional.linear(states, self.embeddings.weight)
        loss = None if labels is None else functional.cross_entropy(logits.mT, labels)
        return Seq2SeqLMOutput(
            loss=loss, logits=logits, past_key_values=past_key_values,
            encoder_last_hidden_state=memory,
        )  # fmt: skip

    def _decode(self, ids: Tensor, memory: Tensor, padding: Tensor | None) -> Tensor:
        """All places at once, by `torch.nn.Transformer` itself: the way of training."""
        future = nn.Transformer.generate_square_subsequent_mask(
            ids.shape[1], device=ids.device, dtype=memory.dtype
        )
        states: Tensor = self.transformer.decoder(
            self.embed(ids), memory, tgt_mask=future,
            memory_key_padding_mask=padding, tgt_is_causal=True,
        )  # fmt: skip
        return states

    def _step(
        self, ids: Tensor, memory: Tensor, padding: Tensor | None, cache: EncoderDecoderCache
    ) -> Tensor:
        """New places alone, with the layers' own weights: the way of writing.

        This is what `torch.nn.TransformerDecoderLayer` computes, but that keys and values of
        earlier places, and those of the source, come from the cache.
        """
        past = cache.get_seq_length()
        states = self.embed(ids, first=past)
        new = torch.arange(past, past + ids.shape[1], device=ids.device)
        # True where a place may look: at itself, and at what is before it.
        seen = torch.arange(past + ids.shape[1], device=ids.device) <= new[:, None]
        read = None if padding is None else ~padding[:, None, None]
        for at, layer in enumerate(self.transformer.decoder.layers):
            own, cross = layer.self_attn, layer.multihead_attn
            normed = layer.norm1(states)
            query, key, value = (_heads(own, part, normed) for part in range(3))
            key, value = cache.self_attention_cache.update(key, value, at)
            states = states + layer.dropout1(_attend(own, query, key, value, seen))
            query = _heads(cross, 0, layer.norm2(states))
            if cache.is_updated.get(at):
                held = cache.cross_attention_cache.layers[at]
                key, value = held.keys, held.values
            else:
                key, value = (_heads(cross, part, memory) for part in (1, 2))
                key, value = cache.cross_attention_cache.update(key, value, at)
                cache.is_updated[at] = True
            states = states + layer.dropout2(_attend(cross, query, key, value, read))
            fed = layer.linear2(layer.dropout(layer.activation(layer.linear1(layer.norm3(states)))))
            states = states + layer.dropout3(fed)
        result: Tensor = self.transformer.decoder.norm(states)
        return result


def _heads(attention: nn.MultiheadAttention, part: int, states: Tensor) -> Tensor:
    """Queries (part 0), keys (1) or values (2), of shape [rows, heads, tokens, size]."""
    weight, bias = attention.in_proj_weight.chunk(3)[part], attention.in_proj_bias.chunk(3)[part]
    made = functional.linear(states, weight, bias)
    return made.view(*made.shape[:2], attention.num_heads, -1).transpose(1, 2)


def _attend(
    attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, seen: Any
) -> Tensor:
    """The heads' answers, joined: of shape [rows, tokens, d_model]."""
    found = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
    joined: Tensor = attention.out_proj(found.transpose(1, 2).flatten(2))
    return joined


def shifted(labels: Tensor, config: ScratchConfig) -> Tensor:
    """What the decoder is given to learn targets: the start token, then all of each but its last.

    Args:
        labels: Of shape [rows, tokens], -100 on padding.
        config: Of the model.
    """
    start = torch.full_like(labels[:, :1], int(config.decoder_start_token_id or 0))
    before = labels[:, :-1].masked_fill(labels[:, :-1] < 0, int(config.pad_token_id or 0))
    return torch.cat([start, before], dim=1)


class _Reader:
    """The encoder as transformers' ``generate`` calls it."""

    def __init__(self, model: ScratchForConditionalGeneration) -> None:
        self._model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> BaseModelOutput:
        """Reads sources, of shape [rows, tokens]."""
        padding = None if attention_mask is None else attention_mask == 0
        return BaseModelOutput(last_hidden_state=self._model.encode(input_ids, padding))

    __call__ = forward
