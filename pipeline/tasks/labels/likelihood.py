"""How likely a chat model is to answer with each label: no text is written, none is parsed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.errors import JobError
from pipeline.models.batching import Sequences
from pipeline.models.heads import AnswerScorer
from pipeline.models.inference import Inference
from pipeline.models.text.prompts import chat_frame
from pipeline.models.text.texts import Encoded
from pipeline.models.text.windows import Cuts, cut_all
from pipeline.tasks.labels.classify import activate
from pipeline.tasks.labels.scorers import LabelScores

# What stands for a text without content. With SmolLM2, on 200 reviews for training and 192 news
# reports for training, accuracy was 0.82 to 0.84 and 0.48; with "N/A" and "[MASK]" 0.64 to 0.84
# and 0.32 to 0.38, with an empty text 0.76 to 0.84 and 0.42.
CONTENT_FREE = "Lorem ipsum dolor sit amet, consectetur adipiscing elit."


class ChatScorer:
    """Scores by the log-likelihood of each answer after the text and a question.

    The answer's tokens are weighed one after the other, given the prompt and the answer so far;
    what all answers begin with is part of the prompt. The scores are the softmax over the sums.

    A model prefers some answers whatever the text. `calibrate` subtracts the log-likelihood that
    each answer has after a text without content (contextual calibration, Zhao et al., 2021), and
    takes the mean over the answer's tokens: on 192 news reports with answers of 1 to 3 tokens,
    accuracy was 0.22 plain (0.16 as a mean), 0.47 calibrated and 0.48 calibrated as a mean; with
    other texts without content the mean gained up to 0.11.

    Args:
        head: With a chat template.
        answers: One per label.
        instruction: Asked after the text.
        calibrate: As above.
        first: Only the first window of each text.

    Raises:
        JobError: The answers are not told apart by the tokenizer, or the prompt leaves no room
            for a text.
    """

    def __init__(
        self,
        head: AnswerScorer,
        answers: Sequence[str],
        *,
        instruction: str,
        calibrate: bool,
        first: bool,
    ) -> None:
        self.head = head
        self.first = first
        text = head.text
        frame = chat_frame(text, instruction)
        self.before, after = text.tokens.ids(frame.before), text.tokens.ids(frame.after)
        tokens = [text.tokens.ids(answer) for answer in answers]
        if not all(tokens) or len(set(map(tuple, tokens))) < len(tokens):
            raise JobError(
                "two labels are the same to the model's tokenizer, or one is nothing to it",
                hint="Name other labels, or map them to other words",
            )
        shared = _shared(tokens)
        self.after = [*after, *tokens[0][:shared]]
        self.tails = [answer[shared:] for answer in tokens]
        longest = max(map(len, self.tails))
        self.room = text.max_tokens - len(self.before) - len(self.after) - longest
        if self.room < 1:
            raise JobError(
                f"the instruction and the labels leave no room for a text: the model takes "
                f"{text.max_tokens} tokens",
                hint="Shorten them",
            )
        self.prior = np.zeros(len(answers), dtype=np.float32)
        self.scale = np.ones(len(answers), dtype=np.float32)
        if calibrate:
            found = self._weigh(text.tokens.encode([CONTENT_FREE]), first=True)[0]
            if found.failures:
                raise JobError(f"the prompt without a text fails: {found.failures[0].message}")
            self.prior = np.asarray(found.results[0])
            self.scale = np.array([1 / len(tail) for tail in self.tails], dtype=np.float32)

    def score(self, texts: Sequence[str]) -> LabelScores:
        """Every window with every answer."""
        inference, cuts = self._weigh(self.head.text.encode(texts), first=self.first)
        weighed = np.zeros((len(cuts), len(self.tails)), dtype=np.float32)
        for at, row in enumerate(inference.results):
            if row is not None:
                weighed[at] = (row - self.prior) * self.scale
        return LabelScores(
            activate(weighed, "softmax"),
            cuts.owner,
            cuts.weights,
            {int(cuts.owner[at]): error for at, error in inference.failures.items()},
            inference.tokens,
            inference.padded_tokens,
        )

    def _weigh(self, encoded: Encoded, *, first: bool) -> tuple[Inference[np.ndarray], Cuts]:
        """Log-likelihoods of shape [labels] for each window."""
        cuts = cut_all(encoded.starts, size=self.room, first=first)
        sequences = Sequences(encoded.ids, cuts.start, cuts.stop, self.before, self.after)
        return self.head.log_likelihoods(sequences, self.tails), cuts


def _shared(answers: Sequence[Sequence[int]]) -> int:
    """How many tokens all answers begin with, leaving each at least one of its own."""
    most = min(map(len, answers)) - 1
    for at in range(most):
        if len({answer[at] for answer in answers}) > 1:
            return at
    return most
