"""What tasks read of a row and of each other, and which rows they are for."""

from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.conditions.condition import condition_names, rows_where
from pipeline.engine.worker.annotated_rows import AnnotatedRows
from pipeline.engine.worker.row_annotator import RowAnnotator
from pipeline.errors import JobError, SplitError
from pipeline.models.device import Device
from pipeline.models.text.texts import TaskInput
from pipeline.models.torch.load import TorchModels
from pipeline.tasks import Annotated, Task, TaskOptions
from pipeline.tasks.chain import check_chain, columns_read, ordered

pytestmark = pytest.mark.unit

WRITTEN = pa.struct([("text", pa.string()), ("letters", pa.int32())])


class Options(TaskOptions):
    kind: Literal["shout"] = "shout"
    model: str = "none"
    beside: tuple[str, ...] = ()


class Shout(Task[Options]):
    """Writes each text louder, with what stands beside it; remembers what it was asked."""

    Options = Options

    def output_type(self) -> pa.DataType:
        return WRITTEN

    def extra_columns(self) -> tuple[str, ...]:
        return self.options.beside

    def load(self, models: TorchModels) -> "Shout":
        self.asked: list[str] = []
        return self

    def annotate(self, texts: Sequence[str]) -> Annotated:
        self.asked += texts
        assert isinstance(texts, TaskInput)
        rows = []
        for at, text in enumerate(texts):
            beside = "".join(f" {texts.columns[name][at]}" for name in self.options.beside)
            rows.append({"text": text.upper() + beside, "letters": len(text)})
        if any("BUG" in text for text in texts):
            raise ValueError("no luck")
        return Annotated(pa.array(rows, WRITTEN), tokens=len(rows), padded_tokens=len(rows))


class AsksOptions(Options):
    question_column: str | None = None


class Asks(Shout):
    """Looks at a column beside the text."""

    Options = AsksOptions

    def extra_columns(self) -> tuple[str, ...]:
        return (self.options.question_column,) if self.options.question_column else ()


class Length(Shout):
    """Writes no text."""

    def output_type(self) -> pa.DataType:
        return pa.struct([("letters", pa.int32())])


def shouts(**tasks: dict[str, Any]) -> dict[str, Shout]:
    return {name: Shout(Options(**options)) for name, options in tasks.items()}


def annotated(
    tasks: dict[str, Shout], **columns: Sequence[Any]
) -> tuple[AnnotatedRows, dict[str, list]]:
    models = TorchModels({}, device=Device("cpu"))
    rows = RowAnnotator(tasks, models, text="text")
    table = pa.table({name: list(values) for name, values in columns.items()})
    window = rows.annotate(table, known=rows.prepare(table))
    texts = {
        name: [row and row["text"] for row in column.to_pylist()]
        for name, column in window.columns.items()
    }
    return window, texts


def numbers(window: AnnotatedRows, task: str) -> tuple[int, int, int]:
    found = window.counts(slice(0, window.rows))[1][task]
    assert found.rows == found.annotated + found.bad + found.skipped
    return found.annotated, found.bad, found.skipped


def test_a_text_that_repeats_in_a_window_is_asked_once_and_answered_everywhere() -> None:
    tasks = shouts(loud={})
    _, texts = annotated(tasks, text=["a", "b", "a", None, "a", "b"])
    assert tasks["loud"].asked == ["a", "b"]
    assert texts["loud"] == ["A", "B", "A", None, "A", "B"]


def test_a_text_that_fails_and_repeats_is_an_error_of_each_of_its_rows() -> None:
    window, texts = annotated(shouts(loud={}), text=["a BUG", "b", "a BUG"])
    assert texts["loud"] == [None, "B", None]
    assert {row: list(found) for row, found in window.errors.items()} == {0: ["loud"], 2: ["loud"]}
    assert numbers(window, "loud") == (1, 2, 0)


def test_the_same_text_beside_other_values_is_asked_again() -> None:
    tasks = shouts(loud={"beside": ("q",)})
    _, texts = annotated(tasks, text=["a", "a", "a"], q=["x", "y", "x"])
    assert tasks["loud"].asked == ["a", "a"]
    assert texts["loud"] == ["A x", "A y", "A x"]


def test_a_task_reads_the_text_of_another_wherever_it_stands_in_the_job() -> None:
    _, texts = annotated(shouts(second={"input": "first"}, first={}), text=["a", None])
    assert texts == {"second": ["A", None], "first": ["A", None]}


def test_what_stands_beside_a_text_may_be_another_tasks_text() -> None:
    tasks = shouts(loud={"beside": ("first",)}, first={})
    _, texts = annotated(tasks, text=["a", "b"])
    assert texts["loud"] == ["A A", "B B"]


def test_a_row_that_the_first_task_fails_on_is_skipped_by_the_second() -> None:
    window, _ = annotated(shouts(first={}, second={"input": "first"}), text=["a BUG", "b"])
    assert numbers(window, "first") == (1, 1, 0)
    assert numbers(window, "second") == (1, 0, 1)
    assert {row: list(found) for row, found in window.errors.items()} == {0: ["first"]}


def test_several_columns_are_joined_by_a_blank_line_without_those_that_are_null() -> None:
    tasks = shouts(loud={"input": ["title", "body"]})
    annotated(tasks, title=["t", None, "t", None], body=["b", "b", " ", None])
    assert tasks["loud"].asked == ["t\n\nb", "b", "t"]


def test_a_template_is_filled_from_columns_of_any_type() -> None:
    tasks = shouts(loud={"template": "{{{title}}} of {year}: {text}"})
    annotated(tasks, title=["t", None], year=[1999, None], text=["x", "y"])
    assert tasks["loud"].asked == ["{t} of 1999: x", "{} of : y"]


def test_braces_in_the_data_are_just_text() -> None:
    tasks = shouts(loud={"template": "say {text}"})
    annotated(tasks, text=["{title} {0} {", "}"])
    assert tasks["loud"].asked == ["say {title} {0} {", "say }"]


def test_a_template_of_nulls_alone_is_skipped() -> None:
    window, _ = annotated(shouts(loud={"template": "T: {text}"}), text=[None, "a"])
    assert numbers(window, "loud") == (1, 0, 1)


@pytest.mark.parametrize(
    "template", ["{", "{}", "{0.x}", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "x"]
)
def test_what_is_no_template_is_refused_when_the_job_is_read(template: str) -> None:
    with pytest.raises(ValidationError):
        Options(template=template)


def test_a_template_and_an_input_do_not_go_together() -> None:
    with pytest.raises(ValidationError, match="remove `input`"):
        Options(template="{text}", input="text")


def test_rows_without_the_condition_are_null_and_skipped_not_bad() -> None:
    tasks = shouts(first={}, second={"when": "first.letters > 2 AND lang = 'en'"})
    window, texts = annotated(
        tasks, text=["abc", "a", "abcd", "abcde", None], lang=["en", "en", "de", None, "en"]
    )
    assert texts["second"] == ["ABC", None, None, None, None]
    assert tasks["second"].asked == ["abc"]
    assert numbers(window, "second") == (1, 0, 4)
    assert numbers(window, "first") == (4, 0, 1)
    assert not window.errors


def test_a_condition_over_a_failed_task_does_not_hold() -> None:
    tasks = shouts(first={}, second={"when": "first.letters < 99"})
    window, _ = annotated(tasks, text=["BUG", "a"])
    assert numbers(window, "second") == (1, 0, 1)


def test_a_condition_may_ask_for_what_failed() -> None:
    tasks = shouts(first={}, second={"when": "first IS NULL", "input": "other"})
    _, texts = annotated(tasks, text=["BUG", "a"], other=["x", "y"])
    assert texts["second"] == ["X", None]


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("a > 1", ("a",)),
        ("sentiment.score < 0.7 AND lang = 'en'", ("sentiment", "lang")),
        ("a IS NULL OR a IN ('x', 'y')", ("a",)),
        ("1 = 1", ()),
    ],
)
def test_the_columns_of_a_condition_are_known(condition: str, names: tuple[str, ...]) -> None:
    assert sorted(set(condition_names(condition))) == sorted(names)


@pytest.mark.parametrize(
    "condition",
    ["SELECT 1", "a >", "1; DROP TABLE x", "__import__('os')", "a + 1", "read_csv('x')", "b = 1"],
)
def test_what_is_no_condition_is_refused_with_the_mend(condition: str) -> None:
    with pytest.raises(JobError) as caught:
        rows_where(condition, pa.table({"a": [1, 2]}))
    assert condition in caught.value.message
    assert caught.value.hint


def test_a_condition_of_constants_holds_for_all_rows_or_none() -> None:
    table = pa.table({"a": [1, 2, 3]})
    assert rows_where("1 = 1", table) == [True] * 3
    assert rows_where("1 = 2", table) == [False] * 3


def test_a_circle_is_refused() -> None:
    tasks = shouts(a={"input": "b"}, b={"when": "c.letters > 1"}, c={"template": "{a}"}, d={})
    with pytest.raises(JobError, match="a, b, c read each other in a circle"):
        ordered(tasks, text="text")
    with pytest.raises(JobError, match="circle"):
        ordered(shouts(a={"input": "a"}), text="text")


def test_tasks_run_after_those_that_they_read() -> None:
    tasks = shouts(a={"input": "b"}, b={"when": "c.letters > 1"}, c={})
    assert ordered(tasks, text="text") == ["c", "b", "a"]


def test_only_columns_that_a_task_reads_are_read() -> None:
    tasks = shouts(
        a={"template": "{x} {y}"},
        b={"input": "a", "when": "z > 1 AND a.letters > 2", "beside": ("q",)},
    )
    assert columns_read(tasks, text="text") == ["x", "y", "q", "z"]
    assert columns_read(shouts(a={}), text="body") == ["body"]


SCHEMA = pa.schema([("text", pa.string()), ("year", pa.int64())])


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("first.nope > 1", "nope"),
        ("first.letters", "not true or false"),
        ("year", "not true or false"),
        ("text < 5", "`text` is a text, `5` is a number"),
        ("year in (select 1)", "a query"),
        ("first.letters > avg(year)", "avg looks at other rows"),
    ],
)
def test_a_wrong_condition_is_told_before_anything_is_loaded(condition: str, said: str) -> None:
    with pytest.raises(JobError, match=said) as caught:
        check_chain(shouts(first={}, second={"when": condition}), SCHEMA, text="text")
    assert caught.value.message.startswith("tasks.second.when: ")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"when": "yer > 1"}, "when"),
        ({"input": "yer"}, "input"),
        ({"input": ["text", "yer"]}, "input"),
        ({"template": "{text} of {yer}"}, "template"),
        ({"question_column": "yer"}, "question_column"),
    ],
)
def test_a_column_that_is_not_there_is_told_with_the_field_that_names_it(
    options: dict[str, Any], field: str
) -> None:
    tasks = {"first": Shout(Options()), "second": Asks(AsksOptions(**options))}
    with pytest.raises(SplitError) as caught:
        check_chain(tasks, SCHEMA, text="text")
    assert str(caught.value) == (
        f"tasks.second.{field}: there is no column or task `yer`; there are text, year, first, "
        f"second. Name `year`, or another of them, in tasks.second.{field}"
    )


def test_a_task_that_is_not_there_is_told_with_the_likely_one() -> None:
    tasks = shouts(first={}, second={"when": "frist.letters > 1"})
    with pytest.raises(SplitError, match="Name `first`"):
        check_chain(tasks, SCHEMA, text="text")


def test_a_task_that_writes_no_text_can_not_be_read_as_text() -> None:
    tasks = {"first": Length(Options()), "second": Shout(Options(input="first"))}
    with pytest.raises(JobError, match=r"tasks\.second reads task first, which makes no text"):
        check_chain(tasks, SCHEMA, text="text")


def test_a_task_that_writes_no_text_can_not_stand_beside_a_text() -> None:
    tasks = {"first": Length(Options()), "second": Shout(Options(beside=("first",)))}
    with pytest.raises(JobError, match=r"tasks\.second reads task first, which makes no text"):
        check_chain(tasks, SCHEMA, text="text")


def test_good_chains_pass() -> None:
    tasks = shouts(first={"when": "year > 1990"}, second={"input": "first", "when": "1 = 1"})
    check_chain(tasks, SCHEMA, text="text")
