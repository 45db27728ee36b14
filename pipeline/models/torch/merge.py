"""An adapter's weights, added to a model's own."""

from __future__ import annotations

from typing import Any

from pipeline.errors import JobError, one_line
from pipeline.models.faults import raise_if_fatal
from pipeline.models.resolve import ModelInfo, fetch


def merged(module: Any, adapter: ModelInfo, names: frozenset[str]) -> Any:
    """A model with an adapter's weights added to its own.

    Args:
        module: A transformers model.
        adapter: Trained on it.
        names: The adapter's tensors.

    Raises:
        JobError: It was trained on another model, or is of a kind that does not merge.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise JobError(
            f"adapter {adapter.reference} needs the peft package, which is not installed",
            hint="pip install 'shardscribe[adapters]'",
        ) from error
    hint = "Check that it was trained on this model, and that it is of a kind that merges, such as "
    try:
        made = PeftModel.from_pretrained(module, fetch(adapter))
        # peft only warns of tensors that find no place, and goes on without them.
        placed = get_peft_model_state_dict(made, save_embedding_layers=False)
        strange = {name for name in names ^ set(placed) if ".lora_" in name}
        if strange or not names & set(placed):
            raise ValueError(f"it does not fit the model's layers: {min(strange or names)}")
        return made.merge_and_unload()
    except Exception as error:  # peft raises whatever a strange setting leads to
        raise_if_fatal(error)
        raise JobError(
            f"adapter {adapter.reference} can't be merged: {one_line(error)}", hint=f"{hint}LoRA"
        ) from error
