"""Which kinds of tasks can be held against gold, and what that needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import pyarrow as pa
import pyarrow.types as types

from pipeline.errors import JobError
from pipeline.learn.evaluate_labels import check_labels, label_sets_report, labels_report
from pipeline.learn.evaluate_spans import check_spans, spans_report
from pipeline.learn.evaluate_texts import answers_report, texts_report
from pipeline.learn.kinds import are_texts, is_list, is_text

# kind -> what computes its report, of gold and of what the task gave
KINDS: dict[str, Callable[[Any, Any], dict[str, Any]]] = {
    "classify": labels_report,
    "zero_shot": labels_report,
    "ner": spans_report,
    "summarize": texts_report,
    "translate": texts_report,
    "generate": texts_report,
    "answer": answers_report,
}
LIBRARIES = {
    "classify": ("sklearn", "scipy"),
    "zero_shot": ("sklearn", "scipy"),
    "ner": ("nervaluate", "scipy"),
    **dict.fromkeys(("summarize", "translate", "generate"), ("rouge_score", "sacrebleu", "scipy")),
    "answer": ("scipy",),
}
SPAN = pa.struct([("label", pa.string()), ("start", pa.int64()), ("end", pa.int64())])


def report_of(kind: str, gold: Any, found: Any) -> dict[str, Any]:
    """A task's figures, as plain data.

    Args:
        kind: Of the task, one of `KINDS`.
        gold: From `check_gold`.
        found: The task's values of the same rows.
    """
    if KINDS[kind] is labels_report and isinstance(gold[0], list):
        return label_sets_report(gold, found)
    return KINDS[kind](gold, found)


def check_libraries(kind: str) -> None:
    """Refuses to begin without what computes the figures.

    Raises:
        JobError: With what to install.
    """
    missing = [name for name in LIBRARIES[kind] if find_spec(name) is None]
    if missing:
        raise JobError(
            f"evaluating {kind} needs {missing[0]}", hint="pip install 'shardscribe[evaluate]'"
        )


def check_gold(
    kind: str,
    gold: Any,
    *,
    column: str,
    known: Sequence[str] = (),
    texts: Sequence[str | None] | None = None,
    best_alone: bool = False,
) -> Any:
    """The right answers, as the task's kind has them.

    Args:
        kind: Of the task.
        gold: The column, without nulls.
        column: Its name, for messages.
        known: The labels that the task can give, if they are known.
        texts: What gold spans are of, if that is known.
        best_alone: Whether the task gives the scores of its best labels alone.

    Raises:
        JobError: They are of another type, or can't be right.
    """
    if kind == "ner":
        try:
            spans = gold.cast(pa.list_(SPAN)).to_pylist() if _are_spans(gold.type) else None
        except pa.ArrowException:
            spans = None
        if spans is None:
            raise _wrong(kind, column, gold.type, "list<struct<label: string, start, end>>")
        spans = [[span or {} for span in some] for some in spans]
        check_spans(spans, texts, column=column)
        check_labels([str(span["label"]) for some in spans for span in some], known, column=column)
        return spans
    if kind in ("classify", "zero_shot"):
        labels = gold.to_pylist()
        if is_text(gold.type):
            check_labels(labels, known, column=column)
            return labels
        if not are_texts(gold.type):
            raise _wrong(kind, column, gold.type, "text, the label of each row, or a list of such")
        if best_alone:
            raise JobError(
                f"gold column {column} has several labels a row, and the task keeps the scores "
                "of its best alone",
                hint="Leave out the task's top_k",
            )
        sets = [[label for label in some if label is not None] for some in labels]
        check_labels([label for some in sets for label in some], known, column=column)
        return sets
    return _right_texts(kind, gold, column)


def _right_texts(kind: str, gold: Any, column: str) -> list[list[str]]:
    if is_text(gold.type):
        return [[text] for text in gold.to_pylist()]
    if not are_texts(gold.type):
        raise _wrong(kind, column, gold.type, "text, or a list of right texts")
    texts = [[text for text in some if text is not None] for some in gold.to_pylist()]
    # Of a question, that there is no right answer is an answer.
    if kind != "answer" and [] in texts:
        raise JobError(
            f"gold column {column}, row {texts.index([]) + 1} of those with gold: no right text",
            hint="Make it null, to leave the row out",
        )
    return texts


def _are_spans(kind: pa.DataType) -> bool:
    if not is_list(kind):
        return False
    inner = kind.value_type
    return types.is_struct(inner) and {"label", "start", "end"} <= {
        inner.field(at).name for at in range(inner.num_fields)
    }


def _wrong(kind: str, column: str, there: Any, needed: str) -> JobError:
    return JobError(
        f"gold column {column} is {there}; for {kind} it must be {needed}",
        hint="Name another column in --gold, or write it as that",
    )
