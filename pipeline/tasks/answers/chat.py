"""Answers that a chat model writes, greedily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.errors import RowError
from pipeline.models.decoding import Decoding
from pipeline.models.heads import Generator
from pipeline.models.text.prompts import PromptMaker, chat_frame
from pipeline.tasks.answers.questions import PLACE, Questions
from pipeline.tasks.contract import Annotated
from pipeline.tasks.writing.column import written_column
from pipeline.tasks.writing.map_reduce import Reduction, map_reduce
from pipeline.tasks.writing.text_writer import TextWriter

if TYPE_CHECKING:
    import pyarrow as pa


class AnswerChat:
    """Writes answers with a loaded chat model.

    A text that is too long is read in windows. The question is then asked again about the answers
    of all windows together, until they fit one prompt.

    Args:
        generator: With a chat template.
        questions: Of each text.
        instruction: How a question is put after the text; holds ``{question}``.
        max_new_tokens: Of an answer.
        output_type: Of the column.

    Raises:
        JobError: The fixed question leaves no room for a text.
    """

    def __init__(
        self,
        generator: Generator,
        questions: Questions,
        *,
        instruction: str,
        max_new_tokens: int,
        output_type: pa.DataType,
    ) -> None:
        self.questions = questions
        self.instruction = instruction
        self.output_type = output_type
        frame = chat_frame(generator.text, self._put(questions.fixed or ""))
        self.writer = TextWriter(generator, frame, Decoding(max_new_tokens))

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One answer per text, without offsets and score; ``truncated`` if something was cut."""
        asked, failures = self.questions.of(texts)
        makers = {question: self._maker(question) for question in set(asked)}
        reductions = [
            Reduction(text, makers[question]) for text, question in zip(texts, asked, strict=True)
        ]
        for row, reduction in enumerate(reductions):
            if row in failures:
                reduction.fail(failures[row])
            elif reduction.maker.room < 1:
                reduction.fail(
                    RowError("the question leaves no room for a text", code="question_too_long")
                )
        written = map_reduce(self.writer, reductions)
        rows = [
            reduction.failure
            or {
                "text": reduction.text,
                "start": None,
                "end": None,
                "score": None,
                "truncated": reduction.truncated,
            }
            for reduction in reductions
        ]
        return written_column(rows, self.output_type, written)

    def _maker(self, question: str) -> PromptMaker:
        if question == self.questions.fixed:
            return self.writer.maker
        return self.writer.maker_with(chat_frame(self.writer.generator.text, self._put(question)))

    def _put(self, question: str) -> str:
        return self.instruction.replace(PLACE, question)
