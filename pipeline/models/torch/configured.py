"""What a model's own generation config asks of writing."""

from __future__ import annotations

from typing import Any

# What says nothing of greedy writing: tokens that are known to us, what jobs decide (how long, how
# drawn, by how many beams), and what `generate` gives back beside the tokens.
UNHEARD = frozenset(
    {
        "_from_model_config",
        "_commit_hash",
        "bos_token_id",
        "decoder_start_token_id",
        "do_sample",
        "early_stopping",
        "eos_token_id",
        "epsilon_cutoff",
        "eta_cutoff",
        "length_penalty",
        "max_length",
        "max_new_tokens",
        "min_p",
        "num_beams",
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "pad_token_id",
        "return_dict_in_generate",
        "temperature",
        "top_h",
        "top_k",
        "top_p",
        "transformers_version",
        "typical_p",
        "use_cache",
    }
)
# Numbers that change nothing.
NEUTRAL = {
    "diversity_penalty": 0.0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "guidance_scale": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "repetition_penalty": 1.0,
}


def asked_for(config: Any) -> dict[str, Any]:
    """What a generation config asks for beside the likeliest token each time.

    Args:
        config: transformers' `GenerationConfig`.
    """
    return {
        name: value
        for name, value in config.to_diff_dict().items()
        if name not in UNHEARD and value is not None and value != NEUTRAL.get(name)
    }
