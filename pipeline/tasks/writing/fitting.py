"""Which models can write, as far as their configuration says."""

from __future__ import annotations

from pipeline.errors import JobError
from pipeline.models.resolve import ModelInfo

# How the classes end whose models write: BART, T5, Llama, GPT-2, Marian.
WRITING_ENDS = ("ForConditionalGeneration", "ForCausalLM", "LMHeadModel", "MTModel")


def writes(model: ModelInfo) -> bool:
    """Whether a model has a head that writes, as far as is known."""
    return not model.architectures or model.architectures[0].endswith(WRITING_ENDS)


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
