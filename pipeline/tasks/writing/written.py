"""What summarize, translate and generate have in common: their column, and who can write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import JobError, RowError
from pipeline.models.heads import HeadName, Models
from pipeline.models.resolve import ModelInfo
from pipeline.models.text.prompts import Laid
from pipeline.models.torch.generation import Text, Writing
from pipeline.models.torch.model import Model
from pipeline.tasks.contract import Annotated

if TYPE_CHECKING:
    import pyarrow as pa

# How the classes end whose models write: BART, T5, Llama, GPT-2, Marian.
WRITING_HEADS = ("ForConditionalGeneration", "ForCausalLM", "LMHeadModel", "MTModel")


def written_type(*first: pa.Field) -> pa.DataType:
    """``struct<text, input_tokens, output_tokens, windows, truncated>``.

    ``truncated``: something was cut, of what was read or of what was written.

    Args:
        first: Fields that stand before these.
    """
    import pyarrow as pa

    return pa.struct(
        [
            *first,
            pa.field("text", pa.string()),
            pa.field("input_tokens", pa.int32()),
            pa.field("output_tokens", pa.int32()),
            pa.field("windows", pa.int32()),
            pa.field("truncated", pa.bool_()),
        ]
    )


def writes(model: ModelInfo) -> bool:
    """Whether a model has a head that writes, as far as is known."""
    return not model.architectures or model.architectures[0].endswith(WRITING_HEADS)


def check_writes(model: ModelInfo, *, what: str, hint: str, chat: bool) -> None:
    """Refuses a model that can't write, or can't be told what to write.

    Args:
        model: That a task names.
        what: The task's results, in the plural.
        hint: What to use instead.
        chat: Whether a decoder needs a chat template.

    Raises:
        JobError: It can't.
    """
    if not writes(model):
        raise JobError(
            f"model {model.reference} is a {' / '.join(model.architectures)}, which can't write "
            f"text; {what} need a sequence-to-sequence or a chat model",
            hint=hint,
        )
    if chat and not model.is_encoder_decoder and not model.chat_template:
        raise JobError(
            f"model {model.reference} has no chat template, so it can't be told what to do",
            hint="Name an instruction-tuned model, or a sequence-to-sequence one",
        )


def writing_head(model: ModelInfo) -> HeadName:
    """What a model that writes is loaded as."""
    return "seq2seq" if model.is_encoder_decoder else "causal"


def load_writing(models: Models, reference: str) -> Model:
    """Loads a model with the head that writes."""
    model: Model = models.get(reference, head=writing_head(models.infos[reference]))
    return model


@dataclass
class Parts:
    """What was written for one text, prompt by prompt.

    Attributes:
        texts: In the order of the text's pieces; empty if one of them failed.
        gaps: White space that stood before each piece.
        failure: Why one failed.
    """

    texts: list[Text]
    gaps: list[str]
    failure: RowError | None = None


def by_text(laid: Laid, writing: Writing, *, rows: int) -> list[Parts]:
    """Puts what was written back to the texts.

    Args:
        laid: The prompts.
        writing: What was written for them.
        rows: How many texts there are.
    """
    out = [Parts([], []) for _ in range(rows)]
    for at, (owner, gap, text) in enumerate(zip(laid.owner, laid.gaps, writing.texts, strict=True)):
        parts = out[owner]
        if text is None:
            parts.failure = parts.failure or writing.failures[at]
        else:
            parts.texts.append(text)
            parts.gaps.append(gap)
    return out


def column(
    rows: Sequence[dict[str, Any] | RowError], kind: pa.DataType, writings: Sequence[Writing]
) -> Annotated:
    """The finished column.

    Args:
        rows: The fields of each text, or why there are none.
        kind: The column's type.
        writings: For their token counts.
    """
    import pyarrow as pa

    return Annotated(
        pa.array([None if isinstance(row, RowError) else row for row in rows], kind),
        {at: row for at, row in enumerate(rows) if isinstance(row, RowError)},
        tokens=sum(writing.tokens for writing in writings),
        padded_tokens=sum(writing.padded_tokens for writing in writings),
    )
