"""What a job writes, and how it is laid out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pipeline.job.catalog import CATALOG, Catalog, TableText, clash
from pipeline.job.input import Part, Path, each_once

COLUMN_CHOICES = ("all", "annotations")


def _list_or_word(value: object) -> object:
    if isinstance(value, str) and value not in COLUMN_CHOICES:
        raise ValueError("write all, annotations, or a list of columns such as [id]")
    return value


CarriedChoice = Annotated[
    Literal["all", "annotations"] | Annotated[tuple[str, ...], Field(strict=False)],
    BeforeValidator(_list_or_word),
]


class Output(Part):
    """What is written."""

    path: Path | None = Field(
        None,
        title="Output directory",
        description="Where the annotated Parquet files go, in the input's own directory layout; of "
        "an Iceberg table by default below the table's place.",
    )
    format: Literal["parquet", "delta", "iceberg"] = Field(
        "parquet",
        title="Format",
        description="parquet: files alone. delta, iceberg: a table of such files, which takes all "
        "that a run has annotated in one transaction.",
    )
    table: TableText | None = Field(
        None,
        title="Table",
        description="Of format iceberg: the table, as its catalog names it, such as "
        "prod.annotated.",
    )
    catalog: Catalog = CATALOG
    compression: Literal["zstd", "snappy", "gzip", "none"] = Field(
        "zstd", title="Compression", description="Parquet compression of the output."
    )
    row_group: int | None = Field(
        None,
        title="Row group",
        description="How many rows a row group has, or fewer if they are 256 MB; as many as are "
        "annotated at once by default, 16,384 or 8 MB of them.",
        ge=1,
        le=10_000_000,
    )
    columns: CarriedChoice = Field(
        "all",
        title="Columns",
        description="What stands beside the annotations. all: the input's columns. annotations: "
        "only each row's file and number in it, as source_file and source_row, so that the output "
        "is a table beside the source. Or a list of columns, such as the key: [id].",
    )

    commit_every: int | None = Field(
        None,
        title="Commit every",
        description="Of a table: a transaction each time so many splits are annotated, so that "
        "readers see a long run's rows as it goes. By default one when all are.",
        gt=0,
    )

    @model_validator(mode="after")
    def _commits_tables_alone(self) -> Output:
        if self.commit_every is not None and self.format == "parquet":
            raise ValueError(
                "commit_every is for tables: a Parquet file is there as soon as it is annotated. "
                "Leave it out, or set format"
            )
        return self

    @model_validator(mode="after")
    def _place_or_table(self) -> Output:
        iceberg = self.format == "iceberg"
        if self.path is None and not (iceberg and self.table):
            wrong = ("table", "it is missing. Name the Iceberg table, such as prod.annotated")
            if not iceberg:
                wrong = ("path", "it is missing. Add it")
        elif iceberg and self.table is None:
            wrong = ("table", "it is missing. Name the Iceberg table, such as prod.annotated")
        elif not iceberg and (self.table is not None or self.catalog):
            name = "table" if self.table is not None else "catalog"
            wrong = (name, "it is of an Iceberg table. Add format: iceberg")
        else:
            return self
        raise clash(*wrong)

    @field_validator("columns")
    @classmethod
    def _named_once(cls, columns: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return columns if isinstance(columns, str) else each_once(columns)

    @property
    def address(self) -> str:
        """The path, or the table where there is none, for messages."""
        return self.path or self.table or ""
