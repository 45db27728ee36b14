"""Rows of which spans are known, or a tag for each word: what a token classifier learns from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.types as types

from pipeline.errors import JobError
from pipeline.escape import visible
from pipeline.learn.kinds import are_texts, is_list, is_text

SPANS = "list<struct<label: string, start, end>>"
OUTSIDE = "O"
# Of BIO, IOBES and BILOU: a tag that opens a span, and one that closes it.
OPENS, CLOSES = ("B", "S", "U"), ("E", "L", "S", "U")
PREFIXES = ("B", "I", "E", "L", "S", "U")


class Span(NamedTuple):
    """Characters of a text that have a name: ``text[start:end]``."""

    start: int
    end: int
    label: str


def check_tagged(
    text: pa.DataType, label: pa.DataType, *, names: Sequence[str], where: str
) -> None:
    """Refuses columns that hold neither texts with spans nor words with tags.

    Args:
        text: The type of the text column.
        label: That of the label column.
        names: What the two are called.
        where: The file.

    Raises:
        JobError: Naming the column.
    """
    if is_text(text):
        wanted, right = f"{SPANS}, as text is in column `{names[0]}`", are_spans(label)
    elif are_texts(text):
        wanted, right = f"list<string>, a tag for each word of `{names[0]}`", are_texts(label)
    else:
        raise JobError(
            f"data.text: column `{names[0]}` of {where} is {text}; it must be text, or a list of "
            "words",
            hint="Name another column",
        )
    if not right:
        raise JobError(
            f"data.label: column `{names[1]}` of {where} is {label}; it must be {wanted}",
            hint="Write tags as words, such as B-PER" if are_texts(text)
            else "start and end are characters of the text, end exclusive",
        )  # fmt: skip


def are_spans(kind: pa.DataType) -> bool:
    """Whether a column holds a list of named spans in each row."""
    if not is_list(kind):
        return False
    inner = kind.value_type
    parts = {inner.field(at).name: inner.field(at).type for at in range(inner.num_fields)}
    return (
        types.is_struct(inner)
        and is_text(parts.get("label", pa.null()))
        and all(types.is_integer(parts.get(name, pa.null())) for name in ("start", "end"))
    )


def checked(
    text: str, spans: Sequence[Mapping[str, Any] | None], *, where: str
) -> tuple[Span, ...] | None:
    """The spans of a text in their order; None if some overlap, as a token has one label alone.

    Args:
        text: What they are spans of.
        spans: Each with ``label``, ``start`` and ``end``.
        where: File and row.

    Raises:
        JobError: One is none of this text.
    """
    found = []
    for span in spans:
        start, end, label = ((span or {}).get(name) for name in ("start", "end", "label"))
        if start is None or end is None or not label or not 0 <= start < end <= len(text):
            raise JobError(
                f"data.label: {where}: the span {visible(str(label), most=40)!r} from {start} to "
                f"{end} is none of its text of {len(text):,} characters",
                hint="Spans are {label, start, end} in characters of the text, end exclusive",
            )
        found.append(Span(start, end, label))
    found.sort()
    if any(after.start < before.end for before, after in pairwise(found)):
        return None
    return tuple(found)


def joined(
    words: Sequence[str], tags: Sequence[str], *, where: str
) -> tuple[str, tuple[Span, ...]]:
    """Words as a text with a space between each two, and the spans that their tags tell.

    Args:
        words: Of a row.
        tags: One for each: ``O``, or a label with ``B-``, ``I-``, ``E-``, ``S-`` (``L-``, ``U-``)
            before it, or without.
        where: File and row.

    Raises:
        JobError: There are more or fewer tags than words.
    """
    if len(words) != len(tags):
        raise JobError(
            f"data.label: {where} has {len(words):,} words and {len(tags):,} tags",
            hint="Give each word a tag, O where it is of no span",
        )
    spans: list[Span] = []
    at, open_ = 0, False
    for word, tag in zip(words, tags, strict=True):
        prefix, label = _parts(tag)
        if label is None:
            open_ = False
        elif open_ and prefix not in OPENS and spans[-1].label == label:
            spans[-1] = Span(spans[-1].start, at + len(word), label)
        else:
            spans.append(Span(at, at + len(word), label))
        open_ = label is not None and prefix not in CLOSES
        at += len(word) + 1
    return " ".join(words), tuple(span for span in spans if span.start < span.end)


def _parts(tag: str) -> tuple[str, str | None]:
    if tag == OUTSIDE:
        return "", None
    prefix, hyphen, label = tag.partition("-")
    return (prefix, label) if hyphen and label and prefix in PREFIXES else ("", tag)


def rows_of(
    texts: Sequence[Any], labels: Sequence[Any], *, where: str, first: int
) -> Iterator[tuple[str, tuple[Span, ...]] | str]:
    """A text and its spans for each row, or why it is left out.

    Args:
        texts: Texts, or lists of words; None for what there is not.
        labels: Lists of spans, or of tags.
        where: The file.
        first: The number of the first row, from 1.

    Raises:
        JobError: A row can't be right.
    """
    for row, (text, label) in enumerate(zip(texts, labels, strict=True), start=first):
        place = f"row {row:,} of {where}"
        words = [] if text is None else [text] if isinstance(text, str) else text
        if None in words or not "".join(words).strip():
            yield "without a text"
        elif label is None or (words is text and None in label):
            yield "without a label"
        elif words is not text:
            spans = checked(text, label, where=place)
            yield (text, spans) if spans is not None else "whose spans overlap"
        else:
            yield joined(text, label, where=place)
