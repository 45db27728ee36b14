"""The decoders of encoder-decoders, layer by layer: a token of each row, at a step of its own.

transformers' decoders take rows that are all at one step. The weights, norms and activations are
their own modules; what is written out here is the order in which they are called, known for the
families of a table, each of which was compared with `generate`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.models.torch.linear import laid_out

# config.model_type -> what of the decoders of BART's kind is not the same.
NORM_FIRST = frozenset(["blenderbot", "m2m_100", "mbart", "pegasus"])
NORM_LAST = frozenset(["bart", "blenderbot-small", "marian", "plbart"])
BART_KIND = NORM_FIRST | NORM_LAST
T5_KIND = frozenset(["mt5", "t5"])
# BART's kind of positions begin with two that nothing stands at, or with the padding token's.
SKIPPED_POSITIONS = frozenset(["bart", "mbart", "plbart"])
# The vectors of tokens are normalised before positions are added to them, not after.
NORMED_BEFORE_POSITIONS = frozenset({"blenderbot-small"})


@dataclass(frozen=True)
class Attention:
    """The parts of an attention.

    Attributes:
        query, key, value, out: Linear layers.
        heads: How many.
        size: Of a head.
        scale: Of the scores.
    """

    query: Any
    key: Any
    value: Any
    out: Any
    heads: int
    size: int
    scale: float

    def split(self, states: Any) -> Any:
        """Of shape [..., tokens, dim] -> [..., heads, tokens, size]."""
        return states.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


@dataclass(frozen=True)
class Layer:
    """A layer of a decoder.

    Attributes:
        own: Its attention to what the row has written.
        cross: Its attention to what the row was given.
        feed: The rest of it.
        norms: Of the three.
    """

    own: Attention
    cross: Attention
    feed: Callable[[Any], Any]
    norms: tuple[Any, Any, Any]


@dataclass(frozen=True)
class Decoder:
    """What is called one after the other.

    Attributes:
        embed: Tokens and their positions, int64 of shape [rows], -> vectors of shape [rows, dim].
        layers: From the first to the last.
        norm_first: Whether a norm is of what goes into its part of the layer, or of the sum of that
            and what comes out.
        scores: Vectors of shape [rows, dim] -> scores of shape [rows, vocabulary].
        distances: A number of tokens -> what is added to scores of attention to the token that
            stands that many before, of shape [heads, tokens]; None where positions are in the
            vectors.
    """

    embed: Callable[[Any, Any], Any]
    layers: tuple[Layer, ...]
    norm_first: bool
    scores: Callable[[Any], Any]
    distances: Callable[[int], Any] | None = None

    def around(self, norm: Any, part: Callable[[Any], Any], states: Any) -> Any:
        """A part of a layer, with its norm and what goes past it."""
        if self.norm_first:
            return states + part(norm(states))
        return norm(states + part(states))


def decoder_of(module: Any) -> Decoder | None:
    """The decoder of an encoder-decoder; None where the family is not known.

    Args:
        module: Of transformers, in evaluation mode, on its device.
    """
    kind = getattr(module.config, "model_type", None)
    if not type(module).__module__.startswith("transformers.models."):
        return None
    if kind in BART_KIND:
        return _bart(module, kind)
    # In float16, T5's layers look for numbers that grew too large.
    if kind in T5_KIND and str(module.dtype) != "torch.float16":
        return _t5(module)
    return None


def _bart(module: Any, kind: str) -> Decoder:
    decoder = module.get_decoder()
    head, bias = laid_out(module.get_output_embeddings()), _bias(module)
    norm = getattr(decoder, "layernorm_embedding", None) or _same
    last = getattr(decoder, "layer_norm", None) or _same
    # Some embeddings scale by themselves.
    scale = getattr(decoder, "embed_scale", 1.0)
    before = kind in NORMED_BEFORE_POSITIONS

    def embed(tokens: Any, positions: Any) -> Any:
        vectors = decoder.embed_tokens(tokens) * scale
        places = _positions(decoder.embed_positions, tokens, positions, kind)
        return norm(vectors) + places if before else norm(vectors + places)

    def scores(states: Any) -> Any:
        found = head(last(states))
        return found if bias is None else found + bias

    return Decoder(
        embed,
        tuple(_bart_layer(layer) for layer in decoder.layers),
        norm_first=kind in NORM_FIRST,
        scores=scores,
    )


def _bias(module: Any) -> Any:
    """What is added to scores; None where it is nothing, as most often."""
    bias = getattr(module, "final_logits_bias", None)
    return bias if bias is not None and bool(bias.any()) else None


def _same(states: Any) -> Any:
    return states


def _positions(table: Any, tokens: Any, positions: Any, kind: str) -> Any:
    import torch

    if kind != "m2m_100":
        skipped = 2 if kind in SKIPPED_POSITIONS else 0
        return torch.nn.functional.embedding(positions + skipped, table.weight)
    # A padding token stands nowhere; the table grows when it is asked for more.
    padding, most = table.padding_idx, int(positions.max()) + table.padding_idx + 2
    if most > table.weights.shape[0]:
        table.make_weights(most + table.offset, table.embedding_dim, padding)
    places = torch.where(tokens == padding, padding, positions + padding + 1)
    return table.weights.index_select(0, places)


def _bart_layer(layer: Any) -> Layer:
    def attention(of: Any) -> Attention:
        parts = (of.q_proj, of.k_proj, of.v_proj, of.out_proj)
        return Attention(*parts, of.num_heads, of.head_dim, of.scaling)

    def feed(states: Any) -> Any:
        return layer.fc2(layer.activation_fn(layer.fc1(states)))

    norms = (layer.self_attn_layer_norm, layer.encoder_attn_layer_norm, layer.final_layer_norm)
    return Layer(attention(layer.self_attn), attention(layer.encoder_attn), feed, norms)


def _t5(module: Any) -> Decoder:
    decoder = module.get_decoder()
    head, config = laid_out(module.get_output_embeddings()), module.config
    factor = config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else None
    first = decoder.block[0].layer[0].SelfAttention

    def embed(tokens: Any, positions: Any) -> Any:
        return decoder.embed_tokens(tokens)

    def scores(states: Any) -> Any:
        states = decoder.final_layer_norm(states)
        return head(states if factor is None else states * factor)

    def distances(tokens: int) -> Any:
        last = first.compute_bias(1, tokens, past_seen_tokens=tokens - 1)
        return last[0, :, 0].flip(-1)

    return Decoder(
        embed,
        tuple(_t5_layer(block.layer) for block in decoder.block),
        norm_first=True,
        scores=scores,
        distances=distances,
    )


def _t5_layer(parts: Any) -> Layer:
    def attention(of: Any) -> Attention:
        return Attention(of.q, of.k, of.v, of.o, of.n_heads, of.key_value_proj_dim, 1.0)

    return Layer(
        attention(parts[0].SelfAttention),
        attention(parts[1].EncDecAttention),
        parts[2].DenseReluDense,
        (parts[0].layer_norm, parts[1].layer_norm, parts[2].layer_norm),
    )
