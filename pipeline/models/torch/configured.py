"""What a model's own generation config asks of writing, for rows that are at different steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.models.torch.rules import Live

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
# What of a generation config is known here; with anything else, `generate` writes.
HEARD = frozenset(
    (
        "bad_words_ids",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "min_length",
        "min_new_tokens",
        "no_repeat_ngram_size",
        "repetition_penalty",
        "suppress_tokens",
    )
)
# The same for decoders, whose processors see the prompt too; the others count from its start.
HEARD_AFTER_PROMPTS = frozenset(
    ("bad_words_ids", "no_repeat_ngram_size", "repetition_penalty", "suppress_tokens")
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


class AsConfigured:
    """A rule: what a model's config asks for, by transformers' own processors.

    Args:
        asked: Of the config, by name; each among `HEARD`.
        before: By row, the tokens that it goes on from, which count as written to these
            processors: a decoder's prompt, or what an encoder-decoder starts with.
        most: The most tokens that are written.
        ends: The tokens that end a row.
    """

    def __init__(
        self,
        asked: Mapping[str, Any],
        *,
        before: Callable[[int], np.ndarray],
        most: int,
        ends: int | Sequence[int] | None,
    ) -> None:
        self.before = before
        self._processors = _processors(asked, most=most, ends=ends)

    def __call__(self, live: Live, scores: Any) -> Any:
        """Scores of shape [live, vocabulary] -> the same, changed."""
        import torch

        wrote = zip(live.rows.tolist(), live.written, live.steps, strict=True)
        seen = [np.concatenate([self.before(row), ids[:step]]) for row, ids, step in wrote]
        lengths = np.array([len(ids) for ids in seen])
        for length in np.unique(lengths):
            at = np.flatnonzero(lengths == length)
            placed = torch.from_numpy(np.stack([seen[row] for row in at])).to(scores.device)
            some = scores if len(at) == len(scores) else scores[at]
            for processor in self._processors:
                some = processor(placed, some)
            if len(at) == len(scores):
                return some
            scores[at] = some
        return scores


def _processors(
    asked: Mapping[str, Any], *, most: int, ends: int | Sequence[int] | None
) -> list[Any]:
    """In the order of `generate`."""
    import torch
    from transformers.generation import logits_process as known

    found: list[Any] = []
    if penalty := asked.get("repetition_penalty"):
        found.append(known.RepetitionPenaltyLogitsProcessor(penalty))
    if size := asked.get("no_repeat_ngram_size"):
        found.append(known.NoRepeatNGramLogitsProcessor(size))
    if words := asked.get("bad_words_ids"):
        found.append(known.NoBadWordsLogitsProcessor(words, ends))
    if ends is not None:
        end = torch.tensor([ends] if isinstance(ends, int) else list(ends))
        fewest = asked.get("min_new_tokens")
        # Tokens before the first one that is written count into the one, not into the other.
        if length := asked.get("min_length") if fewest is None else fewest + 1:
            found.append(known.MinLengthLogitsProcessor(length, end))
    if (first := asked.get("forced_bos_token_id")) is not None:
        found.append(known.ForcedBOSTokenLogitsProcessor(first))
    if (last := asked.get("forced_eos_token_id")) is not None:
        found.append(known.ForcedEOSTokenLogitsProcessor(most + 1, last))
    if tokens := asked.get("suppress_tokens"):
        found.append(known.SuppressTokensLogitsProcessor(tokens))
    return found
