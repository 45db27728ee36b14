"""Embed: a vector per text, as sentence-transformers makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from pipeline.errors import JobError
from pipeline.models.heads import Models
from pipeline.models.resolve import ModelInfo
from pipeline.models.sentence import SentenceEncoder
from pipeline.models.sentence_files import check_encodes, width
from pipeline.tasks.contract import Annotated, Example, Task, TaskOptions

if TYPE_CHECKING:
    import pyarrow as pa


class EmbedOptions(TaskOptions):
    """A vector per text, for search, clusters and near duplicates."""

    kind: Literal["embed"]
    pooling: Literal["auto", "mean", "cls", "max"] = Field(
        "auto",
        title="Token vectors to text vector",
        description="auto: as the model's sentence-transformers files say, mean without any. The "
        "windows of a text longer than the model takes become one vector: the mean over all "
        "tokens (mean), their maximum (max), or the mean of the windows by length (cls).",
    )
    normalize: Literal["auto"] | bool = Field(
        "auto",
        title="Length 1",
        description="Whether vectors are brought to length 1. auto: if the model's modules.json "
        "lists a Normalize module.",
    )
    precision: Literal["float32", "float16"] = Field(
        "float32",
        title="Precision",
        description="Of the numbers in the column; float16 halves its size.",
    )


class Embed(Task[EmbedOptions]):
    """A vector per text.

    Pooled and normalised as the model's sentence-transformers files say (`pooling`, `normalize`
    override), equal to sentence-transformers within 1e-5. The vector of a text longer than the
    model is pooled over all its tokens. `precision: float16` halves the column.
    """

    Options = EmbedOptions
    needs = "any encoder"
    examples = (
        Example("starter/minilm"),
        Example("starter/minilm", {"pooling": "max", "normalize": False}, name="max"),
    )

    def output_type(self) -> pa.DataType:
        """``fixed_size_list<float32>[dim]``, or of float16.

        Raises:
            JobError: No model is bound, or its config.json does not say how wide it is.
        """
        import pyarrow as pa

        if self.info is None:
            raise JobError("the dimension of a vector is known once its model is")
        number = pa.float16() if self.options.precision == "float16" else pa.float32()
        return pa.list_(number, width(self.info.config, reference=self.info.reference))

    def check_model(self, model: ModelInfo) -> None:
        """Refuses a model that has no one vector per token, or a part that is not built here.

        Raises:
            JobError: The model writes text, or its files ask for more than pooling.
        """
        check_encodes(model, kind=self.options.kind, pooling=self.options.pooling)
        width(model.config, reference=model.reference)

    def load(self, models: Models) -> EmbedAnnotate:
        """Loads the encoder."""
        options = self.options
        self.bind(models.infos[options.model])
        encoder = SentenceEncoder(
            models.encoder(options.model),
            reference=options.model,
            pooling=options.pooling,
            normalize=options.normalize,
        )
        return EmbedAnnotate(encoder, self.output_type())


class EmbedAnnotate:
    """Makes vectors with a loaded encoder."""

    def __init__(self, encoder: SentenceEncoder, output_type: pa.DataType) -> None:
        self.encoder = encoder
        self.output_type = output_type

    def annotate(self, texts: Sequence[str]) -> Annotated:
        """One vector per text."""
        import pyarrow as pa

        found = self.encoder.window_vectors(texts)
        dim = self.output_type.list_size
        values = np.zeros((len(texts), dim), dtype=np.float32)
        if len(found.failures) < len(texts):
            values = self.encoder.merge(found, rows=len(texts))
        if values.shape[1] != dim:
            folder = self.encoder.text.folder
            raise JobError(
                f"model {folder.name} gives vectors of {values.shape[1]} numbers, "
                f"but its config.json says {dim}",
                hint="Name another encoder",
            )
        bad = np.zeros(len(texts), dtype=bool)
        bad[list(found.failures)] = True
        number = self.output_type.value_type
        flat = values.astype(np.float16 if pa.types.is_float16(number) else np.float32).ravel()
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(flat, number), type=self.output_type, mask=pa.array(bad)
        )
        return Annotated(
            column, found.failures, tokens=found.tokens, padded_tokens=found.padded_tokens
        )
