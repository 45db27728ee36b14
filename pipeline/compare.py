"""The labels of two outputs beside each other: where they differ, and which is right more often."""

from __future__ import annotations

from contextlib import closing
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pipeline.annotated import AnnotatedColumn, check_there
from pipeline.errors import JobError
from pipeline.escape import visible

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.job.job import Job

Output = tuple[str, "Job | None"]


def compare_outputs(
    one: Output,
    other: Output,
    *,
    key: str | None = None,
    gold: str | None = None,
    task: str | None = None,
    rows: int = 1_000,
) -> dict[str, Any]:
    """Says how far the labels of two outputs agree, row by row.

    Args:
        one: An output, and its job if that is known.
        other: Likewise; of the same rows.
        key: The column that tells which rows are the same; `id` by default.
        gold: A column of the first output that holds the right labels.
        task: Which labels; the only ones by default.
        rows: How many changed rows to name at most.

    Returns:
        The report, as plain data.

    Raises:
        JobError: An output is wrong, or no row is in both.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if gold is not None and find_spec("scipy") is None:
        raise JobError("McNemar's test needs scipy", hint="pip install 'shardscribe[evaluate]'")
    key = key or "id"
    tables = [_labels(address, job, key=key, gold=gold if not at else None, task=task)
              for at, (address, job) in enumerate((one, other))]  # fmt: skip
    (first, name), (second, _) = tables
    kinds = [table["key"].type for table in (first, second)]
    try:
        second = second.set_column(0, "key", second["key"].cast(kinds[0]))
    except pa.ArrowException as error:
        raise JobError(f"--key: `{key}` is {kinds[0]} in {one[0]} and {kinds[1]} in {other[0]}",
                       hint="Name a column that is the same in both") from error  # fmt: skip
    both = first.join(second.rename_columns(["key", "other"]), "key", join_type="inner")
    if not both.num_rows:
        raise JobError(f"no `{key}` is in both {one[0]} and {other[0]}",
                       hint="Say with --key which column tells the rows")  # fmt: skip
    answered = both.filter(pc.and_(both["label"].is_valid(), both["other"].is_valid()))
    if not answered.num_rows:
        raise JobError(f"no row has labels of `{name}` in both outputs", hint="Name another --task")
    differ = answered.filter(pc.not_equal(answered["label"], answered["other"]))
    differ = differ.sort_by("key")
    agreement = 1 - differ.num_rows / answered.num_rows
    changes = differ.group_by(["label", "other"]).aggregate([([], "count_all")])
    changes = changes.sort_by([("count_all", "descending"), ("label", "ascending"),
                               ("other", "ascending")])  # fmt: skip
    return {
        "outputs": [one[0], other[0]],
        "task": name,
        "key": key,
        "rows": answered.num_rows,
        "unanswered": both.num_rows - answered.num_rows,
        "only_in": [first.num_rows - both.num_rows, second.num_rows - both.num_rows],
        "agreement": agreement,
        "kappa": _kappa(answered, agreement),
        "changes": [{"from": row["label"], "to": row["other"], "rows": row["count_all"]}
                    for row in changes.to_pylist()],
        "changed": [{"key": row["key"], "from": row["label"], "to": row["other"],
                     **({"gold": row["gold"]} if gold is not None else {})}
                    for row in differ.slice(0, rows).to_pylist()],
        "gold": _against_gold(answered, gold) if gold is not None else None,
    }  # fmt: skip


def _labels(
    address: str, job: Job | None, *, key: str, gold: str | None, task: str | None
) -> tuple[pa.Table, str]:
    """Key, label and gold of all rows of an output, each key once; and the task's name."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as types

    from pipeline.learn.numbers import LABEL

    column = AnnotatedColumn.at(address, job=job, task=task)
    if column.asked != LABEL:
        raise JobError(f"--task: `{column.task}` has no label a row, and labels are compared",
                       hint="Name a task of kind classify or zero_shot")  # fmt: skip
    names = {"key": key, **({"gold": gold} if gold is not None else {})}
    for part, named in names.items():
        check_there(named, column.schema.names, option=f"--{part} in {address}")
    if gold is not None and not types.is_string(column.schema.field(gold).type):
        raise JobError(f"--gold: `{gold}` is {column.schema.field(gold).type}, not a label a row",
                       hint="Name a column of texts")  # fmt: skip
    parts = []
    for split in column.splits:
        with closing(column.source.open(split)) as found:
            for batch in found.batches(list(dict.fromkeys([*names.values(), column.task]))):
                labels = pc.struct_field(batch[column.task], "label").cast(pa.string())
                columns = {"key": batch[key], "label": labels}
                if gold is not None:
                    columns["gold"] = batch[gold]
                parts.append(pa.table(columns))
    table = pa.concat_tables(parts, promote_options="permissive") if parts else None
    if table is None or not table.num_rows:
        raise JobError(f"{address} holds no annotated rows yet", hint="Run the job first")
    table = table.filter(table["key"].is_valid())
    try:
        once = pc.count_distinct(table["key"]).as_py()
    except pa.ArrowException as error:
        raise JobError(f"--key: `{key}` of {address} is {table['key'].type}, which tells no rows",
                       hint="Name a column of numbers or texts") from error  # fmt: skip
    if once < table.num_rows:
        counts = pc.value_counts(table["key"]).to_pylist()
        twice = next(row["values"] for row in counts if row["counts"] > 1)
        raise JobError(
            f"--key: {table.num_rows - once:,} rows of {address} have a `{key}` that another "
            f"has, such as {visible(twice, most=80)}",
            hint="Name a column that tells each row",
        )
    return table, column.task


def _kappa(table: pa.Table, agreement: float) -> float | None:
    """Cohen's: agreement beyond that by chance; None where there is but one label."""
    import pyarrow.compute as pc

    one, other = ({row["values"]: row["counts"] / table.num_rows
                   for row in pc.value_counts(table[side]).to_pylist()}
                  for side in ("label", "other"))  # fmt: skip
    chance = sum(share * other.get(label, 0.0) for label, share in one.items())
    return (agreement - chance) / (1 - chance) if chance < 1 else None


def _against_gold(table: pa.Table, gold: str) -> dict[str, Any]:
    """How often each is right, and McNemar's exact test of whether that differs."""
    import numpy as np
    import pyarrow.compute as pc
    from scipy.stats import binomtest

    known = table.filter(table["gold"].is_valid())
    if not known.num_rows:
        raise JobError(f"--gold: `{gold}` is null in all rows of both outputs",
                       hint="Name another")  # fmt: skip
    one, other = (np.asarray(pc.equal(known[side], known["gold"])) for side in ("label", "other"))
    first, second = int((one & ~other).sum()), int((other & ~one).sum())
    return {
        "column": gold,
        "rows": known.num_rows,
        "accuracy": [float(one.mean()), float(other.mean())],
        "right_alone": [first, second],
        "p_value": float(binomtest(first, first + second).pvalue) if first + second else 1.0,
    }
