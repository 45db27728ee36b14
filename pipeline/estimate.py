"""Shares and means over a whole annotated output, right although the model errs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.annotated import AnnotatedColumn, check_there
from pipeline.errors import JobError
from pipeline.escape import visible

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from pipeline.job.job import Job
    from pipeline.learn.gold_file import GoldFile
    from pipeline.learn.numbers import Numbers

MOST_GROUPS = 10_000


@dataclass
class Sums:
    """What is added up over the rows of a group.

    Attributes:
        rows: How many are annotated.
        parts: Sums of the numbers, and of their squares; of shape [2, labels so far].
    """

    rows: int
    parts: npt.NDArray[np.float64]


@dataclass
class Matched:
    """What of an output the gold rows stand for.

    Attributes:
        groups: What is added up, by group.
        found: Numbers and group of each gold row that was found, by its place.
        unanswered: Rows without an annotation.
        gold_unanswered: Gold rows that have none.
        alike: Keys of gold rows that several rows of the output have.
    """

    groups: dict[Any, Sums] = field(default_factory=dict)
    found: dict[int, tuple[npt.NDArray[np.float64], Any]] = field(default_factory=dict)
    unanswered: int = 0
    gold_unanswered: set[int] = field(default_factory=set)
    alike: set[int] = field(default_factory=set)


def estimate(
    address: str,
    *,
    gold: Path,
    job: Job | None = None,
    column: str = "gold",
    key: str | None = None,
    task: str | None = None,
    label: str | None = None,
    by: str | None = None,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Shares or means over all annotated rows, with intervals that hold although the model errs.

    Args:
        address: An output.
        gold: A file of rows of it, drawn at random, of which the right answer is known.
        job: Whose output it is, if that is known.
        column: Which column of the file is right.
        key: By which column rows are found; the only one that both have by default.
        task: Which annotations; the only labels by default.
        label: Which label; all of them by default.
        by: A column of the output: each of its values is a group with an estimate of its own.
        confidence: Of the intervals, between 0 and 1.

    Raises:
        JobError: The output or the file is wrong.
    """
    from pipeline.learn.gold_file import WEIGHT, columns_there, read_gold
    from pipeline.learn.numbers import NUMBER, Numbers, gold_labels, right_numbers

    lake = AnnotatedColumn.at(address, job=job, task=task)
    key = key or _shared_key(
        columns_there(gold), lake, gold, without={column, by, lake.task, WEIGHT}
    )
    for name, option in ((key, "--key"), (by, "--by")):
        if name is not None:
            check_there(name, lake.schema.names, option=option)
    kind = lake.schema.field(key).type
    truth = read_gold(gold, column=column, key=key, of=kind, asked=lake.asked)
    numbers = Numbers(lake.asked)
    shift = float(right_numbers(truth.gold, NUMBER, "").mean()) if lake.asked == NUMBER else 0.0
    matched = _match(lake, numbers, truth, key=key, by=by, shift=shift)
    if lake.asked != NUMBER:
        _check_labels(gold_labels(truth.gold), numbers, label, gold=gold, column=column)
    if not matched.found:
        raise JobError(
            f"none of {len(truth.keys):,} gold rows of {gold} has an annotation in {address}",
            hint=f"Look whether `{key}` is the same in both",
        )
    labels = [label] if label is not None and lake.asked != NUMBER else sorted(numbers.labels)
    rights = {name: right_numbers(truth.gold, lake.asked, name) for name in labels}
    table = _Estimates(matched, truth, numbers, shift, confidence, lake.asked)
    groups = [None] if by is None else sorted(matched.groups, key=lambda g: (g is None, str(g)))
    rows = [table.of(group, name, rights[name], whole=by is None)
            for group in groups for name in labels]  # fmt: skip
    missing = len(truth.keys) - len(matched.found) - len(matched.gold_unanswered)
    return {
        "output": address,
        "task": lake.task,
        "of": lake.asked,
        "key": key,
        "by": by,
        "confidence": confidence,
        "rows": sum(sums.rows for sums in matched.groups.values()),
        "unanswered": matched.unanswered,
        "gold": {"rows": len(matched.found), "weighted": truth.weights is not None,
                 "unmatched": missing, "unanswered": len(matched.gold_unanswered),
                 "alike": len(matched.alike), **truth.left_out},
        "estimates": rows,
    }  # fmt: skip


@dataclass(frozen=True)
class _Estimates:
    matched: Matched
    truth: GoldFile
    numbers: Numbers
    shift: float
    confidence: float
    asked: str

    def of(self, group: Any, label: str, right: Any, *, whole: bool) -> dict[str, Any]:
        """One estimate, as plain data."""
        import numpy as np

        from pipeline.learn.numbers import LABEL, NUMBER
        from pipeline.learn.prediction_powered import (
            Moments,
            gold_mean,
            powered_mean,
            why_no_interval,
        )

        at = self.numbers.labels.get(label, 0)
        sums = self.matched.groups[None if whole else group]
        picked = [(row, said[at] if at < len(said) else 0.0)
                  for row, (said, where) in sorted(self.matched.found.items())
                  if whole or where == group]  # fmt: skip
        total = sums.parts[:, at] if at < sums.parts.shape[1] else np.zeros(2)
        lake = Moments.of(sums.rows, *map(float, total)) if sums.rows else None
        report: dict[str, Any] = {"group": group} if not whole else {}
        report |= {"label": label if self.asked != NUMBER else None,
                   "rows": sums.rows, "gold_rows": len(picked),
                   "value": None, "low": None, "high": None, "power": None,
                   "annotations": lake and lake.mean + self.shift, "gold_alone": None}  # fmt: skip
        rows = [row for row, _ in picked]
        true = right[rows]
        why = why_no_interval(true, share=self.asked == LABEL)
        if why is None and lake is not None:
            weights = self.truth.weights
            each = np.asarray(weights)[rows] if weights is not None else None
            found = np.array([value for _, value in picked]) - self.shift
            sure = self.confidence
            report |= powered_mean(true - self.shift, found, lake, weights=each, confidence=sure)
            for end in ("value", "low", "high"):
                report[end] += self.shift
            report["gold_alone"] = gold_mean(true, weights=each, confidence=sure)
        return {**report, "why": why}


def _match(
    lake: AnnotatedColumn,
    numbers: Numbers,
    truth: GoldFile,
    *,
    key: str,
    by: str | None,
    shift: float,
) -> Matched:
    """Reads all of an output once."""
    import numpy as np
    import pyarrow.compute as pc

    matched = Matched()
    for batch in lake.batches(numbers, key, *([by] if by is not None else [])):
        values = batch.values - shift
        matched.unanswered += int((~batch.there).sum())
        places = pc.index_in(batch.table[key].cast(truth.keys.type), value_set=truth.keys)
        place = np.asarray(places.combine_chunks().fill_null(-1))
        names, codes = _groups(batch.table, by)
        _add(matched, names, codes[batch.there], values)
        row_of = batch.there.cumsum() - 1
        for row in np.flatnonzero(place >= 0).tolist():
            which = int(place[row])
            if which in matched.found or which in matched.gold_unanswered:
                matched.alike.add(which)
            elif batch.there[row]:
                said = batch.values[row_of[row]].copy()
                matched.found[which] = (said, names[codes[row]])
            else:
                matched.gold_unanswered.add(which)
    return matched


def _groups(table: pa.Table, by: str | None) -> tuple[list[Any], npt.NDArray[np.int64]]:
    import numpy as np
    import pyarrow as pa

    if by is None:
        return [None], np.zeros(table.num_rows, dtype=np.int64)
    try:
        column = table[by]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        coded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    except pa.ArrowException as error:
        raise JobError(f"--by: `{by}` is {table[by].type}, which makes no groups",
                       hint="Name a column of texts or numbers") from error  # fmt: skip
    return coded.dictionary.to_pylist(), np.asarray(coded.indices.cast(pa.int64()))


def _add(matched: Matched, names: list[Any], codes: Any, values: Any) -> None:
    import numpy as np

    width = values.shape[1]
    rows = np.bincount(codes, minlength=len(names))
    sums_of = np.array([
        [np.bincount(codes, column, minlength=len(names)) for column in power.T]
        for power in (values, values**2)
    ]).reshape(2, width, len(names))  # fmt: skip
    for at, name in enumerate(names):
        sums = matched.groups.setdefault(name, Sums(0, np.zeros((2, width))))
        parts = sums_of[:, :, at]
        parts[:, : sums.parts.shape[1]] += sums.parts
        sums.parts = parts
        sums.rows += int(rows[at])
    if len(matched.groups) > MOST_GROUPS:
        raise JobError(f"--by: there are more than {MOST_GROUPS:,} groups",
                       hint="Name a column with fewer values")  # fmt: skip


def _check_labels(
    named: list[str], numbers: Numbers, label: str | None, *, gold: Path, column: str
) -> None:
    known = sorted(numbers.labels)
    if label is not None:
        check_there(label, known, option="--label", what="label")
    strange = [name for name in named if name not in numbers.labels]
    if strange:
        raise JobError(
            f"{gold}: label {visible(strange[0], most=80)!r} of `{column}` is none that the "
            f"annotations have: {', '.join(known[:20])}",
            hint="Rename the gold labels, or leave those rows out",
        )


def _shared_key(
    there: list[str], lake: AnnotatedColumn, gold: Path, *, without: set[str | None]
) -> str:
    shared = [name for name in there if name in lake.schema.names and name not in without]
    if len(shared) == 1:
        return shared[0]
    raise JobError(
        f"{gold} shares {len(shared) or 'no'} columns with {lake.address}"
        f"{': ' if shared else ''}{', '.join(shared)}",
        hint="Say with --key which column finds the rows",
    )
