"""Low-rank updates of a model that stays as it is: LoRA, by the library peft.

The method: Hu et al. 2021, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.errors import JobError
from pipeline.learn.train.job import LoraOptions

ADAPTER = "adapter"
TASK_TYPES = {"classify": "SEQ_CLS", "ner": "TOKEN_CLS"}


def with_lora(model: Any, options: LoraOptions, *, kind: str, anew: Collection[str]) -> Any:
    """A model of which only updates of its linear layers are trained, and what is new in it.

    Args:
        model: Of transformers, with a head.
        options: As the job says.
        kind: Of the task.
        anew: Names of parameters that the base did not bring along: they are random.

    Raises:
        JobError: peft is not there.
    """
    if find_spec("peft") is None:
        raise JobError("train.lora needs peft", hint="pip install 'shardscribe[adapters]'")
    from peft import LoraConfig, get_peft_model

    body = f"{model.base_model_prefix}."
    names = [name for name, _ in model.named_parameters()]
    whole = {name.split(".")[0] for name in names if not name.startswith(body)}
    whole |= {name.rpartition(".")[0] for name in names if name in anew and name.startswith(body)}
    config = LoraConfig(
        task_type=TASK_TYPES[kind],
        r=options.rank,
        lora_alpha=2 * options.rank,
        target_modules="all-linear",
        exclude_modules=sorted(whole),
        modules_to_save=sorted(whole),
    )
    return get_peft_model(model, config)


def unwrapped(model: Any) -> Any:
    """The model without its updates' wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def save_merged(model: Any, folder: Path, *, base: str) -> None:
    """Writes a model with its updates merged, and these by themselves as ``adapter/``.

    Args:
        model: From `with_lora`, or any other, which is written as it is.
        folder: Where to.
        base: What the updates are of, as a job names it.
    """
    if unwrapped(model) is model:
        model.save_pretrained(folder)
        return
    model.save_pretrained(folder / ADAPTER)
    # peft writes the folder that the base was read from, which is this machine's.
    config = folder / ADAPTER / "adapter_config.json"
    said = json.loads(config.read_text(encoding="utf-8")) | {"base_model_name_or_path": base}
    config.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    (folder / ADAPTER / "README.md").unlink(missing_ok=True)  # peft's: a form to fill in
    # What the labels are called: peft does not save it.
    unwrapped(model).config.save_pretrained(folder / ADAPTER)
    copy.deepcopy(model).merge_and_unload().save_pretrained(folder)
