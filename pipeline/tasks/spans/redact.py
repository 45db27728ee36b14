"""Redact: the text with the entities of chosen labels masked, and all else as it was."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from pipeline.errors import JobError
from pipeline.models.heads import HeadName, Models
from pipeline.models.resolve import ModelInfo
from pipeline.tasks.contract import Annotated, Example, Names, Task, TaskOptions
from pipeline.tasks.spans.aggregate import Tags
from pipeline.tasks.spans.ner import Ner, NerAnnotate, NerOptions

if TYPE_CHECKING:
    import pyarrow as pa

SECRET = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
# 64 bits: among a million different names, two share a digest with a chance of 3 in 100 million.
DIGEST_DIGITS = 16
Mask = Callable[[str, str], str]


class RedactOptions(TaskOptions):
    """The text without names, places, numbers, ..."""

    kind: Literal["redact"]
    labels: Names | None = Field(
        None, title="Labels", description="Which entities are masked; all by default."
    )
    min_score: float = Field(
        0.0,
        title="Least score",
        description="Entities that the model is less sure of stay.",
        ge=0,
        le=1,
    )
    replace_with: str | None = Field(
        None,
        title="Replacement",
        description="What stands for every entity; `[LABEL]`, with the entity's label, by default.",
    )
    hash_key: str | None = Field(
        None,
        title="Hash key",
        description="`${env:NAME}`: a secret from the environment of every worker. Entities become "
        "`[LABEL:digest]`, the first 16 hexadecimal digits of HMAC-SHA256 over their letters: the "
        "same name, the same digest, for whoever has the key. Only the variable's name is kept in "
        "records.",
        json_schema_extra={"pattern": f"^{SECRET.pattern}$"},
    )
    aggregation: Literal["simple", "first", "average", "max"] = Field(
        "first",
        title="Tokens to entities",
        description="As for ner; whole words but for simple.",
    )

    @field_validator("hash_key")
    @classmethod
    def _no_secret_in_the_file(cls, hash_key: str | None) -> str | None:
        if hash_key is not None and not SECRET.fullmatch(hash_key):
            # The message does not repeat what may be a secret.
            raise ValueError("write ${env:NAME}: secrets come from the environment, by name")
        return hash_key

    @field_validator("labels")
    @classmethod
    def _each_label_once(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = next((name for name in labels or () if (labels or ()).count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"`{twice}` stands twice: name each label once")
        return labels

    @model_validator(mode="after")
    def _one_way_to_mask(self) -> RedactOptions:
        if self.replace_with is not None and self.hash_key is not None:
            raise ValueError("give either `replace_with` or `hash_key`")
        return self


class Redact(Task[RedactOptions]):
    """Masks what a token-classification model finds.

    The text with entities of the chosen `labels` (all by default) as `[LABEL]`, as `replace_with`,
    or with `hash_key: ${env:NAME}` as a digest that is the same for the same name. Entities that
    overlap are one, and so are those of one label that touch. A model of 18 million parameters such
    as `starter/pii` overlooks some names and takes some words for names: what it leaves holds less
    that is personal, and is not anonymous. Read a sample before you pass it on.
    """

    Options = RedactOptions
    class_ends = Ner.class_ends
    needs = Ner.needs
    examples = (
        Example("starter/pii"),
        Example("starter/pii", {"labels": ["SURNAME", "PHONE"]}, name="chosen"),
    )

    def output_type(self) -> pa.DataType:
        """``struct<text, spans>``: the masked text, and how many entities were masked in it."""
        import pyarrow as pa

        return pa.struct([("text", pa.string()), ("spans", pa.int32())])

    def check_model(self, model: ModelInfo) -> None:
        """Refuses a model of another head, labels that it does not have, and a secret that is not.

        Raises:
            JobError: As said.
        """
        super().check_model(model)
        if self.options.hash_key is not None:
            _secret(self.options.hash_key)
        id2label = model.config.get("id2label") or {}
        if id2label:
            self._check_labels(Tags.of(list(id2label.values())).names, model.reference)

    def head(self, model: ModelInfo) -> HeadName:
        """The model is loaded as a token classifier."""
        return "token-classification"

    def load(self, models: Models) -> RedactAnnotate:
        """Loads the model, and the secret if there is one.

        Raises:
            JobError: The environment of this worker does not hold it.
        """
        options = self.options
        ner = Ner(
            NerOptions(kind="ner", model=options.model, aggregation=options.aggregation)
        ).load(models)
        self._check_labels(ner.tags.names, options.model)
        return RedactAnnotate(ner, options, self._mask(), self.output_type())

    def _check_labels(self, known: Sequence[str], reference: str) -> None:
        for label in self.options.labels or ():
            if label not in known or label == "O":
                names = ", ".join(sorted(set(known) - {"O"}))
                raise JobError(
                    f"model {reference} knows no label {label!r}", hint=f"Use some of {names}"
                )

    def _mask(self) -> Mask:
        options = self.options
        if options.hash_key is not None:
            key = _secret(options.hash_key)
            return lambda label, text: f"[{label}:{digest(key, text)}]"
        fixed = options.replace_with
        if fixed is not None:
            return lambda label, text: fixed
        return lambda label, text: f"[{label}]"


def _secret(reference: str) -> bytes:
    """The value of an environment variable.

    Raises:
        JobError: It is not set, or empty.
    """
    found = SECRET.fullmatch(reference)
    name = found[1] if found else reference
    value = os.environ.get(name, "")
    if not value:
        raise JobError(
            f"the environment variable {name} is not set",
            hint="Set it here and, before Ray is started, on every machine",
        )
    return value.encode()


def digest(key: bytes, text: str) -> str:
    """What stands for a text among those who have the key."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:DIGEST_DIGITS]


class RedactAnnotate:
    """Masks entities with a loaded model."""

    def __init__(
        self, ner: NerAnnotate, options: RedactOptions, mask: Mask, output_type: pa.DataType
    ) -> None:
        self.ner = ner
        self.mask = mask
        self.min_score = options.min_score
        self.labels = options.labels
        self.output_type = output_type

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One masked text per text."""
        import pyarrow as pa

        found = self.ner.annotate(texts)
        entities = found.column.flatten()
        owner = found.column.value_parent_indices().to_numpy(zero_copy_only=False)
        wanted = entities.field("score").to_numpy() >= np.float32(self.min_score)
        labels = entities.field("label").to_pylist()
        if self.labels is not None:
            wanted &= np.array([label in self.labels for label in labels], dtype=bool)
        starts, ends = entities.field("start").to_pylist(), entities.field("end").to_pylist()
        spans: list[list[tuple[int, int, str]]] = [[] for _ in texts]
        for at in np.flatnonzero(wanted).tolist():
            spans[int(owner[at])].append((starts[at], ends[at], labels[at]))
        masked = [replace(text, of, self.mask) for text, of in zip(texts, spans, strict=True)]
        bad = np.zeros(len(texts), dtype=bool)
        bad[list(found.failures)] = True
        found.column = pa.StructArray.from_arrays(
            [
                pa.array([text for text, _ in masked], pa.string()),
                pa.array([count for _, count in masked], pa.int32()),
            ],
            fields=list(self.output_type),
            mask=pa.array(bad),
        )
        return found


def replace(text: str, spans: Sequence[tuple[int, int, str]], mask: Mask) -> tuple[str, int]:
    """Masks some spans of a text.

    Args:
        text: Of which all else stays as it is.
        spans: Start, end and label of each, in any order. Those that overlap are masked as one,
            of the label of the longest; so are those of one label that touch.
        mask: What stands for a label and the letters under it.

    Returns:
        The text, and how many spans were masked.
    """
    groups: list[list[tuple[int, int, str]]] = []
    reached = -1
    for span in sorted((s for s in spans if s[0] < s[1]), key=lambda span: span[:2]):
        if groups and span[0] < reached:
            groups[-1].append(span)
        else:
            groups.append([span])
        reached = max(reached, span[1])
    merged: list[tuple[int, int, str]] = []
    for group in groups:
        start, end = group[0][0], max(span[1] for span in group)
        label = max(group, key=lambda span: span[1] - span[0])[2]
        if merged and merged[-1][1:] == (start, label):
            start = merged.pop()[0]
        merged.append((start, end, label))
    parts: list[str] = []
    at = 0
    for start, end, label in merged:
        parts += [text[at:start], mask(label, text[start:end])]
        at = end
    return "".join([*parts, text[at:]]), len(merged)
