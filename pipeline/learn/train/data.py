"""Labelled rows: read whole, checked, and divided by a hash of their text."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.errors import JobError, near
from pipeline.escape import visible
from pipeline.lake.source.base import Source
from pipeline.lake.source.open import as_found, open_source
from pipeline.lake.source.reader import texts_of
from pipeline.lake.split import Split
from pipeline.learn.kinds import are_texts, is_text
from pipeline.learn.train.job import TrainData
from pipeline.learn.train.tagged import Span, check_tagged, rows_of

PARTS = ("train", "validation", "test")
NOT_UTF8 = "text that is not UTF-8"


@dataclass(frozen=True)
class LabelledText:
    """A text and what is right of it: one label, several where rows have lists of them, or spans.

    Attributes:
        text: What is read.
        labels: Its own, or those of its spans, each once.
        spans: Of a text whose spans are known, in their order.
    """

    text: str
    labels: tuple[str, ...]
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class LabelledRows:
    """The rows of a training job, divided.

    Attributes:
        train: What is learned from.
        validation: What the best checkpoint is chosen by.
        test: What figures are of.
        labels: All labels, sorted.
        several: Whether a row has any number of labels.
        left_out: How many rows were, by reason.
        seen: What the files were, for the fingerprint: path, size and etag of each.
    """

    train: Sequence[LabelledText]
    validation: Sequence[LabelledText]
    test: Sequence[LabelledText]
    labels: Sequence[str]
    several: bool
    left_out: dict[str, int] = field(default_factory=dict)
    seen: Sequence[Sequence[object]] = ()


def read_rows(data: TrainData, *, seed: int, kind: str = "classify") -> LabelledRows:
    """Reads and divides the rows of a training job.

    Which part a row is in follows from its text and the seed alone: more rows change nothing for
    those that were there, and copies of a text are all in one part.

    Args:
        data: What the job says of them.
        seed: Of the division.
        kind: Of the task: labels of ``write`` are texts, of which no two need be the same; those
            of ``ner`` are spans, or a tag for each word.

    Raises:
        JobError: They can't be read, or nothing can be learned from them.
        SplitError: A file can't be read.
    """
    writes = kind == "write"
    readers = [_Reader(data, data.path, kind=kind)]
    rows = readers[0].rows
    parts: dict[str, list[LabelledText]] = {part: [] for part in PARTS}
    shares = {part: getattr(data, part) for part in ("test", "validation")}
    for row in rows:
        parts[_part(row.text, shares, seed=seed)].append(row)
    for part, given in shares.items():
        if isinstance(given, str):
            readers.append(_Reader(data, given, kind=kind))
            parts[part] = readers[-1].rows
    left_out = sum((reader.left_out for reader in readers), Counter[str]())
    known = {row.text for row in parts["train"]}
    for part in ("validation", "test"):
        apart = [row for row in parts[part] if row.text not in known]
        if len(apart) < len(parts[part]):
            left_out[f"in {part} and in training"] += len(parts[part]) - len(apart)
        parts[part] = apart
        known |= {row.text for row in apart}
    if len({reader.several for reader in readers}) > 1:
        raise JobError(
            f"data.label: column {data.label} holds lists in one dataset and texts in another",
            hint="Write all of them as the same",
        )
    found = LabelledRows(
        **parts,
        labels=[] if writes else sorted({label for row in rows for label in row.labels}),
        several=readers[0].several, left_out=dict(left_out),
        seen=[one for reader in readers for one in reader.seen],
    )  # fmt: skip
    _check_sizes(found, data, shares)
    if writes and found.several:
        raise JobError(f"data.label: column `{data.label}` holds lists, not texts to write",
                       hint="Name a column of texts")  # fmt: skip
    if not writes:
        _check_labels(found, data, alone=kind == "classify" and not found.several)
    return found


def _part(text: str, shares: dict[str, float | str], *, seed: int) -> str:
    digest = hashlib.sha256(f"{seed} {text}".encode()).digest()
    at = int.from_bytes(digest[:8], "big") / 2**64
    for part, share in shares.items():
        if isinstance(share, float):
            if at < share:
                return part
            at -= share
    return "train"


class _Reader:
    """The rows of one dataset."""

    def __init__(self, data: TrainData, address: str, *, kind: str) -> None:
        self.data = data
        self.spans = kind == "ner"
        self.left_out: Counter[str] = Counter()
        self.several = False
        source = as_found(open_source(address))
        listing = source.listing()
        if listing.missed:
            path, why = next(iter(listing.missed.items()))
            raise JobError(f"data.path: {source.where(path)} can't be listed: {why}",
                           hint="Check its permissions, or take it away")  # fmt: skip
        self.source: Source = source.settled(listing)
        self.seen = [(address, e.path, e.size, e.version) for e in listing.files]
        self.rows = list(self._rows(Split.of(e, fingerprint="") for e in listing.files))

    def _rows(self, splits: Iterable[Split]) -> Iterator[LabelledText]:
        for split in splits:
            with closing(self.source.open(split)) as opened:
                where = self.source.where(split.path)
                self._check_columns(opened.schema, where)
                first = 1
                for table in opened.batches([self.data.text, self.data.label]):
                    some = table.select([self.data.text, self.data.label])
                    for batch in some.to_batches():
                        yield from (
                            self._tagged(batch, where=where, first=first)
                            if self.spans else self._labelled(batch)
                        )  # fmt: skip
                        first += batch.num_rows

    def _check_columns(self, schema: pa.Schema, where: str) -> None:
        for name, column in (("text", self.data.text), ("label", self.data.label)):
            if column not in schema.names:
                raise JobError(
                    f"data.{name}: {where} has no column `{column}`; there are "
                    f"{', '.join(schema.names)}",
                    hint=f"{near(column, schema.names)} as data.{name}",
                )
        if self.spans:
            columns = (self.data.text, self.data.label)
            check_tagged(*(schema.field(one).type for one in columns), names=columns, where=where)
            return
        for name, column in (("text", self.data.text), ("label", self.data.label)):
            kind = schema.field(column).type
            lists = name == "label" and are_texts(kind)
            if not lists and not is_text(kind):
                wanted = "text, or a list of texts" if name == "label" else "text"
                raise JobError(
                    f"data.{name}: column `{column}` of {where} is {kind}; it must be {wanted}",
                    hint="Write numbers and yes or no as words, such as spam and ham"
                    if name == "label" else "Name another column",
                )  # fmt: skip
            if name == "label":
                self.several = self.several or lists

    def _labelled(self, batch: pa.RecordBatch) -> Iterator[LabelledText]:
        texts, broken = texts_of(batch.column(0))
        lists = not is_text(batch.column(1).type)
        labels = batch.column(1).to_pylist() if lists else texts_of(batch.column(1))[0]
        for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
            if row in broken:
                self.left_out[NOT_UTF8] += 1
            elif text is None or not text.strip():
                self.left_out["without a text"] += 1
            elif label is None or (not lists and not label.strip()):
                self.left_out["without a label"] += 1
            else:
                some = label if lists else [label]
                yield LabelledText(text, tuple(sorted({one for one in some if one})))

    def _tagged(self, batch: pa.RecordBatch, *, where: str, first: int) -> Iterator[LabelledText]:
        words = not is_text(batch.column(0).type)
        texts, broken = (batch.column(0).to_pylist(), {}) if words else texts_of(batch.column(0))
        labels = batch.column(1).to_pylist()
        for row, found in enumerate(rows_of(texts, labels, where=where, first=first)):
            if row in broken:
                self.left_out[NOT_UTF8] += 1
            elif isinstance(found, str):
                self.left_out[found] += 1
            else:
                text, spans = found
                yield LabelledText(text, tuple(sorted({span.label for span in spans})), spans)


def _check_sizes(rows: LabelledRows, data: TrainData, shares: dict[str, float | str]) -> None:
    sizes = {part: len(getattr(rows, part)) for part in PARTS}
    said = ", ".join(f"{sizes[part]:,} {part}" for part in PARTS)
    if not sum(sizes.values()):
        raise JobError(f"data.label: no row of {data.path} has both a text and a label in column "
                       f"`{data.label}`", hint="Name another column")  # fmt: skip
    for part in ("train", "validation", "test"):
        if shares.get(part, True) and not sizes[part]:
            raise JobError(
                f"data.{part}: no row is left for it ({said})",
                hint="Give more rows, or other shares; data.validation: 0 and data.test: 0 do "
                "without",
            )


def _check_labels(rows: LabelledRows, data: TrainData, *, alone: bool) -> None:
    """Refuses labels that nothing can be learned from, or measured on."""
    if not rows.labels:
        raise JobError(f"data.label: column `{data.label}` of {data.path} names no label at all",
                       hint="Name another column")  # fmt: skip
    if len(rows.labels) == 1 and alone:
        raise JobError(
            f"data.label: all rows of {data.path} have the label {_shown(rows.labels[0])}, so that "
            "there is nothing to tell apart",
            hint="Add rows of another label",
        )
    if len(rows.labels) > len(rows.train) / 2:
        raise JobError(
            f"data.label: column `{data.label}` has {len(rows.labels):,} labels in "
            f"{len(rows.train):,} rows to train on, and at least two rows of each are needed",
            hint="Name the column that holds labels, or give more rows",
        )
    learned = {label for row in rows.train for label in row.labels}
    for part in ("validation", "test"):
        unseen = Counter(
            label for row in getattr(rows, part) for label in row.labels if label not in learned
        )
        if unseen:
            label, count = unseen.most_common(1)[0]
            raise JobError(
                f"data.{part}: no row to train on has the label {_shown(label)}, of which there "
                f"{'is 1' if count == 1 else f'are {count:,}'} in {part}",
                hint="Give more rows of it, leave them out, or divide by another train.seed",
            )


def _shown(label: str) -> str:
    return repr(visible(label, most=60))
