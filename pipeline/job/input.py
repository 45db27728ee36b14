"""What a job reads, and how large the splits are that it is cut into."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from pipeline.conditions.condition import condition_names
from pipeline.errors import JobError
from pipeline.job.catalog import CATALOG, Catalog, TableText, path_or_table
from pipeline.job.quantities import Bytes
from pipeline.lake.source.choice import Choice
from pipeline.lake.split import Cut

# Where a language model reads or writes, a CPU core does a row or two a second of short texts, and
# some 200 tokens. What is killed loses the split that it is at: a minute's work. On a GPU several
# such splits share a call, so that batches are full all the same.
SLOW_ROWS = 64
SLOW_TEXT = 64 * 1024
SPELLINGS = "write auto, {rows: 1000} or {bytes: 64MB}"


class Part(BaseModel):
    """A part of a job: no unknown keys, no silent conversions, no changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Path = Annotated[str, Field(min_length=1)]
PartitionType = Literal["string", "int32", "int64", "float64", "bool", "date"]


class SplitSize(Part):
    """How large a split is, by rows or by bytes: one of both."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    rows: int | None = Field(
        None,
        title="Rows",
        description="Each split has so many rows; a file's last, the rest.",
        ge=1,
    )
    bytes: Bytes | None = Field(
        None,
        title="Bytes",
        description="A larger file is cut into runs of row groups of about this size, a larger row "
        "group into ranges of rows, such as 64MB; as in the file, compressed.",
    )

    def __str__(self) -> str:
        return f"{self.rows} rows" if self.rows is not None else f"{self.bytes} bytes"


def _spelled(value: object) -> object:
    one = isinstance(value, dict) and value.keys() in ({"rows"}, {"bytes"})
    if one or value in ("auto", None) or isinstance(value, SplitSize):
        return value
    raise ValueError(SPELLINGS)


SplitChoice = Annotated[Literal["auto"] | SplitSize, BeforeValidator(_spelled)]


class Input(Part):
    """What is read."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["path"]}, {"required": ["table"]}]}
    )

    path: Path | Annotated[tuple[Path, ...], Field(min_length=1, strict=False)] | None = Field(
        None,
        title="Dataset",
        description="A Parquet file, a directory (read recursively), a glob or a Delta table; a "
        "local path or a s3://, gs:// or az:// address. Or a list of such, but for tables, in one "
        "place.",
    )
    table: TableText | None = Field(
        None,
        title="Table",
        description="Instead of a path: an Iceberg table, as its catalog names it, such as "
        "prod.reviews.",
    )
    catalog: Catalog = CATALOG
    text: str = Field("text", title="Text column", description="The column that is annotated.")
    columns: tuple[str, ...] | None = Field(
        None,
        title="Carried columns",
        description="Input columns that the output keeps; all by default.",
        strict=False,
    )
    filter: str | None = Field(
        None,
        title="Filter",
        description="A SQL condition over the row; rows that it does not hold for are not read. "
        "`year >= 2025 AND lang = 'en'` opens no file of another partition.",
        min_length=1,
    )
    partitions: dict[str, PartitionType] = Field(
        {},
        title="Partition columns",
        description="Types of columns that directories tell, as in `year=2024/`: {year: int32}. "
        "By default whole numbers are int64 and all else is text.",
    )
    version: int | str | None = Field(
        None,
        title="Version",
        description="Of a table: a version's number (Delta), a snapshot's id (Iceberg), or a time "
        "such as 2026-01-31T12:00:00Z, of which the then latest is read. The latest by default.",
    )
    split: SplitChoice = Field(
        "auto",
        title="Splits",
        description="What is read, annotated and committed at once: {rows: 1000} or {bytes: 64MB}. "
        "auto: files of up to 256 MB; 64 rows where a language model reads or writes.",
    )

    @model_validator(mode="after")
    def _path_or_table(self) -> Input:
        path_or_table(self.path, self.table, self.catalog)
        return self

    @field_validator("filter")
    @classmethod
    def _condition(cls, condition: str | None) -> str | None:
        try:
            if condition is not None:
                condition_names(condition)
        except JobError as error:
            raise ValueError(str(error)) from error
        return condition

    @property
    def address(self) -> str:
        """The path, or all of them, or the table, for messages and records."""
        if self.table is not None:
            return self.table
        if self.path is None:
            return ""
        return self.path if isinstance(self.path, str) else ", ".join(self.path)

    @property
    def choice(self) -> Choice:
        """What of the dataset is wanted."""
        return Choice(self.filter, dict(self.partitions))

    @field_validator("version")
    @classmethod
    def _number_or_time(cls, version: int | str | None) -> int | str | None:
        if isinstance(version, int) and version < 0:
            raise ValueError("versions count from 0")
        if isinstance(version, str):
            try:
                datetime.fromisoformat(version)
            except ValueError:
                raise ValueError(
                    "this is neither a number nor a time: write 12 or 2026-01-31T12:00:00Z"
                ) from None
        return version

    @field_validator("columns")
    @classmethod
    def _each_once(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return each_once(columns) if columns is not None else None


def each_once(columns: tuple[str, ...]) -> tuple[str, ...]:
    """Columns that are named, none of them twice.

    Raises:
        ValueError: One is.
    """
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise ValueError(f"`{twice[0]}` stands twice: name each column once")
    return columns


def cut_of(choice: Literal["auto"] | SplitSize, *, writes: bool, texts: tuple[str, ...]) -> Cut:
    """How a job's files are cut.

    Args:
        choice: What the job says.
        writes: Whether a task of it has a model that writes.
        texts: The columns that its tasks read.
    """
    if choice == "auto":
        return Cut(rows=SLOW_ROWS, text_bytes=SLOW_TEXT, texts=texts) if writes else Cut()
    if choice.bytes is not None:
        return Cut(bytes=choice.bytes, range_bytes=choice.bytes)
    return Cut(bytes=None, rows=choice.rows)
