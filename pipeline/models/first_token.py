"""The last layer of a classifier, computed for the first token alone.

A classification head of BERT's kind reads the first token and no other, so of the last layer only
the keys and values are needed for all tokens: the rest, most of its work, is left out. The result
is the same.
"""

from __future__ import annotations

from typing import Any

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
    kind, config = type(module), module.config
    layer_name = LAYERS.get(kind.__name__.removesuffix(HEAD))
    if (
        layer_name is None
        or not kind.__name__.endswith(HEAD)
        or not kind.__module__.startswith("transformers.models.")
        or getattr(config, "is_decoder", False)
        or getattr(config, "chunk_size_feed_forward", 0)
    ):
        return False
    layers = getattr(module.base_model, "encoder", getattr(module.base_model, "transformer", None))
    layers = getattr(layers, "layer", None)
    if not layers or type(layers[-1]).__name__ != layer_name:
        return False
    layers[-1] = _first_token_layer(layers[-1])
    return True


def _first_token_layer(layer: Any) -> Any:
    import torch

    class FirstTokenLayer(torch.nn.Module):
        """[texts, tokens, dim] -> [texts, 1, dim]."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(
            self, hidden_states: Any, attention_mask: Any = None, *_: Any, **__: Any
        ) -> Any:
            first = hidden_states[:, :1]
            attention = getattr(self.layer.attention, "self", self.layer.attention)
            query, key, value = (
                getattr(attention, name)(states)
                .unflatten(-1, (-1, attention.attention_head_size))
                .transpose(1, 2)
                for name, states in zip(
                    PROJECTIONS[hasattr(attention, "q_lin")],
                    (first, hidden_states, hidden_states),
                    strict=True,
                )
            )
            mask = None if attention_mask is None else attention_mask[..., :1, :]
            found = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, scale=attention.scaling
            )
            return _rest(self.layer, found.transpose(1, 2).flatten(-2), first)

    return FirstTokenLayer().eval()


def _rest(layer: Any, found: Any, first: Any) -> Any:
    """What the layer does after attention, by its own modules."""
    attention = layer.attention
    if hasattr(attention, "q_lin"):
        states = layer.sa_layer_norm(attention.out_lin(found) + first)
        return layer.output_layer_norm(layer.ffn(states) + states)
    return layer.feed_forward_chunk(attention.output(found, first))
