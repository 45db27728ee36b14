"""Converts ``starter/sentiment``: MiniLM plus the small part that was trained for it.

The repository holds only what training changed (`sentiment/trained.safetensors`): low-rank updates
of the encoder's linear layers, and a pooler and a head. Merged into MiniLM they make an ordinary
`BertForSequenceClassification`; nothing of the method is left at run time.
"""

import shutil
from pathlib import Path

from pipeline.errors import JobError
from pipeline.starter.minilm import read_json, write_json

TRAINED = "sentiment/trained.safetensors"
CARD = "sentiment/README.md"
LABELS = ("negative", "positive")

# After training anew: put the hash that train_sentiment prints here.
FILES = {TRAINED: "7ac36454ea3ddf31a4dec1a93d25cd6819a03d0692975b3d56b4a2b7636ee84a"}

DOWN = ".low_rank_down"
UP = ".low_rank_up"


def convert(source: Path, destination: Path, *, base: Path | None) -> None:
    """Write a `BertForSequenceClassification` folder.

    Args:
        source: Folder with the files of `FILES`.
        destination: An empty folder.
        base: Folder of ``starter/minilm``.

    Raises:
        JobError: The base is missing, or the trained part doesn't fit it.
    """
    from safetensors.numpy import load_file, save_file

    if base is None:
        raise JobError("starter/sentiment is built on starter/minilm, which is missing.")
    state = {f"bert.{name}": value for name, value in load_file(base / "model.safetensors").items()}
    state.pop("bert.embeddings.position_ids", None)
    trained = {name: value.astype("float32") for name, value in load_file(source / TRAINED).items()}
    for name, value in trained.items():
        if name.endswith(DOWN):
            # LoRA: W + B A, https://arxiv.org/abs/2106.09685; its scale is in B already.
            weight = f"{name.removesuffix(DOWN)}.weight"
            if weight not in state:
                raise JobError(f"{TRAINED} changes {weight}, which starter/minilm doesn't have.")
            state[weight] = state[weight] + trained[name.removesuffix(DOWN) + UP] @ value
        elif not name.endswith(UP):
            state[name] = value
    save_file(state, destination / "model.safetensors", {"format": "pt"})
    config = read_json(base / "config.json") | {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(index): label for index, label in enumerate(LABELS)},
        "label2id": {label: index for index, label in enumerate(LABELS)},
        "problem_type": "single_label_classification",
    }
    write_json(destination / "config.json", config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, destination / name)
