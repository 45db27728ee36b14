"""The last layer of a classifier, computed for the first token alone.

A classification head of BERT's kind reads the first token and no other, so that of the last layer
most work can be left out. Keys and values need not be computed, either: with one query q per head,
q · (W t + b) differs from (qᵀW) · t by the same for all tokens t, which softmax does not see, and
the weighted mean of values is the value of the weighted mean. The result is the same.

Over packed texts on a GPU, keys and values of all tokens are what the kernel takes; the query, and
all that comes after attention, is left out for all tokens but the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.models.torch.packed_attention import Borders, attend

# How a transformers class begins -> how that of its layers does. Each was compared with the whole
# layer; another architecture may read more than the first token, so it is not guessed at.
LAYERS = {
    "Bert": "BertLayer",
    "Camembert": "CamembertLayer",
    "DistilBert": "TransformerBlock",
    "Roberta": "RobertaLayer",
    "XLMRoberta": "XLMRobertaLayer",
}
HEAD = "ForSequenceClassification"
# As BERT calls them, and as DistilBERT does.
PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"))


def shorten(module: Any) -> bool:
    """Exchanges the last layer of a classifier for one that computes the first token alone.

    Args:
        module: A transformers model in evaluation mode; changed in place.

    Returns:
        Whether the model is of a kind that this is known to be the same for.
    """
    return _exchange_last(module, _first_token_layer)


def shorten_packed(twin: Any) -> bool:
    """The same for a module that computes packed texts.

    Args:
        twin: Changed in place.

    Returns:
        Whether it gives vectors of the texts' first tokens now, of shape [1, texts, dim].
    """
    return _exchange_last(twin, _packed_layer)


def _exchange_last(module: Any, make: Callable[[Any], Any]) -> bool:
    layers = _layers(module)
    if layers is None:
        return False
    layers[-1] = make(layers[-1])
    return True


def _layers(module: Any) -> Any:
    """The layers of a classifier whose last one nobody reads but for the first token."""
    kind, config = type(module), module.config
    layer_name = LAYERS.get(kind.__name__.removesuffix(HEAD))
    if (
        layer_name is None
        or not kind.__name__.endswith(HEAD)
        or not kind.__module__.startswith("transformers.models.")
        or getattr(config, "is_decoder", False)
        or getattr(config, "chunk_size_feed_forward", 0)
    ):
        return None
    layers = getattr(module.base_model, "encoder", getattr(module.base_model, "transformer", None))
    layers = getattr(layers, "layer", None)
    return layers if layers and type(layers[-1]).__name__ == layer_name else None


def _parts(layer: Any) -> tuple[Any, tuple[str, str, str]]:
    """Its attention, and what that calls query, key and value."""
    attention = getattr(layer.attention, "self", layer.attention)
    return attention, PROJECTIONS[hasattr(attention, "q_lin")]


def _first_token_layer(layer: Any) -> Any:
    import torch

    attention, names = _parts(layer)
    key, value = (getattr(attention, name) for name in names[1:])
    size = attention.attention_head_size

    class FirstTokenLayer(torch.nn.Module):
        """[texts, tokens, dim] -> [texts, 1, dim]."""

        for_one_token = True
        key: Any
        value: Any

        def __init__(self) -> None:
            super().__init__()
            self.layer = layer
            # [heads, size, dim] and [heads, dim, size]
            self.register_buffer("key", key.weight.detach().unflatten(0, (-1, size)))
            by_head = value.weight.detach().unflatten(0, (-1, size))
            self.register_buffer("value", by_head.transpose(1, 2).contiguous())
            self.bias = value.bias

        def forward(
            self, hidden_states: Any, attention_mask: Any = None, *_: Any, **__: Any
        ) -> Any:
            first = hidden_states[:, :1]
            query = getattr(attention, names[0])(first).unflatten(-1, (-1, size))
            # What each head looks for, in terms of the tokens themselves: [texts, 1, heads, dim]
            sought = torch.bmm(query.squeeze(1).transpose(0, 1), self.key)
            tokens = hidden_states.unsqueeze(1)
            found = torch.nn.functional.scaled_dot_product_attention(
                sought.transpose(0, 1).unsqueeze(1),
                tokens,
                tokens,
                attn_mask=None if attention_mask is None else attention_mask[..., :1, :],
                scale=attention.scaling,
            )
            found = torch.bmm(found.squeeze(1).transpose(0, 1), self.value)
            found = found.transpose(0, 1).flatten(1).unsqueeze(1)
            return _rest(self.layer, found if self.bias is None else found + self.bias, first)

    made = FirstTokenLayer().eval()
    for name in names[1:]:
        delattr(attention, name)
    return made


def _packed_layer(layer: Any) -> Any:
    import torch

    attention, names = _parts(layer)
    size = attention.attention_head_size

    class PackedLayer(torch.nn.Module):
        """[1, tokens, dim] -> [1, texts, dim]."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(
            self, hidden_states: Any, attention_mask: Any = None, *_: Any, **given: Any
        ) -> Any:
            texts = Borders(given["cu_seq_lens_q"], given["max_length_q"])
            places = torch.arange(len(texts.places), dtype=torch.int32, device=texts.places.device)
            first = hidden_states[:, texts.places[:-1].long()]
            query, key, value = (
                getattr(attention, name)(states).unflatten(-1, (-1, size)).transpose(1, 2)
                for name, states in zip(names, (first, hidden_states, hidden_states), strict=True)
            )
            found = attend(
                query, key, value, asking=Borders(places, 1), texts=texts, scale=attention.scaling
            )
            return _rest(self.layer, found.flatten(2), first)

    return PackedLayer().eval()


def _rest(layer: Any, found: Any, first: Any) -> Any:
    """What the layer does after attention, by its own modules."""
    attention = layer.attention
    if hasattr(attention, "q_lin"):
        states = layer.sa_layer_norm(attention.out_lin(found) + first)
        return layer.output_layer_norm(layer.ffn(states) + states)
    return layer.feed_forward_chunk(attention.output(found, first))
