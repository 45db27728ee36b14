"""The job: a strict, frozen model of the YAML file, and what follows from it alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property, reduce
from operator import or_
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline import RESULTS_VERSION
from pipeline.job.compute import Compute
from pipeline.job.input import Input, Part, cut_of
from pipeline.job.output import Output
from pipeline.job.quantities import Bytes, Seconds
from pipeline.lake.source.keyed import KEYS
from pipeline.lake.split import Cut
from pipeline.models.device import dtype_on
from pipeline.models.resolve import ModelInfo
from pipeline.tasks import TASKS, Task, TaskOptions
from pipeline.tasks.chain import columns_read, fields_naming
from pipeline.tasks.reading import sources

ERRORS_COLUMN = "errors"
# Of how int8 is computed and when float32 looks again; counted up with every change of results.
INT8_RECIPE = 3

NAME = r"^[A-Za-z_][A-Za-z0-9_-]*$"


class Limits(Part):
    """When to give up."""

    bad_rows: float = Field(
        0.1,
        title="Bad rows",
        description="The share of a split's rows (below 1) or the number of rows (from 1) that "
        "may fail before the split does.",
        ge=0,
    )
    stall: Seconds = Field(
        600.0,
        title="Stall",
        description="A worker without progress for this long is replaced, such as 10m.",
    )

    @field_validator("bad_rows")
    @classmethod
    def _share_or_number(cls, bad_rows: float) -> float:
        if bad_rows > 1 and not bad_rows.is_integer():
            raise ValueError(
                f"{bad_rows:g} is neither a share nor a number of rows: write 0.05 for one row in "
                "twenty, 5 for five rows"
            )
        return bad_rows

    text: Bytes = Field(
        4 * 10**6,
        title="Largest text",
        description="A row with a text of more bytes of UTF-8 is bad, such as 4MB. All of War and "
        "Peace is 3.2 MB.",
    )

    def too_many(self, bad: int, *, rows: int) -> bool:
        """Whether that many bad rows fail a split."""
        return bad > (self.bad_rows if self.bad_rows >= 1 else self.bad_rows * rows)


def _kind(value: object) -> object:
    return value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)


# Built from the table, so that a new task is one line there; no type checker can follow that.
AnyOptions: Any = Annotated[
    reduce(or_, (kind.Options for kind in TASKS.values())), Field(discriminator="kind")
]


def _task_name(name: str) -> str:
    if name == ERRORS_COLUMN:
        raise ValueError("the output has a column of that name already: rename the task")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("this is no column name: use letters, digits and _ only")
    return name


class Job(Part):
    """A dataset of text, some tasks and an output."""

    model_config = ConfigDict(title="Shardscribe job")

    name: str = Field(title="Name", description="Names the run in records.", pattern=NAME)
    description: str = Field("", title="Description", description="For people.")
    input: Input
    output: Output
    tasks: dict[Annotated[str, AfterValidator(_task_name)], AnyOptions] = Field(
        title="Tasks", description="By output column: what to annotate.", min_length=1
    )
    compute: Compute = Compute()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _tasks_overwrite_nothing(self) -> Job:
        if self.output.columns != "all" and self.input.columns is not None:
            raise PydanticCustomError(
                "twice", "input.columns and output.columns both say what is carried: write one"
            )
        if self.input.table is not None and self.input.table == self.output.table:
            raise PydanticCustomError(
                "clash",
                "it is the input. Name another table",
                {"fields": [("output", "table")]},
            )
        carried = {self.input.text, *(self.carried or ())}
        clashes = [name for name in self.tasks if name in carried]
        if clashes:
            raise PydanticCustomError(
                "clash",
                "it would overwrite the input column of that name: rename the task",
                {"fields": [("tasks", name) for name in clashes]},
            )
        return self

    @property
    def carried(self) -> tuple[str, ...] | None:
        """The columns of rows that stand in the output beside annotations; None for all."""
        chosen = self.output.columns
        if isinstance(chosen, tuple):
            return chosen
        return KEYS if chosen == "annotations" else self.input.columns

    @property
    def carried_by(self) -> str:
        """The field that says so, for messages."""
        return "input.columns" if self.output.columns == "all" else "output.columns"

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Every model and adapter that the job names, once."""
        named = [name for o in self.options.values() for name in (o.model, o.adapter) if name]
        return tuple(dict.fromkeys(named))

    @property
    def options(self) -> dict[str, TaskOptions]:
        """The tasks' options by column name."""
        return dict(self.tasks)

    @cached_property
    def configured(self) -> dict[str, Task[Any]]:
        """The tasks by column name, made once; nothing is loaded."""
        return {name: TASKS[options.kind](options) for name, options in self.options.items()}

    def bind(self, infos: Mapping[str, ModelInfo]) -> dict[str, Task[Any]]:
        """The tasks, each told what is known of its model: some output types depend on it."""
        for task in self.configured.values():
            if task.options.model in infos:
                task.bind(infos[task.options.model])
        return self.configured

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy. What was worked out goes along only where it follows from the same."""
        copied = super().model_copy(update=update, deep=deep)
        if copied.tasks is not self.tasks or copied.input.text != self.input.text:
            for name in copied.__dict__.keys() - type(self).model_fields.keys():
                del copied.__dict__[name]
        return copied

    @cached_property
    def reads(self) -> list[str]:
        """The input's columns that tasks read."""
        return columns_read(self.configured, text=self.input.text)

    @cached_property
    def named_by(self) -> dict[str, str]:
        """Which field of the job names each column that tasks read."""
        return fields_naming(self.configured)

    @cached_property
    def texts_read(self) -> list[str]:
        """Those of `reads` that must hold text: what is annotated as it is."""
        plain = [task for task in self.configured.values() if task.options.template is None]
        names = {name for task in plain for name in sources(task, text=self.input.text)}
        return [name for name in self.reads if name in names]

    @property
    def cut(self) -> Cut:
        """How its files are cut; of a job that knows its models, see `bind`."""
        choice = self.input.split
        writes = choice == "auto" and any(task.writes for task in self.configured.values())
        return cut_of(choice, writes=writes, texts=tuple(self.reads))

    def on(self, device: str) -> Job:
        """The job as it is on a device, with what its dtype becomes there.

        Args:
            device: What ``compute.device: auto`` becomes: ``cpu`` or ``cuda``.
        """
        compute = self.compute
        if compute.device != "auto":
            device = compute.device
        known = {"device": device, "dtype": dtype_on(device, compute.dtype)}
        return self.model_copy(update={"compute": compute.model_copy(update=known)})

    def fingerprint_parts(self, revisions: Mapping[str, str]) -> dict[str, Any]:
        """Everything that changes results, for comparison between runs.

        What a job leaves at its default is not in it, but for the dtype: of a job that knows its
        device, see `on`.

        Args:
            revisions: What pins each model's weights, by reference.
        """
        said = {
            "text": self.input.text,
            "columns": list(self.carried) if self.carried is not None else None,
            "split": str(self.input.split),
            "filter": self.input.filter,
            "partitions": self.input.partitions,
            "compression": self.output.compression,
            "row_group": self.output.row_group,
            "engine": self.compute.engine,
            # Which rows are bad depends on it, and so does what other tasks read of them.
            "limits.text": self.limits.text,
        }
        parts = {name: value for name, value in said.items() if value != USUAL[name]}
        tasks = {}
        for name, task in self.configured.items():
            options = task.options
            tasks[name] = {**task.dump(), "revision": revisions[options.model]}
            if options.adapter is not None:
                tasks[name]["adapter"] = revisions[options.adapter]
        return {
            "results_version": RESULTS_VERSION,
            "dtype": self.compute.dtype,
            **({"int8": INT8_RECIPE} if self.compute.dtype == "int8" else {}),
            **parts,
            "tasks": tasks,
        }


# What the fingerprint says nothing of.
USUAL = {
    "text": Input.model_fields["text"].default,
    "columns": Input.model_fields["columns"].default,
    "split": Input.model_fields["split"].default,
    "filter": Input.model_fields["filter"].default,
    "partitions": Input.model_fields["partitions"].default,
    "compression": Output.model_fields["compression"].default,
    "row_group": Output.model_fields["row_group"].default,
    "engine": Compute.model_fields["engine"].default,
    "limits.text": Limits.model_fields["text"].default,
}


def fingerprint(parts: Mapping[str, Any]) -> str:
    """The parts as one hash, 16 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
