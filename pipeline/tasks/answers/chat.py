"""Answers that a chat model writes, greedily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.errors import RowError
from pipeline.models.text.prompts import Prompts, chat_frame
from pipeline.models.torch.generation import Writer
from pipeline.models.torch.model import Model
from pipeline.tasks.answers.questions import PLACE, Questions
from pipeline.tasks.contract import Annotated
from pipeline.tasks.writing.map_reduce import Reading, map_reduce
from pipeline.tasks.writing.written import column

if TYPE_CHECKING:
    import pyarrow as pa


class AnswerChat:
    """Writes answers with a loaded chat model.

    A text that is too long is read in windows. The question is then asked again about the answers
    of all windows together, until they fit one prompt.

    Args:
        model: With a chat template.
        questions: Of each text.
        instruction: How a question is put after the text; holds ``{question}``.
        max_new_tokens: Of an answer.
        output_type: Of the column.

    Raises:
        JobError: The fixed question leaves no room for a text.
    """

    def __init__(
        self,
        model: Model,
        questions: Questions,
        *,
        instruction: str,
        max_new_tokens: int,
        output_type: pa.DataType,
    ) -> None:
        self.model = model
        self.questions = questions
        self.instruction = instruction
        self.output_type = output_type
        frame = chat_frame(model, self._put(questions.fixed or ""))
        self.writer = Writer(model, frame, max_new_tokens=max_new_tokens)

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One answer per text, without offsets and score; ``truncated`` if something was cut."""
        asked, failures = self.questions.of(texts)
        prompts = {question: self._prompts(question) for question in set(asked)}
        readings = [
            Reading(text, prompts[question]) for text, question in zip(texts, asked, strict=True)
        ]
        for row, reading in enumerate(readings):
            if row in failures:
                reading.fail(failures[row])
            elif reading.prompts.room < 1:
                reading.fail(
                    RowError("the question leaves no room for a text", code="question_too_long")
                )
        writings = map_reduce(self.writer, readings)
        rows = [
            reading.failure
            or {
                "text": reading.text,
                "start": None,
                "end": None,
                "score": None,
                "truncated": reading.truncated,
            }
            for reading in readings
        ]
        return column(rows, self.output_type, writings)

    def _prompts(self, question: str) -> Prompts:
        if question == self.questions.fixed:
            return self.writer.prompts
        frame = chat_frame(self.model, self._put(question))
        return Prompts(self.model, frame, reserve=self.writer.max_new_tokens)

    def _put(self, question: str) -> str:
        return self.instruction.replace(PLACE, question)
