"""Texts laid out as prompts, and what a model writes for them: what all tasks that write share."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import JobError
from pipeline.models.decoding import Decoding
from pipeline.models.heads import Generations, Generator
from pipeline.models.text.prompts import PromptFrame, PromptMaker, Prompts


class TextWriter:
    """Writes with a loaded model, in one way.

    Args:
        generator: The model.
        frame: What stands around each text in a prompt.
        decoding: How prompts are continued.
        language: ISO 639 code by which long texts are cut into sentences.

    Attributes:
        maker: Makes prompts of texts.

    Raises:
        JobError: The model can't write so much, or has no room left for a text.
    """

    def __init__(
        self,
        generator: Generator,
        frame: PromptFrame,
        decoding: Decoding,
        *,
        language: str = "en",
    ) -> None:
        self.generator = generator
        self.decoding = decoding
        new = decoding.max_new_tokens
        most = generator.most_new_tokens
        if most is not None and new > most:
            raise JobError(
                f"max_new_tokens is {new}, but the model writes at most {most}",
                hint=f"Set max_new_tokens to at most {most}",
            )
        self._language = language
        self.maker = self.maker_with(frame)
        if self.maker.room < 1:
            raise JobError(
                f"max_new_tokens {new} and the instruction leave no room for a text: "
                f"the model takes {generator.text.max_tokens} tokens",
                hint="Lower max_new_tokens, or shorten the instruction",
            )

    def maker_with(self, frame: PromptFrame) -> PromptMaker:
        """What makes prompts with something else around each text."""
        # A decoder's positions hold the prompt and what it writes.
        shared = not self.generator.is_encoder_decoder
        return PromptMaker(
            self.generator.text,
            frame,
            reserve=self.decoding.max_new_tokens if shared else 0,
            language=self._language,
        )

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without a prompt around it."""
        found: list[int] = self.generator.text.encode(texts).lengths.tolist()
        return found

    def write(self, prompts: Prompts) -> Generations:
        """Writes once per prompt."""
        return self.generator.generate(prompts.ids, self.decoding)
