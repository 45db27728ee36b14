"""What the directories of a partitioned tree tell of its files: `year=2024/language=en/a.parquet`.

A column that they tell is the same for all rows of a file, and as a rule in no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import unquote

import pyarrow as pa

from pipeline.errors import JobError, SplitError
from pipeline.escape import visible
from pipeline.lake.store.base import Entry

# What Hive, Spark and pyarrow write for a value that is missing.
NULL = "__HIVE_DEFAULT_PARTITION__"
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
TYPES: Mapping[str, pa.DataType] = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
}


def directory_of(path: str) -> str:
    """The part of a path that tells columns."""
    return path.rpartition("/")[0]


def values_of(path: str) -> dict[str, str | None]:
    """The columns that a file's directories tell, from the outermost to the innermost.

    Args:
        path: Of the file, relative to the dataset.

    Returns:
        Texts by column; None for a value that is missing.

    Raises:
        JobError: A column stands in it twice, or is no text.
    """
    found: dict[str, str | None] = {}
    for step in directory_of(path).split("/"):
        name, equals, value = step.partition("=")
        if not equals or not name:
            continue
        try:
            name, text = (unquote(part, errors="strict") for part in (name, value))
            f"{name}{text}".encode()
        except UnicodeError as error:
            raise JobError(
                f"the directory {visible(step)} of {visible(path)} is not UTF-8",
                hint="Rename it",
            ) from error
        if name in found:
            raise JobError(
                f"the path {path} tells `{name}` twice",
                hint="Let each directory tell another column",
            )
        found[name] = None if text == NULL else text
    return found


@dataclass(frozen=True)
class Partitions:
    """The columns that the directories of a dataset tell, with their types.

    Attributes:
        types: By column; those that only some directories tell are null elsewhere.
    """

    types: Mapping[str, pa.DataType] = field(default_factory=dict)

    @cached_property
    def _known(self) -> dict[str, dict[str, pa.Scalar]]:
        return {}

    def of(self, path: str) -> dict[str, pa.Scalar]:
        """What the directories tell of a file.

        Raises:
            JobError: A value is not of its column's type.
        """
        directory = directory_of(path)
        if directory not in self._known:
            told = {**dict.fromkeys(self.types), **values_of(path)}
            self._known[directory] = {
                name: _scalar(name, text, self.types.get(name, pa.string()), path)
                for name, text in told.items()
            }
        return self._known[directory]


def partitions_of(files: Iterable[Entry], declared: Mapping[str, str]) -> Partitions:
    """The columns that the directories of files tell.

    A column is of whole numbers if all its values are, and of text otherwise.

    Args:
        files: Of the dataset.
        declared: Types of columns that are not to be inferred, by `TYPES`.

    Raises:
        JobError: A value is not of the type that was declared, or no directory tells such a
            column.
    """
    seen: dict[str, set[str]] = {}
    places: dict[str, str] = {}
    for entry in files:
        places.setdefault(directory_of(entry.path), entry.path)
    for path in places.values():
        for name, text in values_of(path).items():
            seen.setdefault(name, set()).update([] if text is None else [text])
    for name in declared:
        if name not in seen:
            there = ", ".join(seen) or "none"
            raise JobError(
                f"input.partitions names `{name}`, which no directory of the dataset tells; "
                f"they tell {there}",
                hint="Directories that do are named name=value",
            )
    types = {
        name: TYPES[declared[name]]
        if name in declared
        else pa.int64()
        if texts and all(WHOLE_NUMBER.fullmatch(text) for text in texts)
        else pa.string()
        for name, texts in seen.items()
    }
    found = Partitions(types)
    for path in places.values():
        found.of(path)
    return found


def check_told(name: str, column: pa.ChunkedArray, told: pa.Scalar, *, where: str) -> None:
    """Refuses a file whose own column is not what its directories tell.

    Args:
        name: Of the column.
        column: As the file has it.
        told: What its directories tell.
        where: The file, for messages.

    Raises:
        SplitError: It is another value, or another type.
    """
    import pyarrow.compute as pc

    try:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        same = (
            column.null_count == len(column)
            if not told.is_valid
            else column.null_count == 0 and pc.all(pc.equal(column.cast(told.type), told)).as_py()
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        same = False
    if len(column) and not same:
        value = "nothing" if not told.is_valid else visible(str(told.as_py()))
        raise SplitError(
            f"{where}: column `{name}` is not what the file's directory tells, {value}",
            hint="Move the file to where it belongs, or drop the column from it",
        )


def _scalar(name: str, text: str | None, kind: pa.DataType, path: str) -> pa.Scalar:
    try:
        if text is None:
            return pa.scalar(None, kind)
        if pa.types.is_integer(kind):
            return pa.scalar(int(text) if re.fullmatch(r"-?[0-9]{1,40}", text) else text, kind)
        return pa.scalar(text).cast(kind)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise JobError(
            f"the partition {name}={visible(text or '', most=60)} of {visible(path)} is no {kind}",
            hint=f"Rename the directory, or set input.partitions: {{{name}: string}}",
        ) from error
