"""Translate: a text in another language, by a translation model or by a chat model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline.errors import JobError
from pipeline.models.heads import HeadName, Models
from pipeline.models.resolve import ModelInfo
from pipeline.models.text.languages import Languages, languages_of
from pipeline.models.text.prompts import Frame, chat_frame, plain_frame
from pipeline.models.torch.generation import Writer, decodes_alone, most_new_tokens
from pipeline.models.torch.model import Model
from pipeline.tasks.contract import SOME_SEQ2SEQ, Example, Task, TaskOptions
from pipeline.tasks.writing.rewrite import Rewrite
from pipeline.tasks.writing.written import check_writes, load_writing, writing_head, written_type

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
        model = load_writing(models, options.model)
        frame, forced = frame_of(model, options)
        most = most_new_tokens(model) or model.max_tokens // 2
        writer = Writer(
            model,
            frame,
            max_new_tokens=options.max_new_tokens or max(1, min(MAX_NEW_TOKENS, most)),
            language=sentence_language(options.source),
            forced=forced,
        )
        return Rewrite(writer, self.output_type())


def frame_of(model: Model, options: TranslateOptions) -> tuple[Frame, Mapping[str, int]]:
    """How a model is told what to translate: a prompt's frame, and what decoding starts with.

    Raises:
        JobError: A language is missing, or the model does not know it.
    """
    languages = languages_of(model)
    if languages is not None:
        return _by_tokens(model, options, languages)
    if decodes_alone(model):
        return chat_frame(model, options.instruction or _request(options)), {}
    if model.config.model_type in ("t5", "mt5", "umt5"):
        return plain_frame(model, options.instruction or _prefix(model, options)), {}
    if options.target is not None:
        raise JobError(
            f"target is {options.target!r}, but the model has no language tokens: it translates "
            "one pair of languages",
            hint="Remove target, or name a model of that language",
        )
    return plain_frame(model, options.instruction or ""), {}


def _by_tokens(
    model: Model, options: TranslateOptions, languages: Languages
) -> tuple[Frame, Mapping[str, int]]:
    for field in ("target", "source") if languages.paired else ("target",):
        if getattr(options, field) is None:
            some = ", ".join(sorted(languages.ids)[:8])
            raise JobError(
                f"the model knows {len(languages.ids)} languages and needs `{field}`",
                hint=f"Set {field} to one of them, such as {some}",
            )
    target = languages.token(str(options.target), field="target")
    plain = plain_frame(model)
    if not languages.paired:
        return Frame(prefix=(*plain.prefix, target), suffix=plain.suffix), {}
    source = languages.token(str(options.source), field="source")
    prefix, suffix = languages.around(plain.prefix, plain.suffix, source)
    # The first mBART starts to write from the language itself, its successors from the end token.
    start = model.module.generation_config.decoder_start_token_id
    starts = start in languages.ids.values()
    first = "decoder_start_token_id" if starts else "forced_bos_token_id"
    return Frame(prefix=prefix, suffix=suffix), {first: target}


def _prefix(model: Model, options: TranslateOptions) -> str:
    """T5's, such as ``translate English to German: ``."""
    if options.source is None or options.target is None:
        raise JobError(
            "a T5 is told the languages in words",
            hint="Set source and target, such as English and German, or instruction",
        )
    prefix = f"translate {options.source} to {options.target}: "
    trained = getattr(model.config, "task_specific_params", None) or {}
    known = [str(part.get("prefix", "")) for part in trained.values() if isinstance(part, dict)]
    known = [found for found in known if found.startswith("translate ")]
    if known and prefix not in known:
        raise JobError(
            f"the model was not trained to {prefix.rstrip(': ')}",
            hint=f"It knows: {'; '.join(found.rstrip(': ') for found in known)}",
        )
    return prefix


def _request(options: TranslateOptions) -> str:
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
