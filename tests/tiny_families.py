"""A random model of some kilobytes of any architecture that transformers has, with a tokenizer.

Configs are made from their own classes: what says how large a model is is made small by its name,
so that no architecture needs a hand-made one, but for those whose numbers have to fit each other.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

MAPPINGS: Mapping[str, Mapping[str, Any]] = {
    "sequence-classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token-classification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "question-answering": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "encoder": modeling_auto.MODEL_MAPPING_NAMES,
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
}
# <pad> is what configs name. The tokenizer says another token, as some published models have it.
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<fill>", "<mask>")
WORDS = tuple(f"w{i}" for i in range(93))
VOCABULARY = len(SPECIAL) + len(WORDS)
LENGTH = 64
MOST_PARAMETERS = 2_000_000  # more is not text alone, or was not made small

_SMALL = {
    16: "moe_intermediate_size shared_expert_intermediate_size bottleneck_size projection_size "
    "moe_shared_expert_intermediate_size",
    32: "hidden_size d_model dim n_embd emb_dim embed_dim embedding_size true_hidden_size "
    "word_embed_proj_dim intra_bottleneck_size entity_emb_size",
    40: "intermediate_size ffn_hidden_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff d_inner "
    "n_inner hidden_dim dff inner_dim",
    LENGTH: "max_position_embeddings n_positions n_ctx max_seq_len max_encoder_position_embeddings "
    "max_decoder_position_embeddings",
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers "
    "num_decoder_layers num_encoder_layers num_key_value_heads type_vocab_size "
    "num_experts_per_tok top_k_experts block_size",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads "
    "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads num_experts "
    "num_local_experts n_routed_experts qk_rope_head_dim qk_nope_head_dim rotary_dim",
    8: "head_dim kv_channels d_kv q_lora_rank kv_lora_rank v_head_dim qk_head_dim sliding_window "
    "local_attention attention_window mamba_d_state state_size mamba_d_head mamba_n_heads "
    "linear_key_head_dim linear_value_head_dim attention_head_size",
    1: "n_group topk_group n_shared_experts num_random_blocks first_k_dense_replace n_groups "
    "num_shared_experts mamba_n_groups bos_token_id cls_token_id decoder_start_token_id",
    VOCABULARY: "vocab_size entity_vocab_size",
    0: "pad_token_id",
}
_SIZES = {name: size for size, names in _SMALL.items() for name in names.split()}
_SIZES |= {"eos_token_id": 2, "sep_token_id": 2, "mask_token_id": 5}
_SPREADS = {"initializer_range": 0.2, "init_std": 0.2, "embed_init_std": 0.2}
# Numbers that have to fit each other.
_LATENT = {"head_dim": 4, "num_key_value_heads": 4}
_OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "minicpm3", "mistral4"), _LATENT
    ),
    **dict.fromkeys(("glm4_moe_lite", "glm_moe_dsa", "deepseek_v32", "youtu"), _LATENT),
    "bamba": {"attn_layer_indices": [1]},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma4_text": {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "esmc": {"num_key_value_heads": 4},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "mamba2": {"num_heads": 8},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "full_attention", "moe"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "zaya": {"num_experts_per_tok": 1},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
}


def config(name: str, **more: Any) -> Any:
    """A small config of an architecture."""
    kind = CONFIG_MAPPING[name]
    made = kind()
    small = _shrunk(made.to_dict()) | _OWN.get(name, {})
    for part in kind.sub_configs or {}:
        inner = getattr(made, part, None)
        if hasattr(inner, "to_dict"):
            own = _OWN.get(inner.model_type, {})
            small[part] = {"model_type": inner.model_type, **_shrunk(inner.to_dict()), **own}
    return kind(**small | more)


def _shrunk(base: Mapping[str, Any]) -> dict[str, Any]:
    """What is made small of a config."""
    small: dict[str, Any] = {
        name: size
        for name, size in (_SIZES | _SPREADS).items()
        if name in base and not isinstance(base[name], (list, tuple, dict))
    }
    if base.get("type_vocab_size") in (0, 1):  # RoBERTa's kind has one type, DeBERTa none
        del small["type_vocab_size"]
    if base.get("sliding_window") is None:
        small.pop("sliding_window", None)
    if isinstance(base.get("layer_types"), (list, tuple)):
        kinds = list(dict.fromkeys(base["layer_types"]))
        layers = max(2, len(kinds))
        small["layer_types"] = (kinds * 2)[:layers]
        small["num_hidden_layers"] = layers
    return small


def module(head: str, name: str, made: Any) -> Any:
    """A random model with a head; the same each time.

    Raises:
        ValueError: It would not be small.
    """
    kind = MAPPINGS[head][name]
    kind = getattr(transformers, kind if isinstance(kind, str) else kind[0])
    if not isinstance(made, kind.config_class):  # the text part of what reads more than text
        made = made.get_text_config()
    with torch.device("meta"):
        size = sum(weight.numel() for weight in kind(made).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{kind.__name__} would have {size} parameters")
    torch.manual_seed(0)
    return kind(made).eval()


def tokenizer(single: str = "", pair: str = "", *, length: int = LENGTH) -> Any:
    """A word a token.

    Args:
        single: The template of one text, without special tokens if empty.
        pair: The template of two.
        length: The most tokens of a sequence.
    """
    vocabulary = {word: at for at, word in enumerate((*SPECIAL, *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if single:
        special = [(word, vocabulary[word]) for word in SPECIAL]
        made.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=special
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        pad_token="<fill>",
        cls_token="<s>",
        sep_token="</s>",
        model_max_length=length,
    )


def entries(head: str) -> Iterator[str]:
    """The architectures that transformers has that head of, by ``model_type``."""
    return iter(MAPPINGS[head])
