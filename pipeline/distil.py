"""A small model that answers as a task's own does: sampled, taught, trained, compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.driver.tally import Display
from pipeline.errors import Interrupted, JobError, RunError, near
from pipeline.evaluate import text_of
from pipeline.job.check import Checked, check
from pipeline.job.file import job_text
from pipeline.job.job import Job
from pipeline.lake.split import Split
from pipeline.learn.compared import compared
from pipeline.learn.evaluate import check_gold, check_libraries
from pipeline.learn.lesson import STUDENTS, Lesson, training, write_labelled
from pipeline.learn.sampled import sample_texts
from pipeline.learn.train.run import train_job
from pipeline.models.resolve import look_up
from pipeline.planning import Choices
from pipeline.preview import Wanted, output_rows
from pipeline.run import run_job

if TYPE_CHECKING:
    import pyarrow as pa

RECORD, REPORT = "distil.json", "report.json"
FILE_ROWS = 500
ALL = 1 << 62


def distil(
    lesson: Lesson,
    *,
    display: Display,
    say: Callable[[str], None],
    command: str,
    address: str | None = None,
    stop: Callable[[], int] = lambda: 0,
) -> dict[str, Any]:
    """Trains a student, and says how it compares; each step that is done is not done again.

    Args:
        lesson: What is to be distilled.
        display: Is shown the runs.
        say: Told of the other steps, a line at a time.
        command: For the student's card.
        address: Of a Ray cluster.
        stop: As in `run_job`.

    Returns:
        The report, as plain data.

    Raises:
        JobError: The job or what is asked is wrong; nothing was annotated.
        RunError: A run ended before its work was done; the same command goes on.
    """
    text = _checked(lesson)
    _claim(lesson)
    sample = lesson.place / "sample"
    if not sample.exists():
        say(f"drawing {lesson.rows:,} texts of {lesson.job.input.address}")
        _write_sample(lesson, text, sample)
    choices = Choices(address=address)
    _annotate(lesson.part("teacher", lesson.teacher), display, choices, stop)
    taught = _answers(lesson, "teacher")
    write_labelled(lesson, taught)
    record = train_job(training(lesson), command=command, say=say)
    student = {name: value for name, value in lesson.student.items() if name != "input"}
    _annotate(lesson.part("annotated", student), display, choices, stop)
    report = compared(lesson, taught, _answers(lesson, "annotated"))
    report["base"], report["parameters"] = lesson.base, record["parameters"]
    _write_job(lesson)
    _put(lesson.place / REPORT, json.dumps(report, indent=2) + "\n")
    return report


def _checked(lesson: Lesson) -> str:
    """The column of texts, when all that can be known before the start is right."""
    job, name = lesson.job, lesson.task
    if name not in job.tasks:
        raise JobError(f"--task: there is no task `{name}`; there are {', '.join(job.tasks)}",
                       hint=f"{near(name, job.tasks)} in --task")  # fmt: skip
    options = job.options[name]
    if options.kind not in STUDENTS:
        raise JobError(f"{options.kind} can't be distilled; {', '.join(STUDENTS)} can",
                       hint="Name a task that gives labels or spans in --task")  # fmt: skip
    if getattr(options, "multi_label", False):
        raise JobError(f"task {name} gives several labels a text, and a student learns one",
                       hint="Leave out its multi_label")  # fmt: skip
    text = text_of(job, name)
    if text is None:
        raise JobError(f"task {name} does not read a column of the input as it is",
                       hint="Distil a task without template and when, over a column")  # fmt: skip
    check_libraries(lesson.kind)
    look_up(lesson.base)
    training(lesson)
    return text


def _claim(lesson: Lesson) -> None:
    """Takes the folder for this distillation, or refuses it if it is another's."""
    said = {
        "teacher": job_text(lesson.part("teacher", lesson.teacher)),
        "input": lesson.job.input.model_dump(mode="json"),
        "rows": lesson.rows, "base": lesson.base, "train": dict(lesson.train or {}),
        "gold": lesson.gold, "seed": lesson.seed, "task": lesson.task,
    }  # fmt: skip
    record = lesson.place / RECORD
    if lesson.place.exists():
        try:
            there = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            there = None
        if there is None and any(lesson.place.iterdir()):
            raise JobError(f"{lesson.place} holds something that no distillation made",
                           hint="Name a new directory")  # fmt: skip
        changed = [name for name, value in said.items() if there and there.get(name) != value]
        if changed:
            raise JobError(
                f"{lesson.place} holds a distillation with another {changed[0]}",
                hint="Name another directory, or remove that one",
            )
    lesson.place.mkdir(parents=True, exist_ok=True)
    _put(record, json.dumps(said, indent=2) + "\n")


def _write_sample(lesson: Lesson, text: str, sample: Path) -> None:
    """Draws texts, with their gold answers if there are any, and writes them in few files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [text] if lesson.gold is None else [text, lesson.gold]
    checked = check(lesson.job)
    kinds: dict[str, Any] = {}
    rows = sample_texts(
        _tables(checked, names, kinds), names, rows=lesson.rows, seed=lesson.seed
    )  # fmt: skip
    if not rows:
        raise JobError(f"{checked.source.address} has no text in column `{text}`",
                       hint="Look: shardscribe inspect")  # fmt: skip
    columns = {"text": pa.array([row[text] for row in rows], pa.string())}
    if lesson.gold is not None:
        columns["gold"] = pa.array([row[lesson.gold] for row in rows], kinds[lesson.gold])
        check_gold(lesson.kind, columns["gold"].drop_null(), column=lesson.gold)
    table = pa.table(columns)
    made = sample.with_name("sample.tmp")
    made.mkdir(exist_ok=True)
    for at in range(0, len(rows), FILE_ROWS):
        pq.write_table(table.slice(at, FILE_ROWS), made / f"part-{at // FILE_ROWS:05d}.parquet")
    made.rename(sample)


def _tables(checked: Checked, names: Sequence[str], kinds: dict[str, Any]) -> Iterator[pa.Table]:
    for entry in checked.listing.files:
        with closing(checked.source.open(Split.of(entry, fingerprint=""))) as opened:
            for name in names:
                if name not in opened.schema.names:
                    raise JobError(
                        f"--gold: {checked.source.where(entry.path)} has no column `{name}`",
                        hint=f"{near(name, opened.schema.names)} in --gold",
                    )
                kinds[name] = opened.schema.field(name).type
            yield from opened.batches(names)


def _annotate(
    job: Job, display: Display, choices: Choices, stop: Callable[[], int]
) -> None:  # fmt: skip
    summary = run_job(job, display=display, choices=choices, stop=stop)
    if summary.exit_code:
        ended = Interrupted if summary.exit_code == Interrupted.exit_code else RunError
        raise ended(f"{job.output.path}: {summary.error or summary.state}",
                    hint="The same command goes on from there")  # fmt: skip


def _answers(lesson: Lesson, part: str) -> dict[str, dict[str, Any]]:
    """The rows of an output by their text: what the task gave, and gold."""
    columns = ("text", lesson.task, *(["gold"] if lesson.gold is not None else []))
    found = output_rows(str(lesson.place / part), Wanted(ALL, columns=columns))
    return {
        row["text"]: row
        for table in found.tables
        for row in table.select(list(columns)).to_pylist()
    }


def _write_job(lesson: Lesson) -> None:
    """The job that annotates the rest with the student."""
    tasks = {**lesson.job.model_dump(mode="json", exclude_unset=True)["tasks"]}
    tasks[lesson.task] = lesson.student
    said = lesson.job.model_dump(mode="json", exclude_unset=True) | {"tasks": tasks}
    text = job_text(Job.model_validate(said))
    _put(lesson.place / "job.yaml", f"# The task `{lesson.task}` with the student.\n{text}")


def _put(path: Path, text: str) -> None:
    made = path.with_name(f"{path.name}.tmp")
    made.write_text(text, encoding="utf-8")
    made.replace(path)
