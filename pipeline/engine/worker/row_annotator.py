"""Rows -> their annotations. Knows nothing of files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.conditions.condition import condition_names, rows_where
from pipeline.engine.worker.annotated_rows import AnnotatedRows
from pipeline.engine.worker.distinct_texts import DistinctTexts, column_of, values_of
from pipeline.errors import JobError, RowError, SplitError
from pipeline.models.device import Device
from pipeline.models.faults import raise_if_fatal, row_error
from pipeline.models.heads import Models
from pipeline.models.text.texts import Tokenizer
from pipeline.tasks import Annotate, Annotated, Task
from pipeline.tasks.chain import ordered
from pipeline.tasks.reading import sources, text_maker


class RowAnnotator:
    """The tasks of a job with their models loaded.

    Args:
        tasks: By output column.
        models: Of the worker.
        text: The job's text column.
        longest: The most bytes of a text that is annotated; any if None.

    Raises:
        JobError: A model can't be loaded here.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task[Any]],
        models: Models,
        *,
        text: str,
        longest: int | None = None,
    ) -> None:
        self.tasks = dict(tasks)
        self.text = text
        self.longest = longest
        self.device: Device = models.device
        self.order = ordered(tasks, text=text)
        self.types = {name: task.output_type() for name, task in tasks.items()}
        self._conditions = {
            name: condition_names(task.options.when)
            for name, task in tasks.items()
            if task.options.when
        }
        self.annotates: dict[str, Annotate] = {}
        # Which tokenizers a task's texts went through, so that they can be made ahead.
        self._tokenizers: dict[str, dict[str, Tokenizer]] = {}
        for name, task in tasks.items():
            try:
                self.annotates[name] = task.load(models.with_adapter(task.options.adapter))
            except JobError as error:
                raise JobError(f"tasks.{name}: {error.message}", hint=error.hint) from error

    def prepare(self, rows: pa.Table) -> dict[Any, DistinctTexts]:
        """Reads and tokenizes what depends on no other task; needs no device."""
        known: dict[Any, DistinctTexts] = {}
        for name, task in self.tasks.items():
            if not self._depends(name):
                given = self._distinct(task, rows, {}, known)
                for tokens in self._tokenizers.get(name, {}).values():
                    given.texts.encoded(tokens)
        return known

    def annotate(
        self,
        rows: pa.Table,
        *,
        known: dict[Any, DistinctTexts] | None = None,
        report: Callable[[float], None] = lambda fraction: None,
    ) -> AnnotatedRows:
        """Annotates rows with every task.

        Args:
            rows: With the columns that the tasks read.
            known: From `prepare`.
            report: Hears how far it is, 0 to 1.
        """
        known = {} if known is None else known
        annotated = AnnotatedRows(rows.num_rows)
        for done, name in enumerate(self.order):
            given = self._distinct(self.tasks[name], rows, annotated.columns, known)

            def hear(fraction: float, done: int = done) -> None:
                report((done + fraction) / len(self.order))

            with self.device.reporting(hear):
                answer = annotate_safely(self.annotates[name], given.texts, self.types[name])
            hear(1.0)
            self._tokenizers.setdefault(name, {}).update(given.texts.tokenizers)
            places = given.places
            column = answer.column
            if not np.array_equal(places, np.arange(len(column))):
                column = column.take(pa.array(places, mask=places < 0))
            annotated.columns[name] = column
            annotated.tokens += answer.tokens
            annotated.padded_tokens += answer.padded_tokens
            if answer.failures:
                for row in np.flatnonzero(np.isin(places, list(answer.failures))).tolist():
                    annotated.fail(row, name, answer.failures[int(places[row])])
            for row, error in given.unreadable.items():
                annotated.fail(row, name, error)
            skipped = places < 0
            skipped[list(given.unreadable)] = False
            annotated.skipped[name] = skipped
            if answer.twice is not None:
                annotated.twice[name] = (places >= 0) & answer.twice[places]
        annotated.columns = {name: annotated.columns[name] for name in self.tasks}
        return annotated

    def _depends(self, name: str) -> bool:
        task = self.tasks[name]
        beside = task.extra_columns()
        looked_at = {*sources(task, text=self.text), *beside, *self._conditions.get(name, ())}
        return bool(looked_at & self.tasks.keys())

    def _distinct(
        self,
        task: Task[Any],
        rows: pa.Table,
        made: Mapping[str, pa.Array],
        known: dict[Any, DistinctTexts],
    ) -> DistinctTexts:
        options = task.options
        names = sources(task, text=self.text)
        extras = task.extra_columns()
        key = (names, options.template, extras, options.when)
        if key in known:
            return known[key]
        wanted = np.ones(rows.num_rows, dtype=bool)
        if options.when:
            wanted = np.array(self._where(options.when, rows, made), dtype=bool)
        given = None
        if len(names) == 1 and options.template is None and not extras:
            column = column_of(rows, made, names[0])
            given = DistinctTexts.of_column(column, wanted, longest=self.longest)
        if given is None:
            given = self._made(task, rows, made, wanted)
        known[key] = given
        return given

    def _made(
        self, task: Task[Any], rows: pa.Table, made: Mapping[str, pa.Array], wanted: np.ndarray
    ) -> DistinctTexts:
        unreadable: dict[int, RowError] = {}
        values = []
        for name in sources(task, text=self.text):
            column, failures = values_of(rows, made, name)
            unreadable |= {row: error for row, error in failures.items() if wanted[row]}
            values.append(column)
        wanted[list(unreadable)] = False
        given = DistinctTexts.of_values(
            values,
            wanted,
            make=text_maker(task, text=self.text),
            beside={name: values_of(rows, made, name)[0] for name in task.extra_columns()},
            longest=self.longest,
        )
        given.unreadable = unreadable | given.unreadable
        return given

    def _where(self, condition: str, rows: pa.Table, made: Mapping[str, pa.Array]) -> list[bool]:
        names = condition_names(condition)
        columns = [made[n] if n in made else rows.column(n) for n in names]
        if not names:
            columns, names = [pa.nulls(rows.num_rows)], ("",)
        return rows_where(condition, pa.table(dict(zip(names, columns, strict=True))))


def joined(left: np.ndarray | None, right: np.ndarray | None) -> np.ndarray | None:
    """What two halves say of their texts; None where neither says anything."""
    return None if left is None or right is None else np.concatenate([left, right])


def annotate_safely(task: Annotate, texts: Sequence[str], kind: pa.DataType) -> Annotated:
    """Annotates texts; where the task raises, halves them until the bad one stands alone.

    Models isolate a bad row inside a batch; this is for whatever else a text can break.
    """
    if not len(texts):
        return Annotated(pa.nulls(0, kind))
    try:
        answer = task.annotate(texts)
        if len(answer.column) != len(texts):
            raise SplitError(
                f"the {type(task).__name__} task gave {len(answer.column)} answers for "
                f"{len(texts)} texts"
            )
        return answer
    except Exception as error:
        raise_if_fatal(error)
        if len(texts) == 1:
            return Annotated(pa.nulls(1, kind), {0: row_error(error, code="task_error")})
    half = len(texts) // 2
    left = annotate_safely(task, texts[:half], kind)
    right = annotate_safely(task, texts[half:], kind)
    return Annotated(
        pa.concat_arrays([left.column, right.column]),
        {**left.failures, **{half + row: e for row, e in right.failures.items()}},
        left.tokens + right.tokens,
        left.padded_tokens + right.padded_tokens,
        twice=joined(left.twice, right.twice),
    )
