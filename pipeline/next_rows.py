"""Which rows of an output to label next: more of those that the model is unsure of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.annotated import AnnotatedColumn, check_there
from pipeline.errors import JobError
from pipeline.lake.sink.footers import said

if TYPE_CHECKING:
    from pipeline.job.job import Job


def next_rows(
    address: str,
    *,
    wanted: int,
    file: Path,
    job: Job | None = None,
    gold: Path | None = None,
    column: str = "gold",
    key: str | None = None,
    task: str | None = None,
    label: str | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Writes rows to label, with the weights by which an estimate over them stays right.

    Args:
        address: An output.
        wanted: How many rows.
        file: CSV or Parquet, that is not there yet.
        job: Whose output it is, if that is known.
        gold: Rows that are labelled already, drawn evenly: they go into the file as they are.
        column: Where the label goes.
        key: By which column rows are found later; the text by default.
        task: Which annotations; the only labels by default.
        label: Which label is to be estimated; all of them by default.
        seed: Of the draw; another one each time by default.

    Returns:
        How many rows the file has, and how many of them were labelled before.

    Raises:
        JobError: The output or a file is wrong.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline.learn.gold_file import WEIGHT, read_gold, write_rows
    from pipeline.learn.numbers import LABEL, Numbers
    from pipeline.learn.sampling import Systematic, chances, doubt

    if file.exists():
        raise JobError(f"{file} is there already", hint="Name a new file, or remove that one")
    lake = AnnotatedColumn.at(address, job=job, task=task)
    if lake.asked != LABEL:
        raise JobError(f"--next: `{lake.task}` has no scores of labels to go by",
                       hint="Draw rows evenly, or name a task of labels")  # fmt: skip
    text = _text_of(lake, job)
    key = key or text
    if key is None:
        raise JobError(f"--next: {address} has no text to find rows by",
                       hint="Say with --key which column does")  # fmt: skip
    check_there(key, lake.schema.names, option="--key")
    before = None
    if gold is not None:
        kind = lake.schema.field(key).type
        before = read_gold(gold, column=column, key=key, of=kind, asked=LABEL)
        if before.weights is not None or not pa.types.is_string(before.gold.type):
            raise JobError(f"--next goes on from gold of one label a row that was drawn evenly; "
                           f"{gold} has {'weights' if before.weights is not None else 'lists'}",
                           hint="Leave out --gold, or draw all rows anew")  # fmt: skip
    numbers, total, rows = Numbers(LABEL), 0.0, 0
    known: set[int] = set()
    for batch in lake.batches(numbers, key):
        at = numbers.labels.get(label) if label is not None else None
        if label is None or at is not None:
            total += float(doubt(batch.values, at).sum())
        rows += len(batch.values)
        if before is not None:
            found = pc.index_in(batch.table[key].filter(pa.array(batch.there)), before.keys)
            known |= set(found.drop_null().to_pylist())
    if label is not None:
        check_there(label, sorted(numbers.labels), option="--label", what="label")
    if not rows:
        raise JobError(f"no row of {address} is annotated by `{lake.task}`",
                       hint="Run the job first")  # fmt: skip
    at = numbers.labels[label] if label is not None else None
    even = len(known) / rows
    draw = Systematic(np.random.default_rng(seed).random())
    names = list(dict.fromkeys([key, *([text] if text is not None else [])]))
    parts, seen = [], set[int]()
    for batch in lake.batches(numbers, *names):
        odds = chances(doubt(batch.values, at), wanted=wanted, rows=rows, total=total)
        drawn = np.zeros(len(odds), dtype=bool)
        drawn[draw.draw(odds)] = True
        table = batch.table.select(names).filter(pa.array(batch.there))
        right: list[str | None] = [None] * len(odds)
        if before is not None:
            found = pc.index_in(table[key], before.keys).to_pylist()
            for row, which in enumerate(found):
                if which is None:
                    continue
                # A key that several rows have stands for the first of them.
                drawn[row] = which not in seen
                seen.add(which)
                right[row] = before.gold[which].as_py()
        # Drawn by either of two draws that know nothing of each other.
        weights = 1 / (1 - (1 - even) * (1 - odds))
        table = table.append_column(column, pa.array(right, pa.string()))
        parts.append(table.append_column(WEIGHT, pa.array(weights)).filter(pa.array(drawn)))
    found_rows = pa.concat_tables(parts, promote_options="permissive")
    write_rows(found_rows, file)
    return {"file": str(file), "rows": found_rows.num_rows, "labelled": len(seen),
            "key": key, "column": column}  # fmt: skip


def _text_of(lake: AnnotatedColumn, job: Job | None) -> str | None:
    parts = said(lake.schema.metadata).get("fingerprint_parts") or {}
    text = str(job.input.text if job is not None else parts.get("text", "text"))
    return text if text in lake.schema.names else None
