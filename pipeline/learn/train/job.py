"""A training job: a strict, frozen model of the YAML file that ``shardscribe train`` reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from pipeline.job.input import Part
from pipeline.job.job import NAME


def _number(value: object) -> object:
    """YAML takes 5e-5, without a point, for text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


# As a job's base: none.
SCRATCH_BASE = "scratch"
Number = Annotated[float, BeforeValidator(_number)]
# A share of the data, or the address of data of its own.
Share = Annotated[float, Field(ge=0, lt=1)] | Annotated[str, Field(min_length=1)]


class TrainTask(Part):
    """What the model is to learn."""

    kind: Literal["classify", "ner", "write"] = Field(
        title="Kind",
        description="classify: a label for each text, or several where the label column holds "
        "lists. ner: spans of each text, as {label, start, end} in characters, or a tag for each "
        "word of a list of words. write: a text for each text, such as its translation, with base: "
        "scratch.",
    )


class TrainData(Part):
    """Rows of which the right answer is known."""

    path: str = Field(
        title="Dataset",
        description="A Parquet file, a directory (read recursively), a glob or a Delta table; a "
        "local path or a s3://, gs:// or az:// address.",
        min_length=1,
    )
    text: str = Field(
        "text", title="Text column", description="What is read; for ner, texts or lists of words."
    )
    label: str = Field(
        "label",
        title="Label column",
        description="The right label of each row, or a list of such; or its spans, or the tags of "
        "its words; or the text to write.",
    )
    validation: Share = Field(
        0.1,
        title="Validation",
        description="The share of rows by which the best checkpoint is chosen, or a dataset of "
        "such rows; 0 for none.",
    )
    test: Share = Field(
        0.1,
        title="Test",
        description="The share of rows that figures are of, or a dataset of such rows; 0 for none.",
    )

    @model_validator(mode="after")
    def _leaves_some(self) -> TrainData:
        shares = [part for part in (self.validation, self.test) if isinstance(part, float)]
        if sum(shares) >= 1:
            raise ValueError("validation and test together leave nothing to train on")
        return self


class FreezeAllBut(Part):
    """Leaves most layers as they are."""

    all_but_last: int = Field(
        title="All but the last",
        description="Only so many of the last layers are trained, and what comes after them; 0: "
        "the head alone.",
        ge=0,
    )


class LoraOptions(Part):
    """Learns low-rank updates of linear layers, and leaves the base as it is."""

    rank: int = Field(8, title="Rank", description="Of each update; twice it is its scale.", ge=1)


class TrainOptions(Part):
    """How it is learned."""

    epochs: int = Field(3, title="Epochs", description="How often each row is seen.", ge=1)
    batch_size: int = Field(16, title="Batch size", description="Rows to a step.", ge=1)
    learning_rate: Number = Field(
        5e-5,
        title="Learning rate",
        description="The highest; it falls to 0 in a line.",
        gt=0,
        allow_inf_nan=False,
    )
    weight_decay: Number = Field(
        0.01, title="Weight decay", description="Of AdamW.", ge=0, allow_inf_nan=False
    )
    warm_up: float = Field(
        0.06,
        title="Warm-up",
        description="The share of all steps in which the learning rate rises.",
        ge=0,
        lt=1,
    )
    max_tokens: int | None = Field(
        None,
        title="Most tokens",
        description="Longer texts are cut to it while training; by default, what the model takes.",
        ge=8,
    )
    freeze: FreezeAllBut | Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = (
        Field(
            None,
            title="Freeze",
            description="Layers that stay as they are: {all_but_last: 2}, or patterns of "
            "parameters' names, such as ['*.embeddings.*'].",
        )
    )
    lora: LoraOptions | None = Field(
        None,
        title="LoRA",
        description="Trains a low-rank update of each linear layer, and the head: {rank: 8}. The "
        "model comes out merged, with the updates alone in adapter/.",
    )
    class_weights: Literal["balanced"] | dict[str, float] | None = Field(
        None,
        title="Class weights",
        description="How much a row of a label counts: by label, 1 where none is named; balanced: "
        "all labels count the same, however many rows they have.",
    )
    checks: int = Field(
        2,
        title="Checks",
        description="How often in an epoch the model is validated and a checkpoint written.",
        ge=1,
    )
    early_stopping: int | None = Field(
        None,
        title="Early stopping",
        description="Stop after so many checks in a row that do not get better.",
        ge=1,
    )
    seed: int = Field(0, title="Seed", description="Of the split, the head and the order.", ge=0)

    @model_validator(mode="after")
    def _freezes_once(self) -> TrainOptions:
        if self.lora is not None and self.freeze is not None:
            raise ValueError("lora leaves all layers as they are: write it or freeze, not both")
        return self

    @field_validator("class_weights")
    @classmethod
    def _weights_count(cls, weights: str | dict[str, float] | None) -> object:
        if isinstance(weights, dict) and not all(0 < weight < 1e9 for weight in weights.values()):
            raise ValueError("weights must be more than 0")
        return weights


class ScratchOptions(Part):
    """How large a model is that is made from nothing; the names are `torch.nn.Transformer`'s."""

    d_model: int = Field(
        128, title="Width", description="Numbers of a token's vector; heads share them.", ge=8
    )
    heads: int = Field(4, title="Heads", description="Of each attention.", ge=1)
    encoder_layers: int = Field(2, title="Encoder layers", description="That read.", ge=1)
    decoder_layers: int = Field(2, title="Decoder layers", description="That write.", ge=1)
    feed_forward: int = Field(
        256, title="Feed-forward", description="Width of the two linear layers of each layer.", ge=1
    )
    dropout: float = Field(
        0.1, title="Dropout", description="The share that is left out while training.", ge=0, lt=1
    )
    label_smoothing: float = Field(
        0.1,
        title="Label smoothing",
        description="Less certainty than this is asked for.",
        ge=0,
        lt=1,
    )
    vocabulary: int = Field(
        1000,
        title="Vocabulary",
        description="The most tokens; bytes alone are 256.",
        ge=260,
        le=100_000,
    )
    max_tokens: int = Field(
        256, title="Most tokens", description="That the model takes, or writes, at once.", ge=8
    )

    @model_validator(mode="after")
    def _heads_share(self) -> ScratchOptions:
        if self.d_model % self.heads or self.d_model % 2:
            raise ValueError("d_model must be even, and a multiple of heads")
        return self


class TrainOutput(Part):
    """Where the model goes."""

    path: str = Field(
        title="Model folder",
        description="A new directory on this machine; a job names it as `model`.",
        min_length=1,
    )

    @field_validator("path")
    @classmethod
    def _local(cls, path: str) -> str:
        if "://" in path:
            raise ValueError("a model goes to a directory of this machine: copy it from there")
        return path


class TrainJob(Part):
    """Labelled rows, a model to begin with and a folder for what becomes of it."""

    model_config = ConfigDict(title="Shardscribe training job")

    name: str = Field(title="Name", description="Names the model in its card.", pattern=NAME)
    description: str = Field("", title="Description", description="For people.")
    base: str = Field(
        title="Base",
        description="The model to begin with: a hub id with an optional @revision, a local folder, "
        "starter/..., or scratch: none, it is made from nothing.",
        min_length=1,
    )
    task: TrainTask
    data: TrainData
    scratch: ScratchOptions | None = None
    train: TrainOptions = TrainOptions()
    output: TrainOutput

    @model_validator(mode="after")
    def _made_from_nothing(self) -> TrainJob:
        scratch = self.base == SCRATCH_BASE
        if scratch != (self.task.kind == "write"):
            raise ValueError(
                "task.kind: write needs base: scratch, and scratch can do nothing else"
            )
        if self.scratch is not None and not scratch:
            raise ValueError("scratch says how large a model of base: scratch is")
        if self.train.class_weights is not None and self.task.kind == "ner":
            raise ValueError("train.class_weights weigh the labels of texts, not of spans")
        train = self.train
        if scratch and (train.freeze or train.lora or train.class_weights is not None):
            raise ValueError("what is made from nothing has neither frozen layers nor classes")
        return self

    @model_validator(mode="after")
    def _stops_by_something(self) -> TrainJob:
        if self.train.early_stopping is not None and self.data.validation == 0:
            raise ValueError("train.early_stopping goes by validation rows: set data.validation")
        return self
