"""What is distilled: a task's answers to a sample, and the training of a student on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import JobError, RunError
from pipeline.job.job import Job
from pipeline.learn.train.job import TrainJob

# kind of teacher -> kind of student
STUDENTS = {"classify": "classify", "zero_shot": "classify", "ner": "ner"}
# A small encoder learns of a few thousand rows in so many steps.
TRAINED = {"epochs": 4, "learning_rate": 2e-4, "max_tokens": 256}


@dataclass(frozen=True)
class Lesson:
    """What is to be distilled, and where.

    Attributes:
        job: From `load_job`.
        task: The teacher's.
        place: A folder for all that is made on the way.
        rows: How many texts the teacher answers.
        base: What the student begins as.
        train: Options of the training, beside `TRAINED`.
        gold: The column of right answers, if there is one.
        seed: Of the sample.
    """

    job: Job
    task: str
    place: Path
    rows: int = 2_000
    base: str = "starter/minilm"
    train: Mapping[str, Any] | None = None
    gold: str | None = None
    seed: int = 0

    @property
    def kind(self) -> str:
        """Of the student."""
        return STUDENTS[self.job.options[self.task].kind]

    def part(self, name: str, task: Any) -> Job:
        """A job of one task over the sample, whose output is a part of the folder."""
        read = {"path": str(self.place / "sample"), "text": "text"}
        return Job.model_validate(
            {
                "name": self.job.name,
                "input": read,
                "output": {"path": str(self.place / name)},
                "tasks": {self.task: task},
                "compute": self.job.compute,
                "limits": self.job.limits,
            }
        )

    @property
    def teacher(self) -> Any:
        """The task's options, as they read the sample."""
        return self.job.options[self.task].model_copy(update={"input": None})

    @property
    def student(self) -> dict[str, Any]:
        """The options of the task that takes the teacher's place."""
        own: dict[str, Any] = {"kind": self.kind, "model": str(self.place / "student")}
        source = self.job.options[self.task].input
        return own if source is None else own | {"input": source}


def training(lesson: Lesson) -> TrainJob:
    """The training of the student.

    Raises:
        JobError: An option of it is wrong.
    """
    try:
        return TrainJob.model_validate(
            {
                "name": lesson.job.name,
                "description": f"Answers as task {lesson.task} of job {lesson.job.name} does.",
                "base": lesson.base,
                "task": {"kind": lesson.kind},
                "data": {"path": str(lesson.place / "labelled"), "test": 0.2},
                "train": {**TRAINED, **(lesson.train or {})},
                "output": {"path": str(lesson.place / "student")},
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise JobError(f"--train {'.'.join(map(str, first['loc'][1:]))}: {first['msg']}",
                       hint="See the options of train in README") from error  # fmt: skip


def write_labelled(lesson: Lesson, taught: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes what the student learns from: the texts that the teacher had an answer for.

    Args:
        lesson: What is distilled.
        taught: By text, the rows of the teacher's output.

    Raises:
        RunError: It had none for any.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = lesson.place / "labelled"
    # Written once: the training goes by its name and time.
    if (place / "rows.parquet").exists():
        return
    rows = [(text, row[lesson.task]) for text, row in sorted(taught.items())]
    kept = [(text, answer) for text, answer in rows if answer is not None]
    if not kept:
        raise RunError(f"task {lesson.task} had no answer for any of {len(rows):,} texts",
                       hint="See why: shardscribe preview --bad")  # fmt: skip
    if lesson.kind == "ner":
        kind = pa.list_(
            pa.struct([("label", pa.string()), ("start", pa.int32()), ("end", pa.int32())])
        )
        labels = [[{n: s[n] for n in ("label", "start", "end")} for s in a] for _, a in kept]
    else:
        kind, labels = pa.string(), [answer["label"] for _, answer in kept]
    table = pa.table({"text": [text for text, _ in kept], "label": pa.array(labels, kind)})
    place.mkdir(exist_ok=True)
    pq.write_table(table, place / "rows.tmp")
    (place / "rows.tmp").replace(place / "rows.parquet")
