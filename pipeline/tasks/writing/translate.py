"""Translate: a text in another language, by a translation model or by a chat model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline.errors import JobError
from pipeline.models.decoding import Decoding
from pipeline.models.heads import Generator, HeadName, Models, writing_head
from pipeline.models.resolve import ModelInfo
from pipeline.models.text.languages import Languages, languages_of
from pipeline.models.text.prompts import PromptFrame, chat_frame, plain_frame
from pipeline.models.text.side import TextSide
from pipeline.tasks.contract import SOME_SEQ2SEQ, Example, Task, TaskOptions
from pipeline.tasks.writing.column import written_type
from pipeline.tasks.writing.fitting import check_writes
from pipeline.tasks.writing.rewrite import Rewrite
from pipeline.tasks.writing.text_writer import TextWriter

if TYPE_CHECKING:
    import pyarrow as pa

MAX_NEW_TOKENS = 256


class TranslateOptions(TaskOptions):
    """The text in another language."""

    kind: Literal["translate"]
    source: str | None = Field(
        None,
        title="Source language",
        description="As the model calls it: `eng_Latn` (NLLB), `en_XX` (mBART), `en` (M2M-100), "
        "`English` (T5, chat models).",
        min_length=1,
    )
    target: str | None = Field(
        None,
        title="Target language",
        description="Likewise; `fra` for a Marian model of several target languages. A Marian "
        "model of one pair needs neither.",
        min_length=1,
    )
    instruction: str | None = Field(
        None,
        title="Instruction",
        description="What a chat model is asked to do, after the text, or the prefix that a T5 "
        "was trained with, in place of the one made from the languages.",
        min_length=1,
    )
    max_new_tokens: int | None = Field(
        None,
        title="Longest translation",
        description=f"The most tokens to write for a text ({MAX_NEW_TOKENS} by default, or what "
        "the model can). A longer text is translated in windows.",
        ge=1,
    )


class Translate(Task[TranslateOptions]):
    """The text in another language.

    Greedy; `source` and `target` are what the model calls its languages (`eng_Latn`, `en_XX`, `en`,
    `English`). A text longer than the model or than `max_new_tokens` is translated in windows that
    end where sentences do; `max_new_tokens` is 256 by default.
    """

    Options = TranslateOptions
    needs = "Marian, T5, mBART, NLLB, M2M-100, a chat model"
    examples = (Example(SOME_SEQ2SEQ, {"instruction": "film is ", "max_new_tokens": 24}),)

    def output_type(self) -> pa.DataType:
        """``struct<text, input_tokens, output_tokens, windows, truncated>``."""
        return written_type()

    def check_model(self, model: ModelInfo) -> None:
        """Refuses a model that can't write, or can't be told to translate.

        Raises:
            JobError: It can't.
        """
        check_writes(
            model,
            what="translations",
            hint="Name a translation model, or a chat model",
            chat=True,
        )

    def head(self, model: ModelInfo) -> HeadName:
        """The model is loaded with the head that writes."""
        return writing_head(model)

    def load(self, models: Models) -> Rewrite:
        """Loads the model and finds its languages."""
        options = self.options
        generator = models.generator(options.model)
        request = request_of(generator, options)
        most = generator.most_new_tokens or generator.text.max_tokens // 2
        decoding = Decoding(
            options.max_new_tokens or max(1, min(MAX_NEW_TOKENS, most)),
            start_token=request.start_token,
            first_token=request.first_token,
        )
        language = sentence_language(options.source)
        return Rewrite(
            TextWriter(generator, request.frame, decoding, language=language), self.output_type()
        )


@dataclass(frozen=True)
class TranslationRequest:
    """How a model is told what to translate, and into what.

    Attributes:
        frame: What stands around each text.
        start_token: The language that it starts to write from, if that is how it is told.
        first_token: The language that it writes first, if that is how it is told.
    """

    frame: PromptFrame
    start_token: int | None = None
    first_token: int | None = None


def request_of(generator: Generator, options: TranslateOptions) -> TranslationRequest:
    """Finds how a model is told what to translate.

    Raises:
        JobError: A language is missing, or the model does not know it.
    """
    text = generator.text
    languages = languages_of(text)
    if languages is not None:
        return _by_tokens(generator, options, languages)
    if not generator.is_encoder_decoder:
        return TranslationRequest(chat_frame(text, options.instruction or _question(options)))
    if text.config.model_type in ("t5", "mt5", "umt5"):
        return TranslationRequest(plain_frame(text, options.instruction or _prefix(text, options)))
    if options.target is not None:
        raise JobError(
            f"target is {options.target!r}, but the model has no language tokens: it translates "
            "one pair of languages",
            hint="Remove target, or name a model of that language",
        )
    return TranslationRequest(plain_frame(text, options.instruction or ""))


def _by_tokens(
    generator: Generator, options: TranslateOptions, languages: Languages
) -> TranslationRequest:
    for field in ("target", "source") if languages.paired else ("target",):
        if getattr(options, field) is None:
            some = ", ".join(sorted(languages.ids)[:8])
            raise JobError(
                f"the model knows {len(languages.ids)} languages and needs `{field}`",
                hint=f"Set {field} to one of them, such as {some}",
            )
    target = languages.token(str(options.target), field="target")
    plain = plain_frame(generator.text)
    if not languages.paired:
        return TranslationRequest(PromptFrame(prefix=(*plain.prefix, target), suffix=plain.suffix))
    source = languages.token(str(options.source), field="source")
    prefix, suffix = languages.around(plain.prefix, plain.suffix, source)
    frame = PromptFrame(prefix=prefix, suffix=suffix)
    # The first mBART starts to write from the language itself, its successors from the end token.
    if generator.start_token in languages.ids.values():
        return TranslationRequest(frame, start_token=target)
    return TranslationRequest(frame, first_token=target)


def _prefix(text: TextSide, options: TranslateOptions) -> str:
    """T5's, such as ``translate English to German: ``."""
    if options.source is None or options.target is None:
        raise JobError(
            "a T5 is told the languages in words",
            hint="Set source and target, such as English and German, or instruction",
        )
    prefix = f"translate {options.source} to {options.target}: "
    trained = getattr(text.config, "task_specific_params", None) or {}
    known = [str(part.get("prefix", "")) for part in trained.values() if isinstance(part, dict)]
    known = [found for found in known if found.startswith("translate ")]
    if known and prefix not in known:
        raise JobError(
            f"the model was not trained to {prefix.rstrip(': ')}",
            hint=f"It knows: {'; '.join(found.rstrip(': ') for found in known)}",
        )
    return prefix


def _question(options: TranslateOptions) -> str:
    """What a chat model is asked."""
    if options.target is None:
        raise JobError("a chat model must be told the language", hint="Set target, such as German")
    source = f" from {options.source}" if options.source else ""
    return (
        f"Translate the text above{source} to {options.target}. "
        "Answer with the translation and nothing else."
    )


def sentence_language(code: str | None) -> str:
    """The ISO 639 code by which sentences of a source language are found, en if it says none."""
    first = (code or "").split("_")[0]
    return first.lower() if len(first) in (2, 3) else "en"
