"""What is trained to find spans: a token classifier, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.learn.train.classifier import CHUNK, Learner
from pipeline.learn.train.data import LabelledText
from pipeline.learn.train.tagged import OUTSIDE, Span
from pipeline.models.results import strongest
from pipeline.tasks.spans.aggregate import Tags, aggregate
from pipeline.tasks.spans.ner import WordRule

# What the loss does not ask about: special tokens.
NOT_ASKED = -100
# How the task `ner` joins tokens if nobody says otherwise.
HOW = "first"


def tags_of(labels: Sequence[str]) -> list[str]:
    """The classes of tokens, in the BIO scheme."""
    return [OUTSIDE, *(f"{prefix}-{label}" for label in labels for prefix in "BI")]


@dataclass
class Tagger(Learner):
    """A model that is to learn spans; ``labels`` are those of tokens, from `tags_of`."""

    def encode(self, rows: Sequence[LabelledText]) -> tuple[dict[str, list[list[int]]], list[Any]]:
        """Texts as the model takes them, and a class index for each token, -100 for special ones.

        A token that is in a span in part is of it whole; such spans are counted.
        """
        made = self._made(rows)
        where = {label: at for at, label in enumerate(self.labels)}
        targets = []
        for row, offsets, special in zip(
            rows, made.pop("offset_mapping"), made.pop("special_tokens_mask"), strict=True
        ):
            given, inexact = token_tags(row.spans, offsets, special)
            self.inexact += inexact
            targets.append([NOT_ASKED if tag is None else where[tag] for tag in given])
        return made, targets

    def _made(self, rows: Sequence[LabelledText]) -> dict[str, list[list[Any]]]:
        tokens: dict[str, list[list[Any]]] = {}
        for at in range(0, len(rows), CHUNK):
            made = self.tokenizer(
                [row.text for row in rows[at : at + CHUNK]],
                truncation=True,
                max_length=self.max_tokens,
                return_offsets_mapping=True,
                return_special_tokens_mask=True,
            )
            self.cut += sum(bool(encoding.overflowing) for encoding in made.encodings)
            for name, values in made.items():
                if name in self.taken or name in ("offset_mapping", "special_tokens_mask"):
                    tokens.setdefault(name, []).extend(values)
        return tokens

    def collate(self, rows: Any) -> Any:
        """A batch of rows, padded, with -100 as the class of padding."""
        from transformers import DataCollatorForTokenClassification

        return DataCollatorForTokenClassification(self.tokenizer, label_pad_token_id=NOT_ASKED)(
            rows
        )

    def answers(self, rows: Sequence[LabelledText], *, batch: int) -> list[Any]:
        """The spans that the task `ner` finds in the part of each text that is read."""
        made = self._made(rows)
        offsets, special = made.pop("offset_mapping"), made.pop("special_tokens_mask")
        scores: list[np.ndarray] = [np.zeros((0, len(self.labels)))] * len(rows)
        for row, logits in self.computed(made, batch=batch):
            length = len(made["input_ids"][row])
            scores[row] = logits[:length].softmax(-1).numpy()
        inside = [~np.array(mask, dtype=bool) for mask in special]
        texts = np.repeat(np.arange(len(rows)), [int(mask.sum()) for mask in inside])
        flat = np.concatenate(
            [np.array(o).reshape(-1, 2)[m] for o, m in zip(offsets, inside, strict=True)]
        )
        ids = np.concatenate(
            [np.array(i)[m] for i, m in zip(made["input_ids"], inside, strict=True)]
        )
        spans = aggregate(
            strongest(np.concatenate([s[m] for s, m in zip(scores, inside, strict=True)])),
            rows=np.arange(len(texts)), texts=texts, starts=flat[:, 0], ends=flat[:, 1],
            subword=WordRule(self.tokenizer).subword([r.text for r in rows], texts, ids, flat),
            tags=(tags := Tags.of(self.labels)), how=HOW,
        )  # fmt: skip
        found: list[Any] = [[] for _ in rows]
        for row, label, start, end in zip(
            spans.text.tolist(), spans.label.tolist(), spans.start.tolist(), spans.end.tolist(),
            strict=True,
        ):  # fmt: skip
            found[row].append({"label": tags.names[label], "start": start, "end": end})
        return found


def token_tags(
    spans: Sequence[Span], offsets: Sequence[Sequence[int]], special: Sequence[int]
) -> tuple[list[str | None], int]:
    """The tag of each token, None for special ones, and how many spans end within a token.

    Args:
        spans: In their order, of which none overlap.
        offsets: Of each token, the first character and one past the last.
        special: 1 for tokens that stand for no text.
    """
    tags: list[str | None] = []
    inexact, at, begun = 0, 0, False
    for (start, end), is_special in zip(offsets, special, strict=True):
        while at < len(spans) and spans[at].end <= start:
            at, begun = at + 1, False
        if is_special:
            tags.append(None)
        elif at < len(spans) and start < end and spans[at].start < end:
            span = spans[at]
            tags.append(f"{'I' if begun else 'B'}-{span.label}")
            inexact += (not begun and start < span.start) or end > span.end
            begun = True
        else:
            tags.append(OUTSIDE)
    return tags, inexact
