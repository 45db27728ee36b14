"""Writing with transformers: greedily or drawn, free or held to a grammar.

A row gets token for token what ``model.generate`` gives for it alone, with ``do_sample=False,
num_beams=1``; whatever else the model's own generation config says (a forced first token, no
repeated n-grams) holds. Families that were compared are written by a loop of our own, all others by
`generate` itself. Arithmetic on another shape of batch differs in the last bits of
float32, which shows only where two tokens are that near to a tie.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from pipeline.models.batching import Sequences
from pipeline.models.decoding import Decoding, cut_at
from pipeline.models.heads import Generation, Generations
from pipeline.models.inference import Inference, no_tokens
from pipeline.models.torch.decoder import slot_decoder
from pipeline.models.torch.encoder_decoder import slot_encoder_decoder
from pipeline.models.torch.grammar import GrammarMask, GrammarRuns
from pipeline.models.torch.heads import TorchHead
from pipeline.models.torch.loop import Loop
from pipeline.models.torch.model import Model
from pipeline.models.torch.rules import AsProcessor, Forced, Rule
from pipeline.models.torch.sampling import drawn
from pipeline.models.torch.slot_writer import SlotWriter
from pipeline.models.torch.stopping import StepReporter, StoppedRows, StopStrings

# Decoding reads all weights for one token per row, so generation gains from more rows than
# encoding does: budgets count this many times the model's own.
BUDGET_FACTOR = 4
# A lane with fewer rows than this is not worth that it reads all weights for them alone.
LANE_ROWS = 4
# How many positions a decoder has, where they are counted at all (T5's are relative).
DECODER_LIMITS = ("max_position_embeddings", "max_decoder_position_embeddings")


class TorchGenerator(TorchHead):
    """Goes on with prompts, as `transformers.generate` does."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)
        self.most_new_tokens = _most_new_tokens(model) if self.is_encoder_decoder else None
        self.start_token: int | None = model.module.generation_config.decoder_start_token_id
        self.ends = frozenset(_end_tokens(model))
        self._slots: SlotWriter | None = (
            slot_encoder_decoder(model) if self.is_encoder_decoder else slot_decoder(model)
        )

    def generate(self, prompts: Sequence[np.ndarray], decoding: Decoding) -> Generations:
        """Writes once per prompt."""
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        longest = int(lengths.max(initial=0)) + decoding.max_new_tokens
        if longest and self._slots is not None and self._slots.holds(longest, decoding):
            inference = self._in_slots(self._slots, prompts, lengths, decoding)
        else:
            inference = self._in_batches(prompts, decoding)
        inference.tokens += sum(len(one.ids) for one in inference.results if one is not None)
        return inference

    def _in_slots(
        self,
        slots: SlotWriter,
        prompts: Sequence[np.ndarray],
        lengths: np.ndarray,
        decoding: Decoding,
    ) -> Generations:
        """By a loop of our own, which the module is known to give the same in."""
        import torch

        device, total = self.model.device, int(lengths.sum())
        lanes = self._lanes(len(prompts))
        call = slots.call(prompts, decoding, lanes=lanes)
        loop = Loop(
            lengths,
            most=decoding.max_new_tokens,
            ends=self.ends,
            rules=lambda: [
                *slots.rules(prompts, decoding),
                *self._rules(prompts, decoding, in_runs=slots.in_runs),
            ],
            stops=self._stops(decoding),
            room=slots.room,
            report=device.report,
        )
        report, held = device.reporter(), 1 if lanes > 1 else None
        shares = [total // lanes + (lane < total % lanes) for lane in range(lanes)]

        def work() -> None:
            tokens = shares.pop()
            hold = device.hold(lanes=held, tokens=tokens, padded=tokens)
            with device.reporting(report), hold, torch.inference_mode():
                loop.run(call.groups, call.steps)

        if lanes == 1:
            work()
        else:
            try:
                device.side_by_side(work, lanes=lanes)
            except BaseException:  # Ctrl-C: the lanes end with the step that they are at
                loop.over = True
                raise
        results: list[Generation | None] = [None] * len(prompts)
        for row in np.flatnonzero(lengths > 0).tolist():
            if row not in loop.failures:
                written = loop.written[row, : loop.steps[row]].tolist()
                ended = len(written) if loop.stopped[row] else None
                results[row] = self._generation(written, ended, decoding)
        for row in np.flatnonzero(lengths == 0).tolist():
            loop.failures[row] = no_tokens()
        return Inference(results, loop.failures, tokens=total, padded_tokens=total)

    def _in_batches(self, prompts: Sequence[np.ndarray], decoding: Decoding) -> Generations:
        """By transformers' `generate`, a padded batch at a time."""
        return self.model.infer(
            Sequences.of(prompts),
            lambda ids, mask: self._generate(ids, mask, decoding),
            left_padded=not self.is_encoder_decoder,
            extra_tokens=decoding.max_new_tokens,
            budget_factor=BUDGET_FACTOR,
        )

    def _lanes(self, rows: int) -> int:
        """In how many threads rows are written: each has to have enough of them."""
        return max(1, min(self.model.device.lanes, rows // LANE_ROWS))

    def _rules(
        self, prompts: Sequence[np.ndarray], decoding: Decoding, *, in_runs: bool = False
    ) -> list[Rule]:
        rules: list[Rule] = []
        if decoding.first_token is not None:
            rules.append(Forced(decoding.first_token))
        if decoding.grammar is not None:
            greedy = decoding.sampling is None
            # Stop strings are looked for after each token.
            runs = in_runs and greedy and not decoding.stops
            grammar = decoding.grammar
            rules.append(GrammarRuns(grammar) if runs else GrammarMask(grammar, greedy=greedy))
        if decoding.sampling is not None:
            rules += drawn(decoding.sampling, prompts)
        return rules

    def _stops(self, decoding: Decoding) -> StopStrings | None:
        return StopStrings(decoding.stops, self.text.tokenizer) if decoding.stops else None

    def _generate(self, ids: Any, mask: Any, decoding: Decoding) -> list[Generation]:
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        # A decoder gives back its prompt; an encoder-decoder starts with one start token.
        start = 1 if self.is_encoder_decoder else ids.shape[1]
        mask = torch.ones_like(ids) if mask is None else mask
        kept = zip(ids.cpu().numpy(), mask.cpu().numpy().astype(bool), strict=True)
        rules = self._rules([row[inside] for row, inside in kept], decoding)
        stops = self._stops(decoding)
        stopping = [] if stops is None else [StoppedRows(stops, start=start)]
        # A batch may take longer than a worker may stand still, so steps are reported too.
        reporter = StepReporter(self.model.device.report, steps=decoding.max_new_tokens)
        out = self.model.module.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=decoding.max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self.text.pad_id,
            logits_processor=LogitsProcessorList([AsProcessor(rules, start=start)]),
            stopping_criteria=StoppingCriteriaList([reporter, *stopping]),
            **self._own_stops(),
            **_forced(decoding),
        )
        stopped = stopping[0].ended if stopping else {}
        return [
            self._generation(row, stopped.get(at), decoding)
            for at, row in enumerate(out[:, start:].tolist())
        ]

    def _own_stops(self) -> dict[str, Any]:
        """The model's generation config may name stop strings, which need the tokenizer."""
        named = getattr(self.model.module.generation_config, "stop_strings", None)
        return {"tokenizer": self.text.tokenizer} if named else {}

    def _generation(self, row: list[int], stopped: int | None, decoding: Decoding) -> Generation:
        written = until_end(row[:stopped], self.ends)
        complete = len(written) < len(row) or stopped is not None
        config = self.model.module.generation_config
        if config.forced_eos_token_id is not None and len(written) >= decoding.max_new_tokens - 1:
            complete = False  # the end token was put there for want of room
        first = decoding.first_token
        first = config.forced_bos_token_id if first is None else first
        if first is not None and written[:1] == [first]:
            written = written[1:]
        text = self.text.tokenizer.decode(written, skip_special_tokens=True)
        stops = (*decoding.stops, *(config.stop_strings or ()))
        complete = complete or any(stop in text for stop in stops)
        return Generation(cut_at(text, decoding.stops).strip(), tuple(written), complete)


def _forced(decoding: Decoding) -> dict[str, int]:
    """As transformers calls what stands at the start."""
    named = {
        "decoder_start_token_id": decoding.start_token,
        "forced_bos_token_id": decoding.first_token,
    }
    return {name: token for name, token in named.items() if token is not None}


def _most_new_tokens(model: Model) -> int | None:
    for name in DECODER_LIMITS:
        positions = getattr(model.config, name, None)
        if isinstance(positions, int) and positions > 0:
            return positions - 1  # the start token takes one
    return None


def _end_tokens(model: Model) -> set[int]:
    ends = model.module.generation_config.eos_token_id
    if ends is None:
        return set()
    return set(ends) if isinstance(ends, (list, tuple)) else {int(ends)}


def until_end(tokens: list[int], ends: Collection[int]) -> list[int]:
    """Drops the end token and the padding behind it."""
    for at, token in enumerate(tokens):
        if token in ends:
            return tokens[:at]
    return tokens
