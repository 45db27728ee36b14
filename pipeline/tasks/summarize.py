"""Summarize: the gist of a text, picked from it (extractive) or written anew (abstractive)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from pipeline.errors import JobError
from pipeline.models.load import Models
from pipeline.models.resolve import ModelInfo
from pipeline.tasks.task import Annotate, Task, TaskOptions

if TYPE_CHECKING:
    import pyarrow as pa

INSTRUCTION = "Summarize the text above in one or two sentences."
SENTENCES = 3
MAX_NEW_TOKENS = 96


class SummarizeOptions(TaskOptions):
    """The gist of a text."""

    kind: Literal["summarize"]
    method: Literal["abstractive", "extractive"] = Field(
        title="Method",
        description="extractive: the text's own most central sentences, with any encoder. "
        "abstractive: a new text, with a sequence-to-sequence or a chat model.",
    )
    sentences: int | None = Field(
        None,
        title="Sentences",
        description=f"extractive: how many sentences to keep ({SENTENCES} by default).",
        ge=1,
    )
    language: str | None = Field(
        None,
        title="Language",
        description="extractive: ISO 639 code by which the text is cut into sentences "
        "(en by default).",
        pattern="^[a-z]{2,3}$",
    )
    max_new_tokens: int | None = Field(
        None,
        title="Longest summary",
        description=f"abstractive: the most tokens to write ({MAX_NEW_TOKENS} by default).",
        ge=1,
    )
    instruction: str | None = Field(
        None,
        title="Instruction",
        description="abstractive: what a chat model is asked to do, after the text; or the prefix "
        "that a sequence-to-sequence model was trained with (T5: `summarize: `).",
    )

    @model_validator(mode="after")
    def _only_options_of_the_method(self) -> SummarizeOptions:
        of = {
            "extractive": ("sentences", "language"),
            "abstractive": ("max_new_tokens", "instruction"),
        }
        other = "abstractive" if self.method == "extractive" else "extractive"
        for name in of[other]:
            if getattr(self, name) is not None:
                raise ValueError(f"`{name}` has no meaning for method {self.method}: remove it")
        return self


class Summarize(Task[SummarizeOptions]):
    """Extractive and abstractive summaries."""

    Options = SummarizeOptions

    def output_type(self) -> pa.DataType:
        """``struct<text, input_tokens, output_tokens, windows, truncated>``."""
        import pyarrow as pa

        return pa.struct(
            [
                ("text", pa.string()),
                ("input_tokens", pa.int32()),
                ("output_tokens", pa.int32()),
                ("windows", pa.int32()),
                ("truncated", pa.bool_()),
            ]
        )

    def check_model(self, model: ModelInfo) -> None:
        """Refuses a model without the parts that the method needs.

        Raises:
            JobError: extractive with a generating model, abstractive with a model that can't
                generate, or a decoder-only model without a chat template.
        """
        arch = " / ".join(model.architectures)
        if not arch:
            return
        writes = arch.endswith(("ForConditionalGeneration", "ForCausalLM", "LMHeadModel"))
        if self.options.method == "extractive":
            if writes:
                raise JobError(
                    f"model {model.reference} is a {arch}; extractive summaries need an encoder",
                    mend="Use method: abstractive, or an encoder such as starter/minilm",
                )
            return
        if not writes:
            raise JobError(
                f"model {model.reference} is a {arch}, which can't write text; abstractive "
                "summaries need a sequence-to-sequence or a chat model",
                mend="Use method: extractive, or a model such as starter/smollm2",
            )
        if not model.is_encoder_decoder and not model.chat_template:
            raise JobError(
                f"model {model.reference} has no chat template, so it can't be told what to do",
                mend="Name an instruction-tuned model, or a sequence-to-sequence one",
            )

    def load(self, models: Models) -> Annotate:
        """Loads an encoder or a generating model, as the method needs."""
        from pipeline.tasks.abstractive import Abstractive
        from pipeline.tasks.extractive import Extractive

        options = self.options
        if options.method == "extractive":
            return Extractive(
                models.get(options.model, head="encoder"),
                sentences=options.sentences or SENTENCES,
                language=options.language or "en",
                output_type=self.output_type(),
            )
        encoder_decoder = models.infos[options.model].is_encoder_decoder
        instruction = options.instruction
        if instruction is None:
            instruction = "" if encoder_decoder else INSTRUCTION
        return Abstractive(
            models.get(options.model, head="seq2seq" if encoder_decoder else "causal"),
            instruction=instruction,
            max_new_tokens=options.max_new_tokens or MAX_NEW_TOKENS,
            output_type=self.output_type(),
        )
