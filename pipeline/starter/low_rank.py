"""A starter that is MiniLM plus a small part that was trained for it, in this repository.

The part holds only what training changed: low-rank updates of linear layers (LoRA, Hu et al. 2021,
https://arxiv.org/abs/2106.09685), their scale in `UP` already, and whole tensors of a head. Merged
into MiniLM they make an ordinary model; nothing of the method is left at run time.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import JobError
from pipeline.starter.minilm import read_json, write_json

DOWN = ".low_rank_down"
UP = ".low_rank_up"


def merge(
    trained: Path, destination: Path, *, base: Path | None, name: str, labels: Sequence[str],
    config: Mapping[str, Any], without: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """Writes the folder of a starter.

    Args:
        trained: The file of the trained part.
        destination: An empty folder.
        base: Folder of ``starter/minilm``.
        name: Of the starter, for messages.
        labels: By class index.
        config: What else its configuration says.
        without: Tensors of the base whose names begin so are left out.

    Raises:
        JobError: The base is missing, or the trained part doesn't fit it.
    """
    from safetensors.numpy import load_file, save_file

    if base is None:
        raise JobError(f"{name} is built on starter/minilm, which is missing.")
    state = {f"bert.{key}": value for key, value in load_file(base / "model.safetensors").items()}
    state = {key: value for key, value in state.items() if not key.startswith(without)}
    state.pop("bert.embeddings.position_ids", None)
    part = {key: value.astype("float32") for key, value in load_file(trained).items()}
    for key, value in part.items():
        if key.endswith(DOWN):
            weight = f"{key.removesuffix(DOWN)}.weight"
            if weight not in state:
                raise JobError(f"{trained.name} changes {weight}, which starter/minilm lacks.")
            state[weight] = state[weight] + part[key.removesuffix(DOWN) + UP] @ value
        elif not key.endswith(UP):
            state[key] = value
    save_file(state, destination / "model.safetensors", {"format": "pt"})
    named = {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    write_json(destination / "config.json", read_json(base / "config.json") | named | dict(config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / file, destination / file)
