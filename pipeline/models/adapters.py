"""LoRA and other PEFT adapters: what a model becomes with one, before its weights are merged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.errors import JobError, one_line
from pipeline.models.folder import CONFIG
from pipeline.models.resolve import ModelInfo, fetch
from pipeline.models.text.tokenizer_files import read_json
from pipeline.models.weights import ADAPTER_WEIGHTS

# By an adapter's task_type: how the names of the classes end whose head it brings along.
CLASS_ENDS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
}
# The layers of a head that give a number for each label, under the module that peft saves.
OUTPUTS = ("weight", "out_proj.weight")


@dataclass(frozen=True)
class Brought:
    """What an adapter brings along beside its updates.

    Attributes:
        names: All its tensors.
        labels: Those of the head that it saved; None if it saved none.
    """

    names: frozenset[str]
    labels: tuple[str, ...] | None

    def holds(self, key: str) -> bool:
        """Whether a weight of the model is among what the adapter saved."""
        return any(name == key or name.endswith(f".{key}") for name in self.names)

    def lacking(self, keys: Iterable[str]) -> list[str]:
        """The weights of the model that the adapter has not saved."""
        return sorted(key for key in keys if not self.holds(key))


def with_adapter(model: ModelInfo, adapter: ModelInfo) -> ModelInfo:
    """A model as tasks see it with an adapter: one that brings a head makes of a base a classifier.

    Args:
        model: What the adapter was trained on.
        adapter: Fetched or not; of one that is not, the labels are not known yet.
    """
    end = CLASS_ENDS.get(str(adapter.config.get("task_type")))
    if end is None or not adapter.config.get("modules_to_save"):
        return model
    config = dict(model.config)
    if not any(name.endswith(end) for name in model.architectures):
        family = re.split(r"For[A-Z]|Model$", (*model.architectures, "")[0])[0]
        config["architectures"] = [f"{family}{end}"]
    labels = look_into(adapter, model).labels if adapter.folder is not None else None
    for name in ("id2label", "label2id", "num_labels"):
        config.pop(name, None)
    return replace(model, config=config | label_fields(labels))


def label_fields(labels: Iterable[str] | None) -> dict[str, Any]:
    """Labels as a configuration has them."""
    if labels is None:
        return {}
    named = list(labels)
    return {
        "id2label": dict(enumerate(named)),
        "label2id": {label: at for at, label in enumerate(named)},
    }


def look_into(adapter: ModelInfo, model: ModelInfo) -> Brought:
    """What an adapter brings along, fetched from the hub if need be.

    How many labels there are is in the shape of the head; peft does not save what they are called.
    That is said by a ``config.json`` beside the adapter, or by the model's, if it has as many.

    Raises:
        JobError: Its weights can't be read.
    """
    from safetensors import SafetensorError, safe_open

    folder = fetch(adapter)
    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="numpy") as file:
            names = frozenset(file.keys())
            output = _output(names, adapter.config.get("modules_to_save") or ())
            rows = None if output is None else int(file.get_slice(output).get_shape()[0])
        beside = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    except (OSError, ValueError, SafetensorError) as error:
        raise JobError(
            f"adapter {adapter.reference}: {one_line(error)}", hint="Copy its files anew"
        ) from error
    if rows is None or adapter.config.get("task_type") == "QUESTION_ANS":
        return Brought(names, None)
    for config in (beside, model.config):
        if named := _named(config, rows):
            return Brought(names, named)
    return Brought(names, tuple(f"LABEL_{at}" for at in range(rows)))


def _output(names: frozenset[str], modules: Iterable[str]) -> str | None:
    """The saved tensor that has a row for each label."""
    ends = [f".{module}.{layer}" for module in modules for layer in OUTPUTS]
    found = [name for name in sorted(names) for end in ends if name.endswith(end)]
    return max(found, key=len, default=None)


def _named(config: Mapping[str, Any], count: int) -> tuple[str, ...] | None:
    """What a configuration calls so many labels; None if it has another number of them."""
    named = config.get("id2label")
    if not isinstance(named, dict) or len(named) != count:
        return None
    by_number = {str(number): str(label) for number, label in named.items()}
    if set(by_number) != {str(at) for at in range(count)}:
        return None
    return tuple(by_number[str(at)] for at in range(count))
