"""Gold rows in a file of their own: Parquet or CSV, with a key that finds them in a lake."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.types as types

from pipeline.errors import JobError, near, one_line
from pipeline.escape import visible
from pipeline.learn.kinds import is_list
from pipeline.learn.numbers import LABEL, NUMBER, SPANS, what_is_asked

WEIGHT = "weight"


@dataclass
class GoldFile:
    """The gold rows that count, and how many do not.

    Attributes:
        keys: Of each row, once.
        gold: What is right, without nulls.
        weights: Inverse inclusion probabilities, if the file has them.
        left_out: How many rows do not count, by reason.
    """

    keys: pa.Array
    gold: pa.Array
    weights: pa.Array | None
    left_out: dict[str, int] = field(default_factory=dict)


def columns_there(file: Path) -> list[str]:
    """The columns of a gold file.

    Raises:
        JobError: It can't be read.
    """
    try:
        if _is_csv(file):
            import pyarrow.csv as csv

            with csv.open_csv(file, parse_options=_lines()) as opened:
                return list(opened.schema.names)
        import pyarrow.parquet as pq

        return list(pq.read_schema(file).names)
    except FileNotFoundError as error:
        raise JobError(f"--gold: there is no file {file}", hint="Name a Parquet or CSV") from error
    except (OSError, pa.ArrowException) as error:
        raise _unread(file, error) from error


def read_gold(file: Path, *, column: str, key: str, of: pa.DataType, asked: str) -> GoldFile:
    """Reads a gold file.

    Args:
        file: Parquet or CSV.
        column: What is right.
        key: By which rows are found.
        of: The type of the lake's key.
        asked: From `what_is_asked`, of the annotations.

    Raises:
        JobError: It can't be read, lacks a column, has one of a wrong type, or contradicts itself.
    """
    there = columns_there(file)
    for name, option in ((column, "--column"), (key, "--key")):
        if name not in there:
            raise JobError(
                f"{option}: {file} has no column `{name}`; there are {', '.join(there)}",
                hint=f"{near(name, there)} in {option}",
            )
    names = [key, column, *([WEIGHT] if WEIGHT in there else [])]
    table = _table(file, names, column=column, key=key, of=of, asked=asked)
    _check_type(table.schema.field(column).type, file, column, asked)
    try:
        keys = table[key].cast(of)
    except pa.ArrowException as error:
        raise JobError(
            f"{file}: key `{key}` is {table[key].type}, in the output it is {of}",
            hint="Write it as that, or name another with --key",
        ) from error
    table = table.set_column(table.schema.get_field_index(key), key, keys)
    labelled = table.filter(table[column].is_valid())
    keyed = labelled.filter(labelled[key].is_valid())
    left = {"without_gold": table.num_rows - labelled.num_rows,
            "without_key": labelled.num_rows - keyed.num_rows}  # fmt: skip
    once = _once(keyed, file, column=column, key=key)
    left["twice"] = keyed.num_rows - once.num_rows
    if not once.num_rows:
        raise JobError(f"{file} has no row with both `{key}` and `{column}`",
                       hint="Fill in the gold column")  # fmt: skip
    weights = _weights(once, file) if WEIGHT in there else None
    return GoldFile(once[key].combine_chunks(), once[column].combine_chunks(), weights, left)


def _table(
    file: Path, names: list[str], *, column: str, key: str, of: pa.DataType, asked: str
) -> pa.Table:
    try:
        if _is_csv(file):
            import pyarrow.csv as csv

            # As the output has them: `007` stays a text where keys are texts, `no` is a label.
            kinds = {key: of, column: pa.float64() if asked == NUMBER else pa.string()}
            convert = csv.ConvertOptions(
                include_columns=names, column_types={**kinds, WEIGHT: pa.float64()},
                null_values=[""], strings_can_be_null=True,
            )  # fmt: skip
            return csv.read_csv(file, parse_options=_lines(), convert_options=convert)
        import pyarrow.parquet as pq

        return pq.read_table(file, columns=names)
    except (OSError, pa.ArrowException) as error:
        raise _unread(file, error) from error


def _check_type(kind: pa.DataType, file: Path, column: str, asked: str) -> None:
    value = kind.value_type if is_list(kind) or types.is_dictionary(kind) else kind
    text = types.is_string(value) or types.is_large_string(value)
    right = text if asked == LABEL else what_is_asked(kind) == asked
    if not right:
        needed = {
            LABEL: "text, the label of each row, or a list of such",
            SPANS: "list<struct<label, start, end>>, which CSV can't hold",
            NUMBER: "a number",
        }[asked]
        raise JobError(f"{file}: gold column `{column}` is {kind}; it must be {needed}",
                       hint="Name another with --column, or write it as that")  # fmt: skip


def _once(table: pa.Table, file: Path, *, column: str, key: str) -> pa.Table:
    keys = table[key].to_pylist()
    if max(Counter(keys).values(), default=1) == 1:
        return table
    first: dict[object, int] = {}
    golds = table[column].to_pylist()
    for row, (which, gold) in enumerate(zip(keys, golds, strict=True)):
        before = golds[first.setdefault(which, row)]
        if before != gold:
            raise JobError(
                f"{file}: key {visible(which, most=80)!r} is there twice, as "
                f"{visible(before, most=80)!r} and as {visible(gold, most=80)!r}",
                hint="Keep the row that is right",
            )
    return table.take(list(first.values()))


def _weights(table: pa.Table, file: Path) -> pa.Array:
    try:
        weights = table[WEIGHT].cast(pa.float64()).combine_chunks()
    except pa.ArrowException as error:
        raise JobError(
            f"{file}: column `{WEIGHT}` is {table[WEIGHT].type}, not a number",
            hint="Give it another name if it is no sampling weight",
        ) from error
    for row, weight in enumerate(weights.to_pylist()):
        if weight is None or not math.isfinite(weight) or weight <= 0:
            raise JobError(
                f"{file}: row {row + 1} of those with gold has the sampling weight {weight}",
                hint="Weights are above 0: one over the probability that the row was drawn",
            )
    return weights


def _lines() -> object:
    import pyarrow.csv as csv

    return csv.ParseOptions(newlines_in_values=True)


def _is_csv(file: Path) -> bool:
    return file.suffix.lower() == ".csv"


def _unread(file: Path, error: Exception) -> JobError:
    return JobError(f"{file} can't be read as {'CSV' if _is_csv(file) else 'Parquet'}: "
                    f"{one_line(error)}", hint="Name a Parquet or CSV file")  # fmt: skip


def write_rows(table: pa.Table, file: Path) -> None:
    """Writes rows to a file that is not there yet, as its name ends; whole or not at all.

    Raises:
        JobError: It can't be written.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        if _is_csv(file):
            import pyarrow.csv as csv

            csv.write_csv(table, part)
        else:
            import pyarrow.parquet as pq

            pq.write_table(table, part)
        part.rename(file)
    except (OSError, pa.ArrowException) as error:
        part.unlink(missing_ok=True)
        raise JobError(
            f"{file} can't be written: {one_line(error)}", hint="Name another file"
        ) from error
