"""The contract of a task. A task is added in one file, and one line of `TASKS`.

Whatever else knows of a task follows from its class: the job's schema from its options, its part
of the README from its docstring and `needs`, the contract tests from its `examples`, and how a
value is shown from the fields of its output type (`pipeline.cli.render`).

A task lives in three stages, so that nothing heavy is touched before it is needed:

1. `TaskOptions`: what the job file says. Plain data, checked when the job is loaded.
2. `Task`: options and what follows from them alone: the output type, which models fit.
3. `Annotate`: made by `Task.load` on a worker, holds models, turns texts into a column.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar
from typing import Annotated as ConstrainedType

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.errors import JobError, RowError
from pipeline.models.heads import WRITING_HEADS, HeadName, Models
from pipeline.models.resolve import ModelInfo

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa  # for annotations alone: it is heavy, and loading a job is not


# A YAML list is no tuple to a strict model.
Names = ConstrainedType[tuple[str, ...], Field(strict=False, min_length=1)]


class TaskOptions(BaseModel):
    """What every task of a job file has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: str
    model: str = Field(
        title="Model",
        description="A hub id (`org/name@revision`), a local folder, or `starter/...`.",
        min_length=1,
    )
    adapter: str | None = Field(
        None,
        title="Adapter",
        description="A LoRA or other PEFT adapter of the model, as `model` is named; its weights "
        "are merged when the model is loaded.",
        min_length=1,
    )
    input: str | Names | None = Field(
        None,
        title="Text to annotate",
        description="A column of the input, or another task whose text is annotated (a summary, a "
        "translation); several columns are joined by blank lines. The job's text column by "
        "default.",
    )
    template: str | None = Field(
        None,
        title="Template",
        description="Makes the text from columns: `Title: {title}\\n{body}`. `{{` and `}}` are "
        "braces.",
        min_length=1,
    )
    when: str | None = Field(
        None,
        title="Condition",
        description="A SQL condition over the row's own columns and other tasks' fields, such as "
        "`sentiment.score < 0.7`. Other rows are null and counted as skipped.",
        min_length=1,
    )

    @field_validator("template")
    @classmethod
    def _is_a_template(cls, template: str | None) -> str | None:
        if template is not None:
            template_fields(template)
        return template

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.template is not None and self.input is not None:
            raise ValueError("`template` names its columns itself: remove `input`")
        return self


def template_fields(template: str) -> tuple[str, ...]:
    """The names in a template's braces, each once.

    Raises:
        ValueError: It is not a template, or says more of a field than its name.
    """
    names = []
    for _, name, spec, conversion in Formatter().parse(template):
        if name is None:
            continue
        if not name or spec or conversion or any(letter in name for letter in ".[]"):
            raise ValueError(
                f"`{{{name}}}` is no field: write the name of a column in braces, as in "
                "`{title}`, and `{{` for a brace"
            )
        names.append(name)
    if not names:
        raise ValueError("the template names no column: write one in braces, as in `{text}`")
    return tuple(dict.fromkeys(names))


# Models of kinds that no starter model is of, or none that is quick; tests make small random ones.
SOME_NLI = "some/nli"
SOME_QA = "some/question-answering"
SOME_SEQ2SEQ = "some/sequence-to-sequence"
SOME_CHAT = "some/chat"
SOME_DECODER = "some/decoder"


@dataclass(frozen=True)
class Example:
    """One way to configure a task, which the contract tests try.

    Attributes:
        model: A starter model, or one of those above.
        options: Beside kind and model.
        name: Tells it from a class's first example, which has none.
        texts: To try, beside those that every task is tried with.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    texts: tuple[str, ...] = ()


@dataclass
class Annotated:
    """What one call of a task gives back.

    Attributes:
        column: One entry per text, of the declared output type; null where the row failed.
        failures: Why, by row index, for each row that could not be annotated.
        tokens: Content tokens the model was given, without padding.
        padded_tokens: The same with padding.
        gaps: Gives for each text how far its labels are from others, in log odds: float64 of shape
            [texts]. Of tasks that `Task.has_labels` is true of.
        twice: Bools of shape [texts]: which were computed in int8 and again in float32; None
            where nothing is.
    """

    column: pa.Array
    failures: dict[int, RowError] = field(default_factory=dict)
    tokens: int = 0
    padded_tokens: int = 0
    gaps: Callable[[], np.ndarray] | None = None
    twice: np.ndarray | None = None


class Annotate(Protocol):
    """A task with its models loaded."""

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """Annotates non-blank texts: one entry out per text in, in the same order.

        Args:
            texts: From a worker `pipeline.models.text.texts.TaskInput`, which tokenizes once for
                all tasks and carries the columns that `Task.extra_columns` names.
        """
        ...


OptionsT = TypeVar("OptionsT", bound=TaskOptions)


class Task(ABC, Generic[OptionsT]):
    """A task as configured in a job; nothing is loaded yet.

    The docstring of a task is what the README says of it, but for the first paragraph.

    Args:
        options: The task's part of the job file.

    Attributes:
        Options: What the job file says.
        class_ends: How the class of a model ends that serves; any if empty.
        needs: The same in words.
        examples: At least one; the first with as few options as may be.
    """

    Options: ClassVar[type[TaskOptions]]
    class_ends: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[str]
    examples: ClassVar[tuple[Example, ...]]

    def __init__(self, options: OptionsT) -> None:
        self.options = options
        self.info: ModelInfo | None = None

    def bind(self, model: ModelInfo) -> None:
        """Tells what is known of the model before weights are loaded, such as its width."""
        self.info = model

    @abstractmethod
    def output_type(self) -> pa.DataType:
        """The Arrow type of the task's column, known before any row is seen.

        A type that the model decides about is known once the task is bound to one.
        """

    @abstractmethod
    def load(self, models: Models) -> Annotate:
        """Loads what the task needs from the worker's shared models."""

    def extra_columns(self) -> tuple[str, ...]:
        """Input columns that the task wants beside the text, as ``texts.columns[name]``."""
        return ()

    def check_model(self, model: ModelInfo) -> None:
        """Refuses a model whose head does not serve this task.

        Raises:
            JobError: The model's architecture is known and ends with none of `class_ends`.
        """
        if not self.class_ends or not model.architectures:
            return
        if any(arch.endswith(self.class_ends) for arch in model.architectures):
            return
        raise JobError(
            f"model {model.reference} is a {' / '.join(model.architectures)}; "
            f"{self.options.kind} needs {self.needs}",
            hint="Name a model that was trained for this task",
        )

    def head(self, model: ModelInfo) -> HeadName:
        """What the model is loaded as: without a head."""
        return "encoder"

    @property
    def writes(self) -> bool:
        """Whether its model is one that writes text, and takes far longer a row than an encoder.

        Raises:
            ValueError: No model is bound yet.
        """
        if self.info is None:
            raise ValueError(f"whether {self.options.kind} writes is known once its model is")
        return self.head(self.info) in WRITING_HEADS

    @property
    def has_labels(self) -> bool:
        """Whether its results are labels of a model that reads, so that int8 may serve it.

        Of such a task each text has a gap: where it is small, the labels are looked at twice.
        """
        return False

    def dump(self) -> dict[str, Any]:
        """The options that change results, for the fingerprint: all but the models' names.

        Only those that differ from their defaults, so that an option that a later version adds
        leaves the fingerprints of today's jobs as they are.
        """
        return self.options.model_dump(
            mode="json", exclude={"model", "adapter"}, exclude_defaults=True
        )
