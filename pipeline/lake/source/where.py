"""Which rows of a dataset a job wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from pipeline.conditions.bounds import Bounds, may_hold_within
from pipeline.conditions.condition import condition_names, rows_where
from pipeline.conditions.may_hold import may_hold, may_hold_between
from pipeline.errors import JobError, SplitError, near


class KeepRows(Protocol):
    """Something that rows have to pass. It pickles."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it looks at."""

    def keep(self, table: pa.Table, first: int) -> pa.Array | np.ndarray:
        """Which rows pass, true or false for each.

        Args:
            table: Rows that follow each other in the file, with at least its columns.
            first: The row of the file that they begin with.

        Raises:
            SplitError: It can't be told.
        """

    def may_pass_within(self, known: Mapping[str, Bounds]) -> bool:
        """Whether a row can pass of which this is known.

        Raises:
            JobError: It can't be told.
        """


@dataclass(frozen=True)
class Where:
    """Rows for which a condition holds.

    Attributes:
        condition: SQL over the row.
    """

    condition: str

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it looks at."""
        return condition_names(self.condition)

    def keep(self, table: pa.Table, first: int) -> pa.Array:
        """Which rows it holds for."""
        try:
            return pa.array(rows_where(self.condition, table.select(list(self.names))), pa.bool_())
        except JobError as error:
            raise SplitError(f"input.filter: {error.message}", hint=error.hint) from error

    def may_pass(self, constants: Mapping[str, pa.Scalar]) -> bool:
        """Whether it can hold for a row with these values.

        Raises:
            JobError: It can't be told, as of a wrong type.
        """
        known = {name: constants[name] for name in self.names if name in constants}
        columns = {name: pa.array([value.as_py()], value.type) for name, value in known.items()}
        try:
            return may_hold(self.condition, pa.table(columns))
        except JobError as error:
            raise JobError(f"input.filter: {error.message}", hint=error.hint) from error

    def may_pass_within(self, known: Mapping[str, Bounds]) -> bool:
        """Whether it can hold for a row of which this is known."""
        return may_hold_within(self.condition, known)

    def may_pass_between(self, low: pa.Table, high: pa.Table) -> np.ndarray:
        """Whether it can hold for rows between these values, for each row of these tables.

        Args:
            low: Least values of columns, null where they are not known.
            high: Greatest values, likewise.
        """
        names = [name for name in self.names if name in low.column_names]
        if not names:
            return np.ones(low.num_rows, bool)
        try:
            return may_hold_between(self.condition, low.select(names), high.select(names))
        except JobError:
            return np.ones(low.num_rows, bool)  # told where the rows themselves are looked at

    def check(self, schema: pa.Schema) -> None:
        """Holds it against the columns of a file.

        Raises:
            JobError: It can't be followed over their types.
            SplitError: It looks at a column that is not there; another file may have it.
        """
        for name in self.names:
            if name not in schema.names:
                raise SplitError(
                    f"input.filter: there is no column `{name}`; there are "
                    f"{', '.join(schema.names)}",
                    hint=f"{near(name, schema.names)} in input.filter",
                )
        try:
            none = {name: pa.nulls(0, schema.field(name).type) for name in self.names}
            rows_where(self.condition, pa.table(none))
        except JobError as error:
            raise JobError(f"input.filter: {error.message}", hint=error.hint) from error
