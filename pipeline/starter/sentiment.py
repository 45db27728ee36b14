"""Converts ``starter/sentiment``: MiniLM plus the small part that was trained for it."""

from pathlib import Path

from pipeline.starter.low_rank import merge

TRAINED = "sentiment/trained.safetensors"
CARD = "sentiment/README.md"
LABELS = ("negative", "positive")

# After training anew: put the hash that train_sentiment prints here.
FILES = {TRAINED: "7ac36454ea3ddf31a4dec1a93d25cd6819a03d0692975b3d56b4a2b7636ee84a"}


def convert(source: Path, destination: Path, *, base: Path | None) -> None:
    """Write a `BertForSequenceClassification` folder.

    Args:
        source: Folder with the files of `FILES`.
        destination: An empty folder.
        base: Folder of ``starter/minilm``.

    Raises:
        JobError: The base is missing, or the trained part doesn't fit it.
    """
    config = {
        "architectures": ["BertForSequenceClassification"],
        "problem_type": "single_label_classification",
    }
    merge(
        source / TRAINED, destination, base=base, name="starter/sentiment", labels=LABELS,
        config=config,
    )  # fmt: skip
