"""Summarize: the gist of a text, picked from it (extractive) or written anew (abstractive)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from pipeline.errors import JobError
from pipeline.models.decoding import Decoding
from pipeline.models.heads import HeadName, Models, writing_head
from pipeline.models.resolve import ModelInfo
from pipeline.models.sentence import SentenceEncoder
from pipeline.models.sentence_files import SentenceFiles, known_pooling
from pipeline.models.text.prompts import chat_frame, plain_frame
from pipeline.tasks.contract import SOME_SEQ2SEQ, Annotate, Example, Task, TaskOptions
from pipeline.tasks.writing.abstractive import Abstractive
from pipeline.tasks.writing.column import written_type
from pipeline.tasks.writing.extractive import Extractive
from pipeline.tasks.writing.fitting import check_writes, writes
from pipeline.tasks.writing.text_writer import TextWriter

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
        description="ISO 639 code by which texts are cut into sentences (en by default).",
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

    merge: Literal["map_reduce", "truncate"] | None = Field(
        None,
        title="Long texts",
        description="abstractive: map_reduce (the default) summarizes the windows of a text longer "
        "than the model takes, then their summaries; truncate leaves out the text's end and says "
        "`truncated: true`.",
    )

    @model_validator(mode="after")
    def _only_options_of_the_method(self) -> SummarizeOptions:
        of = {
            "extractive": ("sentences",),
            "abstractive": ("max_new_tokens", "instruction", "merge"),
        }
        other = "abstractive" if self.method == "extractive" else "extractive"
        for name in of[other]:
            if getattr(self, name) is not None:
                raise ValueError(f"`{name}` has no meaning for method {self.method}: remove it")
        return self


class Summarize(Task[SummarizeOptions]):
    """Extractive and abstractive summaries.

    `method: extractive` picks the most central `sentences` (default 3) that do not repeat each
    other, by vectors as `embed` makes them. `abstractive` writes greedily, up to `max_new_tokens`
    (default 96); `instruction` says what to do. Of a text longer than the model the windows are
    summarized, then their summaries, until one is left; `windows` counts all that was read. `merge:
    truncate` leaves out the end: `truncated: true`.
    """

    Options = SummarizeOptions
    needs = (
        "any encoder (`method: extractive`), a sequence-to-sequence or a chat model "
        "(`method: abstractive`)"
    )
    examples = (
        Example("starter/minilm", {"method": "extractive", "sentences": 2}),
        Example(
            SOME_SEQ2SEQ,
            {"method": "abstractive", "max_new_tokens": 8, "merge": "truncate"},
            name="abstractive",
        ),
        Example(SOME_SEQ2SEQ, {"method": "abstractive", "max_new_tokens": 8}, name="in-windows"),
    )

    def output_type(self) -> pa.DataType:
        """``struct<text, input_tokens, output_tokens, windows, truncated>``."""
        return written_type()

    def check_model(self, model: ModelInfo) -> None:
        """Refuses a model without the parts that the method needs.

        Raises:
            JobError: extractive with a generating model, abstractive with a model that can't
                generate, or a decoder-only model without a chat template.
        """
        if self.options.method == "abstractive":
            check_writes(
                model,
                what="abstractive summaries",
                hint="Use method: extractive, or a model such as starter/smollm2",
                chat=True,
            )
        elif model.architectures and writes(model):
            raise JobError(
                f"model {model.reference} is a {' / '.join(model.architectures)}; extractive "
                "summaries need an encoder",
                hint="Use method: abstractive, or an encoder such as starter/minilm",
            )
        elif model.folder is not None:
            files = SentenceFiles.of(model.folder, reference=model.reference)
            known_pooling(files.pooling, reference=model.reference)

    def head(self, model: ModelInfo) -> HeadName:
        """Sentences are picked with an encoder, written with the head that writes."""
        return "encoder" if self.options.method == "extractive" else writing_head(model)

    def load(self, models: Models) -> Annotate:
        """Loads an encoder or a generating model, as the method needs."""
        options = self.options
        language = options.language or "en"
        if options.method == "extractive":
            return Extractive(
                SentenceEncoder(models.encoder(options.model), reference=options.model),
                sentences=options.sentences or SENTENCES,
                language=language,
                output_type=self.output_type(),
            )
        generator = models.generator(options.model)
        if generator.is_encoder_decoder:
            frame = plain_frame(generator.text, options.instruction or "")
        else:
            frame = chat_frame(generator.text, options.instruction or INSTRUCTION)
        decoding = Decoding(options.max_new_tokens or MAX_NEW_TOKENS)
        writer = TextWriter(generator, frame, decoding, language=language)
        return Abstractive(
            writer, merge=options.merge or "map_reduce", output_type=self.output_type()
        )
