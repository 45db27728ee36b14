"""Answers that a chat model writes, greedily."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import RowError
from pipeline.models.generation import Writer
from pipeline.models.model import Model
from pipeline.models.prompts import Long, Prompts, chat_frame
from pipeline.tasks.questions import PLACE, Questions
from pipeline.tasks.task import Annotated

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class _Asked:
    """A text on its way to its answer.

    Attributes:
        text: What the question is asked about; in the end the answer.
        question: What is asked.
        windows: Pieces that the text was read in the last time; 0 before the first.
        long: What becomes of the text if it is too long.
    """

    text: str
    question: str
    windows: int = 0
    long: Long = "windows"


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
        """One answer per text, without offsets and score."""
        import pyarrow as pa

        asked, failures = self.questions.of(texts)
        out = Annotated(pa.nulls(0, self.output_type), failures)
        open_ = {
            row: _Asked(text, question)
            for row, (text, question) in enumerate(zip(texts, asked, strict=True))
            if row not in failures
        }
        answers: list[dict[str, object] | None] = [None] * len(texts)
        while open_:
            for row in self._ask(open_, out):
                text = open_.pop(row).text
                if row not in failures:
                    answers[row] = {"text": text, "start": None, "end": None, "score": None}
        out.column = pa.array(answers, self.output_type)
        return out

    def _ask(self, open_: dict[int, _Asked], out: Annotated) -> list[int]:
        """Asks every open text once; gives back those that are done or failed."""
        prompts: list[np.ndarray] = []
        owner: list[int] = []
        done = []
        by_question: dict[tuple[str, Long], list[int]] = {}
        for row, item in open_.items():
            by_question.setdefault((item.question, item.long), []).append(row)
        for (question, long), rows in by_question.items():
            layer = self._prompts(question)
            if layer.room < 1:
                for row in rows:
                    out.failures[row] = RowError(
                        "the question leaves no room for a text", code="question_too_long"
                    )
                done += rows
                continue
            laid = layer.lay_out([open_[row].text for row in rows], long=long)
            prompts += laid.ids
            owner += [rows[at] for at in laid.owner]
        writing = self.writer.write(prompts)
        out.tokens += writing.tokens
        out.padded_tokens += writing.padded_tokens
        written: dict[int, list[str]] = {}
        for at, (row, text) in enumerate(zip(owner, writing.texts, strict=True)):
            if text is None:
                out.failures.setdefault(row, writing.failures[at])
            written.setdefault(row, []).append("" if text is None else text.text)
        for row, parts in written.items():
            item = open_[row]
            item.text = "\n".join(part for part in parts if part)
            if row in out.failures or len(parts) == 1 or not item.text:
                done.append(row)
            elif item.windows and len(parts) >= item.windows:
                # Answers that get no fewer would go on for ever.
                item.long = "end"
            item.windows = len(parts)
        return done

    def _prompts(self, question: str) -> Prompts:
        if question == self.questions.fixed:
            return self.writer.prompts
        frame = chat_frame(self.model, self._put(question))
        return Prompts(self.model, frame, reserve=self.writer.max_new_tokens)

    def _put(self, question: str) -> str:
        return self.instruction.replace(PLACE, question)
