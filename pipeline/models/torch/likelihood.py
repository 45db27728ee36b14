"""How likely given answers are after prompts, with a decoder of transformers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.models.batching import Sequences
from pipeline.models.inference import Inference
from pipeline.models.torch.heads import TorchHead
from pipeline.models.torch.model import Model


class TorchAnswerScorer(TorchHead):
    """Weighs given answers after prompts."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        known = inspect.signature(model.module.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        self._wants_positions = "position_ids" in known

    def log_likelihoods(
        self, prompts: Sequences, answers: Sequence[Sequence[int]]
    ) -> Inference[np.ndarray]:
        """Weighs each answer after each prompt."""
        return self.model.infer(
            prompts,
            lambda ids, mask: self._weigh(ids, mask, answers),
            left_padded=True,
            extra_tokens=max(map(len, answers)) - 1,
        )

    def _weigh(self, ids: Any, mask: Any, answers: Sequence[Sequence[int]]) -> Any:
        """The prompt once for all answers; what follows an answer's first token from its cache."""
        import torch

        deep = max(map(len, answers)) > 1
        if mask is None:
            mask = torch.ones_like(ids)
        out = self._run(ids, mask, use_cache=deep, **self._last_only)
        next_token = out.logits[:, -1].float().log_softmax(dim=-1)
        total = next_token[:, [answer[0] for answer in answers]]
        cache = out.past_key_values if deep else None
        for at, answer in enumerate(answers):
            if len(answer) > 1:
                total[:, at] += self._rest(ids, mask, cache, answer)
        return total.cpu().numpy()

    def _rest(self, ids: Any, mask: Any, cache: Any, answer: Sequence[int]) -> Any:
        """Log-likelihood of an answer's tokens but the first, of shape [rows]."""
        import torch

        given = torch.tensor(answer[:-1], device=ids.device).expand(len(ids), -1)
        expected = torch.tensor(answer[1:], device=ids.device)
        count = len(expected)
        longer = torch.cat([mask, torch.ones_like(given)], dim=1)
        if _is_plain(cache):
            out = self._run(given, longer, past_key_values=cache, use_cache=True)
            cache.crop(-count)
        else:
            # A cache of a sliding window or a state can't be taken back to where it was.
            out = self._run(torch.cat([ids, given], dim=1), longer, use_cache=False)
        steps = out.logits[:, -count:].float().log_softmax(dim=-1)
        return steps.gather(2, expected.expand(len(ids), -1).unsqueeze(2)).sum(dim=(1, 2))

    def _run(self, ids: Any, mask: Any, **extra: Any) -> Any:
        if self._wants_positions:
            # Padding is on the left: positions count from the first real token.
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            extra["position_ids"] = positions[:, -ids.shape[1] :]
        return self.model.module(input_ids=ids, attention_mask=mask, **extra)


def _is_plain(cache: Any) -> bool:
    """Whether a cache is keys and values of all tokens, which can be cropped."""
    layers = getattr(cache, "layers", ())
    return bool(layers) and all(type(layer).__name__ == "DynamicLayer" for layer in layers)
