"""Zero-shot: which of the job's own labels fits a text, with a model not trained for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from pipeline.errors import JobError
from pipeline.models.heads import HeadName, Models
from pipeline.models.resolve import ModelInfo
from pipeline.tasks.contract import (
    SOME_CHAT,
    SOME_NLI,
    Annotate,
    Annotated,
    Example,
    Names,
    Task,
    TaskOptions,
)
from pipeline.tasks.labels.classify import Merge, merge_windows, ranking, ranking_type
from pipeline.tasks.labels.families import FAMILIES, Family, family
from pipeline.tasks.labels.likelihood import ChatScorer
from pipeline.tasks.labels.scorers import EncoderScorer, NliScorer, Scorer
from pipeline.tasks.ties import gaps

if TYPE_CHECKING:
    import pyarrow as pa

HYPOTHESIS = "This example is {}."  # transformers' default
# all-MiniLM was trained with cosines scaled by 20.
TEMPERATURE = 0.05
# Without the labels: named in the question, they sway a small model more than the text does. With
# SmolLM2, on 300 reviews for training: 0.49 to 0.53 with them (five wordings), 0.68 to 0.81 without
# (seven), this one 0.81.
INSTRUCTION = "What is the category of the text above?"
ANSWER = "The category of the text above is {}"

LOADED_AS: Mapping[Family, HeadName] = {
    "nli": "sequence-classification",
    "encoder": "encoder",
    "chat": "causal",
}
OF_FAMILY: Mapping[str, Family] = {
    "hypothesis_template": "nli",
    "temperature": "encoder",
    "instruction": "chat",
    "answer_template": "chat",
    "calibrate": "chat",
}


class ZeroShotOptions(TaskOptions):
    """The best of the job's own labels."""

    kind: Literal["zero_shot"]
    labels: Names | dict[str, str] = Field(
        title="Labels",
        description="A list, or a mapping from each label to the words that stand for it before "
        "the model: they fill the hypothesis (NLI), are embedded (encoder), or are the answer "
        "that is weighed (chat).",
        min_length=1,
    )
    multi_label: bool = Field(
        False,
        title="Several labels",
        description="Whether each label holds or not by itself; not with chat models.",
    )
    hypothesis_template: str | None = Field(
        None,
        title="Hypothesis",
        description=f"NLI: what is claimed of the text, `{{}}` being the label (`{HYPOTHESIS}` by "
        "default).",
    )
    temperature: float | None = Field(
        None,
        title="Temperature",
        description="Encoder: cosines are divided by it before they become scores "
        f"({TEMPERATURE} by default). It does not change which label is best.",
        gt=0,
    )
    instruction: str | None = Field(
        None,
        title="Instruction",
        description=f"Chat: what is asked after the text (`{INSTRUCTION}` by default).",
        min_length=1,
    )
    answer_template: str | None = Field(
        None,
        title="Answer",
        description="Chat: the answer whose likelihood is weighed, `{}` being the label "
        f"(`{ANSWER}` by default, `{{}}` with an instruction of your own).",
    )
    calibrate: bool | None = Field(
        None,
        title="Calibration",
        description="Chat: whether what the model answers about no text at all is subtracted "
        "(true by default).",
    )
    top_k: int | None = Field(
        None,
        title="Scores kept",
        description="How many of the best labels `scores` holds; all by default.",
        ge=1,
    )
    merge: Merge = Field(
        "mean",
        title="Long texts",
        description="How the windows of a text longer than the model takes become one result: "
        "mean (weighted by length), max, or first.",
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_are_told_apart(cls, labels: Any) -> Any:
        if not isinstance(labels, (list, tuple, dict)):
            raise ValueError("write a list of labels, or a mapping from label to description")
        names = list(labels)
        if not names:
            raise ValueError("there is no label: name at least one")
        words = list(labels.values()) if isinstance(labels, dict) else []
        for what in (names, words):
            for word in what:
                if not isinstance(word, str):
                    raise ValueError(f"{word!r} is no text: write it in quotes")
                if not word.strip():
                    raise ValueError("a label or its description is blank: write it or drop it")
            clean = [word.strip() for word in what]
            twice = next((word for word in clean if clean.count(word) > 1), None)
            if twice is not None:
                raise ValueError(f"`{twice}` stands twice: a text could not be either")
        return labels

    @field_validator("hypothesis_template", "answer_template")
    @classmethod
    def _templates_have_a_place(cls, template: str | None) -> str | None:
        if template is not None and template.count("{}") != 1:
            raise ValueError("write `{}` once, where the label goes")
        return template

    @property
    def names(self) -> list[str]:
        """The labels."""
        return list(self.labels)

    @property
    def words(self) -> list[str]:
        """What stands for each label before the model."""
        return list(self.labels.values()) if isinstance(self.labels, dict) else list(self.labels)


class ZeroShot(Task[ZeroShotOptions]):
    """Labels given in the job: by entailment, by embedding, or by likelihood.

    `labels` of the job, as a list or with a description each. NLI models weigh whether the text
    entails `hypothesis_template`; encoders compare the text with each description; of chat models
    the likelihood of each answer counts, less that without any text. Nothing is written and parsed.
    Measured (`python benchmarks/zero_shot.py`): positive or negative on 1,000 held-out Rotten
    Tomatoes reviews with `starter/smollm2` 0.813 accuracy (the more frequent label: 0.519); 8
    topics on 800 Reuters R8 reports with `starter/minilm` 0.676 (0.497).
    """

    Options = ZeroShotOptions
    needs = "an NLI model, any encoder, a chat model"
    examples = (
        Example("starter/minilm", {"labels": {"film": "a film", "person": "a person's address"}}),
        Example(
            SOME_NLI,
            {"labels": ["film", "address", "weather"], "multi_label": True, "top_k": 2},
            name="nli",
        ),
        Example(
            SOME_CHAT,
            {"labels": ["film", "an address", "bad weather"], "merge": "max"},
            name="chat",
        ),
    )

    def output_type(self) -> pa.DataType:
        """``struct<label, score, scores: list<struct<label, score>>>``, best label first."""
        return ranking_type()

    def check_model(self, model: ModelInfo) -> None:
        """Refuses a model of no family that can do this, and options of another family.

        Raises:
            JobError: As said.
        """
        kind = family(model)
        for name, owner in OF_FAMILY.items():
            if getattr(self.options, name) is not None and owner != kind:
                raise JobError(
                    f"`{name}` has no meaning for {model.reference}: it is for {FAMILIES[owner]}, "
                    f"and this is {FAMILIES[kind]}",
                    hint=f"Remove `{name}`, or name another model",
                )
        if kind == "chat" and self.options.multi_label:
            raise JobError(
                f"multi_label has no meaning for {model.reference}: the likelihoods of a chat "
                "model's answers are shares of one",
                hint="Name an NLI model or an encoder, or remove multi_label",
            )

    def head(self, model: ModelInfo) -> HeadName:
        """As the model's family needs it."""
        return LOADED_AS[family(model)]

    @property
    def has_labels(self) -> bool:
        """Of a chat model, answers are weighed, in float32."""
        return self.info is not None and family(self.info) != "chat"

    def load(self, models: Models) -> Annotate:
        """Loads the model with the head that its family needs."""
        return ZeroShotAnnotate(self._scorer(models), self.options, self.output_type())

    def _scorer(self, models: Models) -> Scorer:
        options = self.options
        first = options.merge == "first"
        kind = family(models.infos[options.model])
        if kind == "nli":
            template = options.hypothesis_template or HYPOTHESIS
            return NliScorer(
                models.classifier(options.model),
                [template.replace("{}", word) for word in options.words],
                multi_label=options.multi_label,
                first=first,
            )
        if kind == "encoder":
            return EncoderScorer(
                models.encoder(options.model),
                options.words,
                reference=options.model,
                temperature=None if options.multi_label else options.temperature or TEMPERATURE,
                first=first,
            )
        template = options.answer_template or ("{}" if options.instruction else ANSWER)
        return ChatScorer(
            models.answer_scorer(options.model),
            [template.replace("{}", word) for word in options.words],
            instruction=options.instruction or INSTRUCTION,
            calibrate=options.calibrate is not False,
            first=first,
        )


class ZeroShotAnnotate:
    """Ranks the labels for each text."""

    def __init__(self, scorer: Scorer, options: ZeroShotOptions, output_type: pa.DataType) -> None:
        self.scorer = scorer
        self.options = options
        self.output_type = output_type

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One ranking per text; windows of a long text are merged as the job says."""
        found = self.scorer.score(texts)
        scores = merge_windows(
            found.scores, found.owner, found.weights, rows=len(texts), how=self.options.merge
        )
        column = ranking(
            scores,
            self.options.names,
            top_k=self.options.top_k,
            failures=found.failures,
            kind=self.output_type,
        )
        return Annotated(
            column,
            found.failures,
            tokens=found.tokens,
            padded_tokens=found.padded_tokens,
            gaps=lambda: gaps(scores, each=self.options.multi_label),
        )
