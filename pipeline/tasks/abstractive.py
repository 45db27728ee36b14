"""Abstractive summaries: a sequence-to-sequence or a chat model writes a new text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import JobError
from pipeline.models.batching import Sequences
from pipeline.models.model import Model
from pipeline.tasks.task import Annotated

if TYPE_CHECKING:
    import pyarrow as pa

# Stands for the text while a chat template is laid out; the private-use letters are in no prompt.
MARK = "\ue000\ue001"
# Decoding reads all weights for one token per row, so generation gains from more rows than
# encoding does: budgets count this many times the model's own.
GENERATION_BUDGET_FACTOR = 4


class Abstractive:
    """Writes summaries with a loaded model, greedily.

    Only the text is ever cut to fit the model, never the instruction around it, and a cut shows
    as ``truncated: true``.
    """

    def __init__(
        self, model: Model, *, instruction: str, max_new_tokens: int, output_type: pa.DataType
    ) -> None:
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.output_type = output_type
        self.decodes_alone = not model.config.is_encoder_decoder
        if self.decodes_alone:
            self.before, self.after = self._chat_frame(instruction)
        else:
            head = model.tokens.ids(instruction) if instruction else []
            self.before, self.after = [*model.prefix, *head], model.suffix
        grown = max_new_tokens if self.decodes_alone else 0
        self.room = model.max_tokens - len(self.before) - len(self.after) - grown
        if self.room < 1:
            raise JobError(
                f"max_new_tokens {max_new_tokens} and the instruction leave no room for a text: "
                f"the model takes {model.max_tokens} tokens",
                mend="Lower max_new_tokens",
            )

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One summary struct per text."""
        import pyarrow as pa

        encoded = self.model.encode(texts)
        lengths = encoded.lengths.tolist()
        starts, ends = encoded.starts[:-1], encoded.starts[1:]
        sequences = Sequences(
            encoded.ids, starts, np.minimum(ends, starts + self.room), self.before, self.after
        )
        inference = self.model.infer(
            sequences,
            self._forward,
            left_padded=self.decodes_alone,
            extra_tokens=self.max_new_tokens,
            budget_factor=GENERATION_BUDGET_FACTOR,
        )
        rows: list[dict[str, Any] | None] = []
        for row, written in enumerate(inference.results):
            if written is None:
                rows.append(None)
                continue
            text = self.model.tokenizer.decode(written, skip_special_tokens=True).strip()
            rows.append(
                {
                    "text": text,
                    "input_tokens": lengths[row],
                    "output_tokens": len(written),
                    "windows": 1,
                    "truncated": lengths[row] > self.room,
                }
            )
        return Annotated(
            pa.array(rows, self.output_type),
            inference.failures,
            tokens=inference.tokens + sum(len(r) for r in inference.results if r is not None),
            padded_tokens=inference.padded_tokens,
        )

    def _chat_frame(self, instruction: str) -> tuple[list[int], list[int]]:
        """The tokens that the chat template puts before and after the text."""
        laid_out = self.model.tokenizer.apply_chat_template(
            # Small models lose sight of an instruction that stands before a long text: with
            # SmolLM2, 2 of 5 reviews were answered instead of summarized, after it none.
            [{"role": "user", "content": f"{MARK}\n\n{instruction}"}],
            tokenize=False,
            add_generation_prompt=True,
        )
        before, mark, after = laid_out.partition(MARK)
        if not mark:
            raise JobError("the model's chat template drops the user's text")
        return self.model.tokens.ids(before), self.model.tokens.ids(after)

    def _forward(self, ids: Any, mask: Any) -> list[list[int]]:
        import torch

        module = self.model.module
        ends = _end_tokens(module)
        out = module.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids) if mask is None else mask,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self.model.pad_id,
        )
        # A decoder gives back its prompt; an encoder-decoder starts with one start token.
        start = ids.shape[1] if self.decodes_alone else 1
        return [_until_end(row[start:].tolist(), ends) for row in out]


def _end_tokens(module: Any) -> set[int]:
    ends = module.generation_config.eos_token_id
    if ends is None:
        return set()
    return set(ends) if isinstance(ends, (list, tuple)) else {int(ends)}


def _until_end(tokens: list[int], ends: set[int]) -> list[int]:
    """Drops the end token and the padding behind it."""
    for at, token in enumerate(tokens):
        if token in ends:
            return tokens[:at]
    return tokens
