"""A condition of a task: a SQL expression over one row, and nothing else of the world.

sqlglot parses it; every kind of node that is allowed stands in a table, so that queries, files,
aggregates and whatever a later SQL may bring are refused, not overlooked. What is allowed is
computed by polars column by column, each row from its own values alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pipeline.conditions.wording import ALLOWED, HINT, shown, wrong
from pipeline.errors import JobError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

LONGEST = 100_000  # characters; parsing takes 0.5 to 1.5 s for that many
DEEPEST = 20  # brackets in each other; sqlglot takes some 24 frames for each
DEEPEST_TREE = 100  # further down it is operators that follow each other, as in a + b + c

# sqlglot's nodes with the parts that each may have.
OPERATORS = "And Or EQ NEQ LT LTE GT GTE NullSafeEQ NullSafeNEQ Is Add Sub Mul Div Mod"
NODES: Mapping[str, frozenset[str]] = {
    **{name: frozenset({"this", "expression"}) for name in OPERATORS.split()},
    **{name: frozenset({"this"}) for name in ("Paren", "Not", "Neg", "Boolean", "Null", "Abs")},
    **{
        name: frozenset({"this"})
        for name in ("Lower", "Upper", "Trim", "Length", "Floor", "Ceil", "Round")
    },
    **{name: frozenset({"this", "to", "safe"}) for name in ("Cast", "TryCast")},
    **{
        name: frozenset({"this", "expression"})
        for name in ("StartsWith", "EndsWith", "Contains", "Dot")
    },
    **{name: frozenset({"this", "expression", "negate"}) for name in ("Like", "ILike")},
    "Literal": frozenset({"this", "is_string"}),
    "Identifier": frozenset({"this", "quoted"}),
    "Column": frozenset({"this", "table", "db", "catalog"}),
    "DataType": frozenset({"this", "nested"}),
    "In": frozenset({"this", "expressions"}),
    "Between": frozenset({"this", "low", "high"}),
    "Case": frozenset({"this", "ifs", "default"}),
    "If": frozenset({"this", "true", "false"}),
    "DPipe": frozenset({"this", "expression", "safe"}),
    "Concat": frozenset({"expressions", "safe", "coalesce"}),
    "Coalesce": frozenset({"this", "expressions"}),
}


@dataclass(frozen=True)
class Condition:
    """A condition that was read and found to be one.

    Attributes:
        text: As the job has it.
        root: sqlglot's tree, of allowed nodes only.
        names: The columns, or other tasks, that it looks at, each once.
    """

    text: str
    root: Any
    names: tuple[str, ...]


@lru_cache(maxsize=256)
def parse(condition: str) -> Condition:
    """Reads a condition.

    Raises:
        JobError: It is none, or holds more than an expression of one row.
    """
    if len(condition) > LONGEST:
        raise JobError(
            f"the condition {shown(condition)} has {len(condition):,} characters; at most "
            f"{LONGEST:,} are read",
            hint="Put what it decides by into a column of the input",
        )
    if not condition.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in condition):
        raise wrong(condition, "it holds half a character", hint=HINT)
    from sqlglot import exp, tokenize
    from sqlglot.parser import Parser

    # It reports on standard error what it raises as well.
    logging.getLogger("sqlglot").setLevel(logging.CRITICAL)
    try:
        tokens = tokenize(condition)
        _refuse_depth(tokens, condition)
        found = [one for one in Parser().parse_into(exp.Condition, tokens, condition) if one]
    except RecursionError as error:
        raise _too_deep(condition) from error
    except JobError:
        raise
    except Exception as error:  # a parser may stumble in any way over what is no SQL
        raise wrong(condition, _reason(error), hint=HINT) from error
    if len(found) != 1:
        raise wrong(condition, "it is not one expression", hint=HINT)
    return Condition(condition, found[0], _names(found[0], condition))


def condition_names(condition: str) -> tuple[str, ...]:
    """The columns, or other tasks, that a condition looks at.

    Raises:
        JobError: It is not a condition.
    """
    return parse(condition).names


def rows_where(condition: str, table: pa.Table) -> list[bool]:
    """Which rows a condition holds for; where it is null it does not hold.

    Args:
        condition: SQL.
        table: With the columns that it looks at.

    Raises:
        JobError: A field is not there, types do not fit, or it is not true or false.
    """
    # Not at the top: it needs polars.
    from pipeline.conditions.values import Values

    parsed = parse(condition)
    found = Values(condition, table).of(parsed.root)
    if found.kind not in ("boolean", "null"):
        raise JobError(
            f"the condition {shown(condition)} gives a {found.kind}, not true or false",
            hint="Compare, as in `sentiment.score < 0.7`",
        )
    if found.constant:
        return [bool(found.series[0])] * table.num_rows
    return [bool(value) for value in found.series]


def _reason(error: Exception) -> str:
    """What sqlglot says, without the piece of the text that it repeats with colours."""
    details = getattr(error.__cause__ or error, "errors", None) or []
    for detail in details:
        if detail.get("description"):
            at = str(detail.get("highlight") or "")[:40]
            said = str(detail["description"])
            if said.startswith("Required keyword"):  # goes on with the names of classes
                said = "something is missing"
            return one_line(f"{said}{f', at `{at}`' if at else ''}", most=200)
    return "it can't be read as an expression"


def _too_deep(condition: str) -> JobError:
    return JobError(
        f"the condition {shown(condition)} is nested more than {DEEPEST} deep",
        hint="Write it with fewer brackets, or as a column of the input",
    )


def _refuse_depth(tokens: Iterable[Any], condition: str) -> None:
    """Before parsing, which would end somewhere else on another thread's stack."""
    depth = 0
    for token in tokens:
        kind = token.token_type.name
        depth += kind in ("L_PAREN", "L_BRACKET", "L_BRACE", "CASE")
        depth -= kind in ("R_PAREN", "R_BRACKET", "R_BRACE", "END")
        if depth > DEEPEST:
            raise _too_deep(condition)


def _names(root: Any, condition: str) -> tuple[str, ...]:
    """Refuses what is not allowed; gives the columns of what is."""
    from sqlglot import exp

    names: dict[str, None] = {}
    chains = (exp.And, exp.Or)
    waiting = [(root, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > DEEPEST_TREE:
            raise _too_deep(condition)
        _refuse_node(node, condition)
        if isinstance(node, exp.Column):
            names[node.parts[0].name] = None
        for child in node.iter_expressions():
            # A chain of ANDs is as deep as it is long, and is read along its length.
            same = isinstance(node, chains) and isinstance(child, type(node))
            waiting.append((child, depth + (not same)))
    return tuple(names)


def _refuse_node(node: Any, condition: str) -> None:
    from sqlglot import exp

    kind = type(node).__name__
    name = _called(node)
    if kind in NODES and type(node).__module__.startswith("sqlglot."):
        parts = {part: value for part, value in node.args.items() if value not in (None, False, [])}
        more = [part for part in parts if part not in NODES[kind]]
        if not more:
            return
        # What is too much may be worse than that: a query behind IN.
        for value in (parts[part] for part in more):
            if isinstance(value, exp.Expression) and type(value).__name__ not in NODES:
                _refuse_node(value, condition)
        raise wrong(condition, f"{name} can't be used with {more[0].upper()}", hint=ALLOWED)
    if isinstance(node, (exp.Query, exp.Exists, exp.Unnest, exp.Table)):
        reason = "it holds a query, and only the row itself can be asked"
    elif isinstance(node, (exp.AggFunc, exp.Window)):
        reason = f"{name} looks at other rows, and which rows are read together is left to chance"
    elif isinstance(node, (exp.Star, exp.Columns)):
        reason = "it asks for all columns: name each"
    elif isinstance(node, exp.Block):
        reason = "it is more than one expression"
    elif isinstance(node, exp.Func):
        reason = f"the function {name} is not one of those that can be used"
    else:
        reason = f"{name} can't be used here"
    raise wrong(condition, reason, hint=ALLOWED)


def _called(node: Any) -> str:
    """How a part of a condition is called, without writing it out: it may be deep."""
    from sqlglot import exp

    if isinstance(node, exp.Window):
        return f"{_called(node.this)} OVER"
    if isinstance(node, exp.Anonymous):
        return node.name.lower()[:40]
    if isinstance(node, exp.Func):
        return str(node.sql_name()).lower()
    return type(node).__name__.upper()
