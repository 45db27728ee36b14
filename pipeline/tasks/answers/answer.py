"""Answer: a question about each text, answered by a span of it or by a chat model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.errors import JobError
from pipeline.models.heads import HeadName, Models
from pipeline.models.resolve import ModelInfo
from pipeline.tasks.answers.questions import PLACE, Questions
from pipeline.tasks.contract import SOME_CHAT, SOME_QA, Annotate, Example, Task, TaskOptions

if TYPE_CHECKING:
    import pyarrow as pa

SPAN_TOKENS = 15  # the default of transformers' question-answering pipeline
CHAT_TOKENS = 32
INSTRUCTION = f"{PLACE} Answer from the text above, in a few words."


# XLNet and XLM have a second class for it, which chooses among many ends and is not built here.
FINDING_ENDS = ("ForQuestionAnswering", "ForQuestionAnsweringSimple")


class AnswerOptions(TaskOptions):
    """The answer to a question, found in the text or written about it."""

    kind: Literal["answer"]
    question: str | None = Field(
        None, title="Question", description="Asked of every text; or name a `question_column`."
    )
    question_column: str | None = Field(
        None,
        title="Question column",
        description="A column of the input that holds each text's own question.",
        min_length=1,
    )
    null_answers: bool | None = Field(
        None,
        title="No answer",
        description="Question-answering head: whether a text may have no answer, which is null "
        "(false by default: the best span, however unlikely).",
    )
    max_answer_tokens: int | None = Field(
        None,
        title="Longest answer",
        description=f"Tokens of the longest answer ({SPAN_TOKENS} by default for a span, "
        f"{CHAT_TOKENS} for a chat model).",
        ge=1,
        le=1024,
    )
    instruction: str | None = Field(
        None,
        title="Instruction",
        description=f"Chat: how the question is put after the text (`{INSTRUCTION}` by default).",
    )

    @field_validator("question")
    @classmethod
    def _question_says_something(cls, question: str | None) -> str | None:
        if question is not None and not question.strip():
            raise ValueError("the question is blank: write it")
        return question

    @field_validator("instruction")
    @classmethod
    def _instruction_has_a_place(cls, instruction: str | None) -> str | None:
        if instruction is not None and instruction.count(PLACE) != 1:
            raise ValueError(f"write `{PLACE}` once, where the question goes")
        return instruction

    @model_validator(mode="after")
    def _one_source_of_questions(self) -> AnswerOptions:
        if (self.question is None) == (self.question_column is None):
            raise ValueError("give either `question` or `question_column`")
        return self


class Answer(Task[AnswerOptions]):
    """Extractive question answering, or answers that a chat model writes.

    The `question` of the job, or each row's own from `question_column`. A model with a
    question-answering head gives the best span over all windows of the text, with offsets and a
    score (`null_answers: true`: or none); a chat model writes, at most `max_answer_tokens` (default
    32), and has neither offsets nor a score.
    """

    Options = AnswerOptions
    needs = "a question-answering model, or a chat model"
    examples = (
        Example(SOME_QA, {"question": "Who lives in London?"}),
        Example(
            SOME_QA,
            {"question": "Who?", "null_answers": True, "max_answer_tokens": 4},
            name="null",
        ),
        Example(SOME_CHAT, {"question": "Who?", "max_answer_tokens": 4}, name="chat"),
    )

    def output_type(self) -> pa.DataType:
        """``struct<text, start, end, score, truncated>``; offsets count characters of the text.

        An answer that a chat model wrote has neither offsets nor a score; no answer has no text.
        ``truncated``: a chat model was still writing at `max_answer_tokens`.
        """
        import pyarrow as pa

        return pa.struct(
            [
                ("text", pa.string()),
                ("start", pa.int32()),
                ("end", pa.int32()),
                ("score", pa.float32()),
                ("truncated", pa.bool_()),
            ]
        )

    def extra_columns(self) -> tuple[str, ...]:
        """The column of questions, if there is one."""
        name = self.options.question_column
        return () if name is None else (name,)

    def check_model(self, model: ModelInfo) -> None:
        """Refuses a model that can't answer, and options of the other kind of model.

        Raises:
            JobError: As said.
        """
        if not model.architectures:
            return
        arch = " / ".join(model.architectures)
        finds, chats = _finds(model), _chats(model)
        if not finds and not chats:
            raise JobError(
                f"model {model.reference} is a {arch}; answer needs a question-answering head "
                "(…ForQuestionAnswering) or a chat model",
                hint="Name a model that was trained for this task, or a chat model such as "
                "starter/smollm2",
            )
        if chats and not model.chat_template:
            raise JobError(
                f"model {model.reference} has no chat template, so it can't be asked",
                hint="Name an instruction-tuned model",
            )
        for name, owner in (("null_answers", finds), ("instruction", chats)):
            if getattr(self.options, name) is not None and not owner:
                raise JobError(
                    f"`{name}` has no meaning for {model.reference}, a {arch}",
                    hint=f"Remove `{name}`, or name another model",
                )

    def head(self, model: ModelInfo) -> HeadName:
        """A chat model writes, any other finds."""
        return "causal" if _chats(model) else "question-answering"

    def load(self, models: Models) -> Annotate:
        """Loads the model with the head that finds or the one that writes."""
        from pipeline.tasks.answers.chat import AnswerChat
        from pipeline.tasks.answers.extractive import AnswerSpans

        options = self.options
        questions = Questions(options.question, options.question_column)
        if _chats(models.infos[options.model]):
            return AnswerChat(
                models.generator(options.model),
                questions,
                instruction=options.instruction or INSTRUCTION,
                max_new_tokens=options.max_answer_tokens or CHAT_TOKENS,
                output_type=self.output_type(),
            )
        return AnswerSpans(
            models.span_scorer(options.model),
            questions,
            null_answers=bool(options.null_answers),
            longest=options.max_answer_tokens or SPAN_TOKENS,
            output_type=self.output_type(),
        )


def _finds(model: ModelInfo) -> bool:
    return any(name.endswith(FINDING_ENDS) for name in model.architectures)


def _chats(model: ModelInfo) -> bool:
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in model.architectures)
