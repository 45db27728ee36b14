"""How often a sequence classifier is right about reviews, in batches of like length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.starter.reviews import LABELS, LONG, SHORT, Review

BATCH_TOKENS = 8_192


@dataclass(frozen=True)
class EncodedReview:
    """A review: its token ids, special tokens included, and the index of its label."""

    ids: list[int]
    target: int


def encode(texts: Sequence[Review], tokenizer: Any, *, most: int) -> list[EncodedReview]:
    """Tokenize reviews.

    Args:
        texts: The reviews.
        tokenizer: MiniLM's.
        most: Longer ones are cut to this many tokens, special ones included.

    Returns:
        An example each, in the same order.
    """
    ids = tokenizer([item.text for item in texts], truncation=True, max_length=most)["input_ids"]
    return [
        EncodedReview(row, LABELS.index(item.label)) for row, item in zip(ids, texts, strict=True)
    ]


def _rounded(length: int) -> int:
    # Kernels are compiled for every new shape, so there had better be few.
    return -(-length // 16) * 16


def batches(examples: Sequence[EncodedReview], *, tokens: int, rows: int) -> Iterator[list[int]]:
    """Group rows of like length.

    Args:
        examples: The rows.
        tokens: Most tokens of a batch, padding counted.
        rows: Most rows of a batch.

    Yields:
        Positions of the rows of a batch, the shortest rows first.
    """
    batch: list[int] = []
    for position in sorted(range(len(examples)), key=lambda row: len(examples[row].ids)):
        longest = _rounded(len(examples[position].ids))
        if batch and (longest * (len(batch) + 1) > tokens or len(batch) == rows):
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def logits_of(model: Any, examples: Sequence[EncodedReview]) -> Tensor:
    """Run a model over a batch.

    Args:
        model: A sequence classifier.
        examples: The batch.

    Returns:
        Of shape (rows, labels).
    """
    width = _rounded(max(len(item.ids) for item in examples))
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(examples):
        ids[row, : len(item.ids)] = torch.tensor(item.ids)
        mask[row, : len(item.ids)] = 1
    result: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return result


@torch.inference_mode()
def correct(model: Any, examples: Sequence[EncodedReview]) -> list[bool]:
    """Tell for each example whether the model is right.

    Args:
        model: A sequence classifier.
        examples: The examples.

    Returns:
        In the order of the examples.
    """
    model.eval()
    right = [False] * len(examples)
    for batch in batches(examples, tokens=BATCH_TOKENS, rows=len(examples)):
        rows = [examples[position] for position in batch]
        for position, row, label in zip(
            batch, rows, logits_of(model, rows).argmax(-1).tolist(), strict=True
        ):
            right[position] = label == row.target
    return right


def accuracy(folder: Path, texts: Sequence[Review]) -> dict[str, tuple[float, int]]:
    """Measure a finished model folder as a user would load it.

    Args:
        folder: The model.
        texts: Reviews that training has not seen.

    Returns:
        ``all`` and each source to accuracy and number of rows.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    examples = encode(texts, AutoTokenizer.from_pretrained(folder), most=512)
    right = correct(model, examples)
    figures = {}
    for kind in ("all", SHORT, LONG):
        rows = [ok for ok, item in zip(right, texts, strict=True) if kind in ("all", item.source)]
        figures[kind] = (sum(rows) / len(rows), len(rows))
    return figures
