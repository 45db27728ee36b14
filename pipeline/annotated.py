"""The annotations of an output as numbers, a batch after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import JobError, near
from pipeline.escape import visible
from pipeline.preview import output_splits

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from pipeline.job.job import Job
    from pipeline.lake.source.base import Source
    from pipeline.lake.split import Split
    from pipeline.learn.numbers import Numbers

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class AnnotatedColumn:
    """An output's annotations by one task, as numbers to be read again and again.

    Attributes:
        source: What reads it.
        splits: What to read.
        schema: Of its first file.
        address: As it was named.
        task: The column of annotations.
        asked: What of them a mean is asked of.
    """

    source: Source
    splits: list[Split]
    schema: pa.Schema
    address: str
    task: str
    asked: str

    @classmethod
    def at(cls, address: str, *, job: Job | None, task: str | None) -> AnnotatedColumn:
        """Opens an output.

        Raises:
            JobError: There is none, or no such task.
        """
        from pipeline.learn.numbers import NUMBER, what_is_asked

        source, splits = output_splits(address, job=job)
        with closing(source.open(splits[0])) as found:
            schema = found.schema
        kinds = {column.name: what_is_asked(column.type) for column in schema}
        if task is None:
            fit = [name for name, kind in kinds.items() if kind not in (None, NUMBER)]
            if len(fit) != 1:
                raise JobError(f"{address} has {len(fit) or 'no'} columns of labels"
                               f"{': ' if fit else ''}{', '.join(fit)}",
                               hint="Say which column with --task")  # fmt: skip
            task = fit[0]
        check_there(task, schema.names, option="--task")
        asked = kinds[task]
        if asked is None:
            raise JobError(f"--task: `{task}` is {schema.field(task).type}, of which there is no "
                           "share and no mean", hint="Name labels, spans or numbers")  # fmt: skip
        return cls(source, splits, schema, address, task, asked)

    def batches(self, numbers: Numbers, *names: str) -> Iterator[Batch]:
        """All rows, of each the numbers and some columns beside."""
        import pyarrow as pa

        for split in self.splits:
            with closing(self.source.open(split)) as found:
                check_there(self.task, found.schema.names, option="--task")
                for name in names:
                    check_there(name, found.schema.names, option=f"in {split.path}")
                for table in found.batches(list(dict.fromkeys([self.task, *names])),
                                           rows=BATCH_ROWS):  # fmt: skip
                    try:
                        there, values = numbers.of(table[self.task])
                    except (ValueError, pa.ArrowException) as error:
                        raise JobError(f"--task: `{self.task}` of {split.path}: {error}",
                                       hint="Name a task with few labels") from error  # fmt: skip
                    yield Batch(table, there, values)


@dataclass(frozen=True)
class Batch:
    """Rows of an output, with their annotations as numbers.

    Attributes:
        table: All of them.
        there: Which of them are annotated.
        values: Of these, of shape [annotated rows, labels].
    """

    table: pa.Table
    there: npt.NDArray[np.bool_]
    values: npt.NDArray[np.float64]


def check_there(name: str, there: Collection[str], *, option: str, what: str = "column") -> None:
    """Refuses a name that is not there.

    Raises:
        JobError: With those that are.
    """
    if name not in there:
        raise JobError(
            f"{option}: there is no {what} `{visible(name, most=80)}`; there are "
            f"{', '.join(map(visible, there))}",
            hint=f"{near(name, there)} in {option}",
        )
