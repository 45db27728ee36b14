"""A task of a job against gold: annotates labelled rows, or takes an output that has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from pipeline.errors import JobError, near
from pipeline.job.check import FIRST_FILES, Checked, check
from pipeline.job.job import Job
from pipeline.lake.split import Split
from pipeline.learn.evaluate import KINDS, check_gold, check_libraries, report_of
from pipeline.preview import Found, Wanted, output_rows, preview_rows

if TYPE_CHECKING:
    import pyarrow as pa


def evaluate_job(
    job: Job, *, gold: str, task: str | None = None, rows: int = 1_000, output: bool = False
) -> dict[str, Any]:
    """Says how good a task is on rows of which the right answer is known.

    Args:
        job: From `load_job`.
        gold: The column that holds the right answers; rows where it is null are left out.
        task: Which task; the only one that can be evaluated, if there is but one.
        rows: How many rows at most, the first ones.
        output: Take what the job's output holds, instead of annotating anything.

    Returns:
        The report, as plain data.

    Raises:
        JobError: The job or the gold column is wrong; found before any model is loaded.
    """
    name = _task_of(job, task)
    kind = job.options[name].kind
    check_libraries(kind)
    quoted = gold.replace('"', '""')
    wanted = Wanted(rows, f'"{quoted}" IS NOT NULL', columns=(gold, name))
    if output:
        where = job.output.address
        found = output_rows(where, wanted, job=job, option="--gold")
    else:
        checked = check(job, footers=FIRST_FILES)
        where = checked.source.address
        text = text_of(job, name)
        _look_at(checked, gold, text, wanted, name)
        found = preview_rows(_only(job, gold, name if text else None), wanted, most=rows)
    table = _table(found, [gold, name], where)
    answered = table.filter(table[name].is_valid())
    if not answered.num_rows:
        raise JobError(f"task {name} gave nothing for any of {table.num_rows:,} rows with gold",
                       hint="See why: shardscribe preview --bad")  # fmt: skip
    truth = _right(job, name, answered[gold], column=gold)
    return {
        "task": name,
        "kind": kind,
        "gold": gold,
        "rows": table.num_rows,
        "unanswered": table.num_rows - answered.num_rows,
        **report_of(kind, truth, answered[name].to_pylist()),
    }


def _task_of(job: Job, task: str | None) -> str:
    if task is not None and task not in job.tasks:
        raise JobError(f"--task: there is no task `{task}`; there are {', '.join(job.tasks)}",
                       hint=f"{near(task, job.tasks)} in --task")  # fmt: skip
    names = [task] if task is not None else list(job.tasks)
    fit = [name for name in names if job.options[name].kind in KINDS]
    if not fit:
        kinds = ", ".join(sorted({job.options[name].kind for name in names}))
        raise JobError(f"{kinds} can't be evaluated against gold; {', '.join(KINDS)} can",
                       hint="Name a task of such a kind")  # fmt: skip
    if len(fit) > 1:
        raise JobError(f"the job has several tasks that can be evaluated: {', '.join(fit)}",
                       hint="Say which one with --task")  # fmt: skip
    return fit[0]


def text_of(job: Job, name: str) -> str | None:
    """The column of the input that is the task's text; None if it is made of others, or others'."""
    options = job.options[name]
    source = options.input if options.input is not None else job.input.text
    plain = isinstance(source, str) and options.template is None and options.when is None
    return str(source) if plain and source not in job.tasks else None


def _labels(job: Job, name: str) -> Sequence[str]:
    """What the task can give, where that is known without its model."""
    task = job.configured[name]
    options = task.options
    if options.kind == "zero_shot":
        return list(getattr(options, "labels", ()))
    config = task.info.config if task.info is not None else {}
    labels = [str(label) for label in (config.get("id2label") or {}).values()]
    if options.kind == "ner" and getattr(options, "aggregation", "none") != "none":
        from pipeline.tasks.spans.aggregate import Tags

        return [name for name in dict.fromkeys(Tags.of(labels).names) if name != "O"]
    return labels if options.kind in ("classify", "ner") else ()


def _only(job: Job, gold: str, task: str | None) -> Job:
    """The job with its gold column carried, and with one task alone."""
    columns = job.carried if job.output.columns != "annotations" else ()
    if columns is not None:
        columns = tuple(dict.fromkeys([*columns, gold]))
    read = job.input.model_copy(update={"columns": columns})
    output = job.output.model_copy(update={"columns": "all"})
    tasks = job.tasks if task is None else {task: job.tasks[task]}
    return job.model_copy(update={"input": read, "output": output, "tasks": tasks})


def _look_at(checked: Checked, gold: str, text: str | None, wanted: Wanted, task: str) -> None:
    """Checks the gold column before anything is loaded."""
    names = [gold] if text is None else [gold, text]

    def tables() -> Iterator[pa.Table]:
        for entry in checked.listing.files:
            with closing(checked.source.open(Split.of(entry, fingerprint=""))) as opened:
                if gold not in opened.schema.names:
                    there = opened.schema.names
                    raise JobError(
                        f"--gold: {checked.source.where(entry.path)} has no column `{gold}`; "
                        f"there are {', '.join(there)}",
                        hint=f"{near(gold, there)} in --gold",
                    )
                yield from opened.batches(names)

    found = Found([], ())
    found.gather(tables(), wanted, most=None)
    table = _table(found, names, checked.source.address)
    texts = table[text].to_pylist() if text is not None else None
    _right(checked.job, task, table[gold], column=gold, texts=texts)


def _right(
    job: Job, task: str, gold: Any, *, column: str, texts: Sequence[str | None] | None = None
) -> Any:
    """The right answers of a gold column, as `check_gold` gives them."""
    options = job.options[task]
    return check_gold(
        options.kind, gold, column=column, known=_labels(job, task), texts=texts,
        best_alone=getattr(options, "top_k", None) is not None,
    )  # fmt: skip


def _table(found: Found, names: Sequence[str], where: str) -> pa.Table:
    """The rows with gold, whose column is the first of the names."""
    import pyarrow as pa

    if not found.rows:
        raise JobError(
            f"gold column {names[0]} is null in all rows of {where}", hint="Name another in --gold"
        )
    return pa.concat_tables([table.select(list(names)) for table in found.tables])
