"""Labels in int8, and again in float32 where they are too near to call.

How near that is, is measured on a sample of the job's own texts, once: it is published beside the
output, so that other workers, and other nights, look at the same rows twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.engine.messages import WorkPlan
from pipeline.engine.worker.row_annotator import RowAnnotator, annotate_safely
from pipeline.errors import JobError, SplitError
from pipeline.job.job import INT8_RECIPE
from pipeline.lake.split import Split
from pipeline.models.heads import Int8Models, Models
from pipeline.models.text.texts import TaskInput
from pipeline.tasks import Annotate, Annotated

# The sample is no more than that.
FILES = 8
ROWS = 384
BYTES = 100_000
# With fewer texts nothing can be said of the rest: all are looked at twice.
FEWEST = 32
# Differences are taken for so many times what was seen.
SAFE = 1.25
# Of all texts, so many may get another label than float32's: a fifth of what is promised.
WRONG = 0.0002
# What a margin covers of the differences, however few texts of the sample are near a tie; with
# fewer texts, all of them.
COVERED = 0.97
ENOUGH = 200
EVERYTHING = 1e9


@dataclass
class Recipe:
    """What was measured for a job.

    Attributes:
        models: By model, what its twin in int8 needs.
        margins: By task, the gap in log odds up to which a text is looked at twice.
    """

    models: Mapping[str, Any]
    margins: dict[str, float] = field(default_factory=dict)


class SecondLook:
    """A task in int8; texts that are near a tie get float32's answer.

    Args:
        rough: The task in int8.
        exact: The same in float32.
        margin: Up to which gap.
    """

    def __init__(self, rough: Annotate, exact: Annotate, *, margin: float) -> None:
        self.rough = rough
        self.exact = exact
        self.margin = margin

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One entry per text."""
        given = texts if isinstance(texts, TaskInput) else TaskInput(texts)
        found = self.rough.annotate(given)
        twice = gaps_of(found) <= self.margin
        found.twice = twice
        rows = np.flatnonzero(twice)
        if not len(rows):
            return found
        again = self.exact.annotate(given.take(rows.tolist()))
        places = np.arange(len(given))
        places[rows] = len(given) + np.arange(len(rows))
        failures = {row: error for row, error in found.failures.items() if not twice[row]}
        failures |= {int(rows[at]): error for at, error in again.failures.items()}
        return Annotated(
            pa.concat_arrays([found.column, again.column]).take(pa.array(places)),
            failures,
            tokens=found.tokens + again.tokens,
            padded_tokens=found.padded_tokens + again.padded_tokens,
            twice=twice,
        )


def gaps_of(found: Annotated) -> np.ndarray:
    """How far each text is from a tie; 0 where int8 failed, as float32 may not."""
    if found.gaps is None:
        return np.zeros(len(found.column))
    gaps = np.array(found.gaps(), dtype=np.float64)
    gaps[list(found.failures)] = 0.0
    return gaps


def margin_of(exact: Annotated, rough: Annotated) -> float:
    """The gap up to which int8 may be wrong of texts like these.

    Args:
        exact: What float32 says of them.
        rough: What int8 says.
    """
    good = [row for row in range(len(exact.column)) if row not in exact.failures | rough.failures]
    if len(good) < FEWEST:
        return EVERYTHING
    mine, theirs = gaps_of(exact)[good], gaps_of(rough)[good]
    labels = decided(exact.column), decided(rough.column)
    same = np.array([labels[0][row] == labels[1][row] for row in good])
    # From one side of the tie to the other it is both ways.
    with np.errstate(invalid="ignore"):
        apart = np.where(same, np.abs(mine - theirs), mine + theirs)
    apart = np.sort(SAFE * apart[np.isfinite(apart)])
    if len(apart) < ENOUGH:
        return float(apart.max(initial=0.0))
    # Surest texts first: how many of them a difference would turn over, if all were looked at once.
    surest = np.sort(mine)[::-1]
    turned = len(apart) - np.searchsorted(apart, surest, side="right")
    once = np.searchsorted(np.cumsum(turned / len(apart)), WRONG * len(surest), side="right")
    needed = surest[once] if once < len(surest) else 0.0
    return float(min(apart[-1], max(needed, np.quantile(apart, COVERED))))


def decided(column: pa.Array) -> list[Any]:
    """The labels of a task's column, and where they are, without scores."""
    return [_without_scores(value) for value in column.to_pylist()]


def _without_scores(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: v for k, v in value.items() if k not in ("score", "scores")}
    return [_without_scores(one) for one in value] if isinstance(value, list) else value


def look_twice(rows: RowAnnotator, models: Models, plan: WorkPlan, *, publish: bool) -> None:
    """Puts the tasks of a job that int8 serves into it.

    Args:
        rows: The tasks in float32; changed.
        models: Theirs.
        plan: The job.
        publish: Whether what is measured is published for other workers.

    Raises:
        JobError: The engine has no int8, or the input can't be listed.
    """
    if not isinstance(models, Int8Models):
        raise JobError("compute.dtype is int8, which is torch's alone")
    names = [name for name, task in rows.tasks.items() if task.has_labels]
    own, path = plan.sink.own, f"int8/{plan.fingerprint}.json"

    def found() -> dict[str, SecondLook] | None:
        recipe = _read(own.read(path), plan.fingerprint)
        try:
            return None if recipe is None else _looks(rows, models, recipe, names)
        except (ValueError, KeyError, TypeError):
            return None  # damaged all the same

    looks = found()
    if looks is None:
        recipe = _measure(rows, models, plan, names)
        content = json.dumps(
            {"fingerprint": plan.fingerprint, "recipe": INT8_RECIPE, **vars(recipe)}, sort_keys=True
        ).encode()
        if publish and not own.create(path, content):
            # Another worker was first; or what is there is damaged, and nobody can use it.
            looks = found()
            if looks is None:
                own.put(path, content)
        looks = looks or _looks(rows, models, recipe, names)
    rows.annotates.update(looks)


def _looks(
    rows: RowAnnotator, models: Int8Models, recipe: Recipe, names: Sequence[str]
) -> dict[str, SecondLook]:
    twins = models.in_int8(recipe.models)
    return {
        name: SecondLook(
            _loaded(rows, twins, name), rows.annotates[name], margin=recipe.margins[name]
        )
        for name in names
    }


def _loaded(rows: RowAnnotator, twins: Int8Models, name: str) -> Annotate:
    task = rows.tasks[name]
    return task.load(twins.with_adapter(task.options.adapter))


def _read(raw: bytes | None, fingerprint: str) -> Recipe | None:
    """What was published; None if nothing was, or it is damaged, or not of this job."""
    try:
        said = json.loads(raw or b"")
        if (said["fingerprint"], said["recipe"]) != (fingerprint, INT8_RECIPE):
            return None
        margins = {str(name): float(margin) for name, margin in said["margins"].items()}
        models = {str(name): dict(known) for name, known in said["models"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return Recipe(models, margins) if all(margin >= 0 for margin in margins.values()) else None


class _Listening:
    """A task that remembers what it was asked and what it said."""

    def __init__(self, task: Annotate) -> None:
        self.task = task
        self.heard: list[tuple[Sequence[str], Annotated]] = []

    def annotate(self, texts: Sequence[str]) -> Annotated:
        answer = self.task.annotate(texts)
        self.heard.append((texts, answer))
        return answer


def _measure(
    rows: RowAnnotator, models: Int8Models, plan: WorkPlan, names: Sequence[str]
) -> Recipe:
    exact = dict(rows.annotates)
    listening = {name: _Listening(exact[name]) for name in names}
    rows.annotates.update(listening)

    def infer() -> None:
        table = _sample(plan)
        if table is not None:
            rows.annotate(table)

    try:
        measured = models.measured(infer)
    finally:
        rows.annotates.update(exact)
    recipe = Recipe(measured)
    twins = models.in_int8(measured)
    for name in names:
        rough = _loaded(rows, twins, name)
        margins = [
            margin_of(said, annotate_safely(rough, texts, rows.types[name]))
            for texts, said in listening[name].heard
            if len(texts)
        ]
        recipe.margins[name] = max(margins, default=EVERYTHING)
    return recipe


def _sample(plan: WorkPlan) -> pa.Table | None:
    """Rows of the job's input, the same whoever asks: the first of some of its files."""
    source, job = plan.source, plan.job
    files = source.listing().files
    chosen = files[:: max(1, len(files) // FILES)][:FILES]
    parts = []
    for entry in chosen:
        split = Split.of(entry, fingerprint=plan.fingerprint)
        most = -(-ROWS // len(chosen))
        try:
            with closing(source.open(split)) as found:
                table = next(found.batches(job.reads, rows=most), None)
        except SplitError:
            continue  # whoever annotates the file says what is wrong with it
        if table is not None:
            while most > 1 and table[:most].nbytes > BYTES // len(chosen):
                most //= 2
            parts.append(table[:most].replace_schema_metadata())
    return pa.concat_tables(parts, promote_options="permissive") if parts else None
