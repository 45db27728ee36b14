"""Generate: whatever a prompt asks for, as text or as JSON of a given schema."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from pipeline.errors import JobError, RowError
from pipeline.models.decoding import Decoding, Sampling
from pipeline.models.heads import Generation, Generator, HeadName, Models, writing_head
from pipeline.models.resolve import ModelInfo
from pipeline.models.text.grammar import Grammar
from pipeline.models.text.prompts import PromptFrame, chat_frame, has_chat, plain_frame
from pipeline.tasks.contract import SOME_DECODER, SOME_SEQ2SEQ, Example, Task, TaskOptions
from pipeline.tasks.contract import Annotated as Column
from pipeline.tasks.writing.column import written_column, written_type
from pipeline.tasks.writing.fitting import check_writes
from pipeline.tasks.writing.json_schema import arrow_type, parse, strict
from pipeline.tasks.writing.pieces import pieces_of
from pipeline.tasks.writing.rewrite import Rewrite
from pipeline.tasks.writing.text_writer import TextWriter

if TYPE_CHECKING:
    import pyarrow as pa

MAX_NEW_TOKENS = 128


class GenerateOptions(TaskOptions):
    """What a model writes for a prompt: the text, or what `template` makes of the row."""

    kind: Literal["generate"]
    instruction: str | None = Field(
        None,
        title="Instruction",
        description="Stands after the text in a chat model's prompt, before it in that of a "
        "sequence-to-sequence model.",
        min_length=1,
    )
    system: str | None = Field(
        None,
        title="System message",
        description="What a chat model is told before the prompt.",
        min_length=1,
    )
    max_new_tokens: int = Field(
        MAX_NEW_TOKENS, title="Longest text", description="The most tokens to write.", ge=1
    )
    stop: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(
        (),
        title="Stop strings",
        description="The text ends before the first of them.",
        strict=False,
    )
    temperature: float = Field(
        0.0,
        title="Temperature",
        description="0: the likeliest token each time. Above: tokens are drawn, the more freely "
        "the higher it is; the same text for a row whatever the batch and the worker.",
        ge=0,
        le=10,
    )
    top_p: float | None = Field(
        None,
        title="Nucleus",
        description="Draws only from the likeliest tokens that together have this probability.",
        gt=0,
        le=1,
    )
    top_k: int | None = Field(
        None, title="Top k", description="Draws only from that many of the likeliest.", ge=1
    )
    seed: int = Field(0, title="Seed", description="Another seed, other texts.")
    format: Literal["text", "json"] = Field(
        "text",
        title="Format",
        description="json: only what follows `json_schema` can be written; it is parsed into the "
        "field `value`.",
    )
    merge: Literal["truncate", "join"] = Field(
        "truncate",
        title="Long texts",
        description="truncate: of a prompt longer than the model the middle is left out. join: the "
        "text is written anew, as a correction is; one longer than the model or `max_new_tokens` "
        "is taken in windows that end where sentences do.",
    )
    json_schema: dict[str, Any] | None = Field(
        None,
        title="JSON Schema",
        description="Of the object to write: object, array, string, integer, number, boolean and "
        "enum. It decides about the column's type.",
    )

    @field_validator("json_schema")
    @classmethod
    def _supported(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None:
            strict(schema)
        return schema

    @model_validator(mode="after")
    def _fit_each_other(self) -> GenerateOptions:
        if (self.format == "json") != (self.json_schema is not None):
            raise ValueError("format: json and `json_schema` need each other")
        if self.format == "json" and self.stop:
            raise ValueError("`stop` would cut the JSON: remove it")
        if self.format == "json" and self.merge == "join":
            raise ValueError("each window would write JSON of its own: remove `merge: join`")
        if self.temperature == 0:
            drawing = {"top_p": self.top_p, "top_k": self.top_k, "seed": self.seed or None}
            for name, value in drawing.items():
                if value is not None:
                    raise ValueError(f"`{name}` has no meaning at temperature 0: set temperature")
        return self

    @cached_property
    def schema_held(self) -> dict[str, Any] | None:
        """The schema with nothing left open."""
        return None if self.json_schema is None else strict(self.json_schema)


class Generate(Task[GenerateOptions]):
    """Free text and JSON, by chat models, plain decoders and sequence-to-sequence models.

    The text is the prompt; `template` makes one of columns, `instruction` and `system` go into a
    chat model's template. Greedy unless `temperature` is set; what is drawn depends on `seed` and
    the prompt, not on the batch or the worker. `stop` ends the text. `format: json` allows only
    tokens that follow `json_schema` (object, array, string, integer, number, boolean, enum) and
    parses them into a typed struct, `value`, before the other fields; what is not complete within
    `max_new_tokens` (default 128) is a bad row. Of a prompt longer than the model the middle is
    left out: `truncated: true`. With `merge: join`, for instructions that write a text anew
    (correct it, simplify it), long texts go in windows, as in `translate`.
    """

    Options = GenerateOptions
    needs = "a chat model, a decoder or a sequence-to-sequence model"
    examples = (
        Example(SOME_SEQ2SEQ, {"max_new_tokens": 8}),
        Example(
            SOME_SEQ2SEQ,
            {"max_new_tokens": 8, "temperature": 0.7, "top_p": 0.9, "stop": ["film"]},
            name="drawn",
        ),
        Example(
            SOME_SEQ2SEQ,
            {"instruction": "film is ", "merge": "join", "max_new_tokens": 24},
            name="join",
        ),
        Example(
            SOME_DECODER,
            {
                "max_new_tokens": 100,
                "format": "json",
                "json_schema": {
                    "type": "object",
                    "properties": {
                        "label": {"type": "string", "maxLength": 9},
                        "score": {"type": "integer", "minimum": 0, "maximum": 9},
                    },
                    "required": ["label", "score"],
                },
            },
            name="json",
        ),
    )

    def output_type(self) -> pa.DataType:
        """``struct<text, input_tokens, output_tokens, windows, truncated>``.

        With a schema ``value`` stands before them, of the type that the schema says.
        """
        import pyarrow as pa

        schema = self.options.schema_held
        return (
            written_type()
            if schema is None
            else written_type(pa.field("value", arrow_type(schema)))
        )

    def check_model(self, model: ModelInfo) -> None:
        """Refuses a model that can't write, or can't be told what the job says.

        Raises:
            JobError: It can't.
        """
        check_writes(model, what="texts", hint="Name a model such as starter/smollm2", chat=False)
        told = [name for name in ("system", "instruction") if getattr(self.options, name)]
        if model.is_encoder_decoder:
            told = [name for name in told if name == "system"]
        if told and model.architectures and not model.chat_template:
            raise JobError(
                f"model {model.reference} has no chat template, so it knows no `{told[0]}`",
                hint="Say it in `template`, or name an instruction-tuned model",
            )

    def head(self, model: ModelInfo) -> HeadName:
        """The model is loaded with the head that writes."""
        return writing_head(model)

    def load(self, models: Models) -> GenerateAnnotate | Rewrite:
        """Loads the model, and what holds it to the schema."""
        generator = models.generator(self.options.model)
        writer = TextWriter(generator, self._frame(generator), self._decoding(generator))
        if self.options.merge == "join":
            return Rewrite(writer, self.output_type())
        return GenerateAnnotate(writer, self.options.schema_held, self.output_type())

    def _frame(self, generator: Generator) -> PromptFrame:
        options, text = self.options, generator.text
        if not generator.is_encoder_decoder and has_chat(text):
            return chat_frame(text, options.instruction or "", system=options.system or "")
        return plain_frame(text, options.instruction or "")

    def _decoding(self, generator: Generator) -> Decoding:
        options = self.options
        sampling, grammar = None, None
        if options.temperature > 0:
            sampling = Sampling(options.seed, options.temperature, options.top_k, options.top_p)
        if options.schema_held is not None:
            grammar = Grammar(generator.text.tokens, options.schema_held, ends=generator.ends)
        return Decoding(
            options.max_new_tokens, stops=options.stop, sampling=sampling, grammar=grammar
        )


class GenerateAnnotate:
    """Answers prompts with a loaded model.

    Of a prompt that is longer than the model takes the middle is left out, as instructions stand
    at its ends. ``truncated`` says so, and also that the model was still writing at
    `max_new_tokens`.
    """

    def __init__(
        self, writer: TextWriter, schema: dict[str, Any] | None, output_type: pa.DataType
    ) -> None:
        self.writer = writer
        self.schema = schema
        self.output_type = output_type

    def annotate(self, texts: Sequence[str]) -> Column:
        """One struct per prompt."""
        lengths = self.writer.lengths(texts)
        prompts = self.writer.maker.lay_out(texts, long="middle")
        written = self.writer.write(prompts)
        rows = [
            pieces.failure or self._row(pieces.generations[0], lengths[at], cut=at in prompts.cut)
            for at, pieces in enumerate(pieces_of(prompts, written, rows=len(texts)))
        ]
        return written_column(rows, self.output_type, [written])

    def _row(self, generation: Generation, length: int, *, cut: bool) -> dict[str, Any] | RowError:
        row = {
            "text": generation.text,
            "input_tokens": length,
            "output_tokens": generation.tokens,
            "windows": 1,
            "truncated": cut or not generation.complete,
        }
        if self.schema is None:
            return row
        if not generation.complete:
            return RowError(
                f"the JSON was not complete after {self.writer.decoding.max_new_tokens} tokens",
                code="invalid_json",
                hint="Raise max_new_tokens, or bound strings and arrays in the schema "
                "(maxLength, maxItems)",
            )
        try:
            return {"value": parse(generation.text, self.schema), **row}
        except RowError as error:
            return error
