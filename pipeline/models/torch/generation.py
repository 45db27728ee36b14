"""The one place that writes text with a model: greedily or sampled, free or held to a schema.

Decoding is transformers' `generate`, so that a row gets token for token what ``model.generate``
gives for it alone, with ``do_sample=False, num_beams=1``; whatever else the model's own generation
config says (a forced first token, no repeated n-grams) holds. Arithmetic on another shape of batch
differs in the last bits of float32, which shows only where two tokens are that near to a tie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.errors import JobError, RowError
from pipeline.models.batching import Sequences
from pipeline.models.text.prompts import Frame, Prompts
from pipeline.models.torch.grammar import Grammar
from pipeline.models.torch.model import Model
from pipeline.models.torch.sampling import Sampling
from pipeline.models.torch.stopping import Beat, StopStrings, cut_at

# Decoding reads all weights for one token per row, so generation gains from more rows than
# encoding does: budgets count this many times the model's own.
BUDGET_FACTOR = 4
# How many positions a decoder has, where they are counted at all (T5's are relative).
DECODER_LIMITS = ("max_position_embeddings", "max_decoder_position_embeddings")


@dataclass(frozen=True)
class Text:
    """What a model wrote for one prompt.

    Attributes:
        text: White space around it is stripped, as is all from the first stop string on.
        ids: The tokens that it wrote, without the end token and a forced first one.
        complete: Whether it ended by itself or at a stop string, not at the limit of tokens.
    """

    text: str
    ids: tuple[int, ...]
    complete: bool

    @property
    def tokens(self) -> int:
        """How many tokens it wrote."""
        return len(self.ids)


@dataclass
class Writing:
    """What a model wrote, in the order of the prompts.

    Attributes:
        texts: One per prompt; None where it failed.
        failures: Why, by prompt.
        tokens: Tokens read and written, padding not counted.
        padded_tokens: Tokens read, with padding.
    """

    texts: list[Text | None]
    failures: dict[int, RowError] = field(default_factory=dict)
    tokens: int = 0
    padded_tokens: int = 0


class Writer:
    """Writes with a loaded model.

    Args:
        model: With the head ``causal`` or ``seq2seq``.
        frame: What stands around each text in a prompt.
        max_new_tokens: The most tokens to write.
        language: ISO 639 code by which long texts are cut into sentences.
        stops: Strings that end a text.
        sampling: How tokens are drawn; the likeliest each time if None.
        schema: A JSON Schema that what is written must follow.
        forced: Further arguments of `generate`, such as ``forced_bos_token_id``.

    Attributes:
        prompts: Lays texts out.

    Raises:
        JobError: The model can't write so much, or has no room left for a text.
    """

    def __init__(
        self,
        model: Model,
        frame: Frame,
        *,
        max_new_tokens: int,
        language: str = "en",
        stops: Sequence[str] = (),
        sampling: Sampling | None = None,
        schema: Mapping[str, Any] | None = None,
        forced: Mapping[str, int] | None = None,
    ) -> None:
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.stops = tuple(stops)
        self.sampling = sampling
        self.decodes_alone = decodes_alone(model)
        self.forced = dict(forced or {})
        most = most_new_tokens(model)
        if most is not None and max_new_tokens > most:
            raise JobError(
                f"max_new_tokens is {max_new_tokens}, but the model writes at most {most}",
                hint=f"Set max_new_tokens to at most {most}",
            )
        self.prompts = Prompts(
            model, frame, reserve=max_new_tokens if self.decodes_alone else 0, language=language
        )
        if self.prompts.room < 1:
            raise JobError(
                f"max_new_tokens {max_new_tokens} and the instruction leave no room for a text: "
                f"the model takes {model.max_tokens} tokens",
                hint="Lower max_new_tokens, or shorten the instruction",
            )
        self._ends = end_tokens(model)
        self._grammar = None if schema is None else Grammar(model, schema, ends=sorted(self._ends))

    def write(self, prompts: Sequence[np.ndarray]) -> Writing:
        """Writes one text per prompt.

        Args:
            prompts: Token ids, special tokens included, each of at most ``prompts.limit``.
        """
        ended = 0

        def forward(ids: Any, mask: Any) -> list[Text]:
            nonlocal ended
            # A batch may take longer than a worker may stand still, so steps are reported too.
            beat = Beat(
                lambda share: self.model.device.report(
                    min(1.0, (ended + share * len(ids)) / len(prompts))
                ),
                steps=self.max_new_tokens,
            )
            texts = self._generate(ids, mask, beat)
            ended += len(ids)
            return texts

        inference = self.model.infer(
            _sequences(prompts),
            forward,
            left_padded=self.decodes_alone,
            extra_tokens=self.max_new_tokens,
            budget_factor=BUDGET_FACTOR,
        )
        written = sum(text.tokens for text in inference.results if text is not None)
        return Writing(
            inference.results,
            inference.failures,
            tokens=inference.tokens + written,
            padded_tokens=inference.padded_tokens,
        )

    def _generate(self, ids: Any, mask: Any, beat: Beat) -> list[Text]:
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        # A decoder gives back its prompt; an encoder-decoder starts with one start token.
        start = ids.shape[1] if self.decodes_alone else 1
        mask = torch.ones_like(ids) if mask is None else mask
        steps: list[Any] = []
        if self._grammar is not None:
            steps.append(self._grammar.mask(len(ids), start=start))
        if self.sampling is not None:
            steps += self.sampling.processors(ids, mask, start=start)
        stopping = (
            [StopStrings(self.stops, self.model.tokenizer, start=start)] if self.stops else []
        )
        out = self.model.module.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self.model.pad_id,
            logits_processor=LogitsProcessorList(steps),
            stopping_criteria=StoppingCriteriaList([beat, *stopping]),
            **self._own_stops(),
            **self.forced,
        )
        stopped = stopping[0].ended if stopping else {}
        return [self._text(row, stopped.get(at)) for at, row in enumerate(out[:, start:].tolist())]

    def _own_stops(self) -> dict[str, Any]:
        """The model's generation config may name stop strings, which need the tokenizer."""
        named = getattr(self.model.module.generation_config, "stop_strings", None)
        return {"tokenizer": self.model.tokenizer} if named else {}

    def _text(self, row: list[int], stopped: int | None) -> Text:
        written = until_end(row[:stopped], self._ends)
        complete = len(written) < len(row) or stopped is not None
        config = self.model.module.generation_config
        if config.forced_eos_token_id is not None and len(written) >= self.max_new_tokens - 1:
            complete = False  # the end token was put there for want of room
        first = self.forced.get("forced_bos_token_id", config.forced_bos_token_id)
        if first is not None and written[:1] == [first]:
            written = written[1:]
        text = self.model.tokenizer.decode(written, skip_special_tokens=True)
        stops = (*self.stops, *(config.stop_strings or ()))
        complete = complete or any(stop in text for stop in stops)
        return Text(cut_at(text, self.stops).strip(), tuple(written), complete)


def _sequences(prompts: Sequence[np.ndarray]) -> Sequences:
    ends = np.cumsum([len(prompt) for prompt in prompts], dtype=np.int64)
    ids = np.concatenate([np.zeros(0, dtype=np.int64), *prompts])
    return Sequences(ids, np.concatenate([[0], ends])[:-1], ends)


def decodes_alone(model: Model) -> bool:
    """Whether the model is a decoder only, which reads its prompt and goes on from there."""
    return not model.config.is_encoder_decoder


def most_new_tokens(model: Model) -> int | None:
    """How many tokens the model can write for any text; None where nothing limits it.

    A decoder shares its positions with the prompt, an encoder-decoder has some for the purpose.
    """
    if decodes_alone(model):
        return None
    for name in DECODER_LIMITS:
        positions = getattr(model.config, name, None)
        if isinstance(positions, int) and positions > 0:
            return positions - 1  # the start token takes one
    return None


def end_tokens(model: Model) -> set[int]:
    """The tokens that end what the model writes."""
    ends = model.module.generation_config.eos_token_id
    if ends is None:
        return set()
    return set(ends) if isinstance(ends, (list, tuple)) else {int(ends)}


def until_end(tokens: list[int], ends: set[int]) -> list[int]:
    """Drops the end token and the padding behind it."""
    for at, token in enumerate(tokens):
        if token in ends:
            return tokens[:at]
    return tokens
