"""Converts ``starter/ner``: MiniLM plus the small part that `jobs/train_ner.yaml` trained."""

from pathlib import Path

from pipeline.starter.low_rank import merge

TRAINED = "ner/trained.safetensors"
CARD = "ner/README.md"
KINDS = ("location", "organization", "person")
LABELS = ("O", *(f"{prefix}-{kind}" for kind in KINDS for prefix in "BI"))

# After training anew: put the hash that pack_starter prints here.
FILES = {TRAINED: "bc09e0dc673dfc69041037d93f83a10214c46b4dee064b087d691a56f104a9bf"}


def convert(source: Path, destination: Path, *, base: Path | None) -> None:
    """Write a `BertForTokenClassification` folder.

    Args:
        source: Folder with the files of `FILES`.
        destination: An empty folder.
        base: Folder of ``starter/minilm``.

    Raises:
        JobError: The base is missing, or the trained part doesn't fit it.
    """
    merge(
        source / TRAINED, destination, base=base, name="starter/ner", labels=LABELS,
        config={"architectures": ["BertForTokenClassification"]}, without=("bert.pooler.",),
    )  # fmt: skip
