"""A split into a committed file, with a task that needs no weights."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import own
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.messages import Heartbeat, SplitResult, WorkPlan
from pipeline.engine.worker import annotator as annotator_module
from pipeline.engine.worker.annotator import Annotator
from pipeline.engine.worker.row_annotator import annotate_safely
from pipeline.errors import Interrupted, JobError, RowError, RunError, SplitError, WorkerLost
from pipeline.job.columns import ERRORS_TYPE
from pipeline.job.job import Job
from pipeline.lake.sink.footers import read_footer
from pipeline.lake.sink.open import open_sink
from pipeline.lake.source import open_files, reader
from pipeline.lake.source.cut import splits_of
from pipeline.lake.source.open import open_source
from pipeline.lake.split import Cut, Rows, Split
from pipeline.lake.store.base import Entry
from pipeline.models.resolve import ModelInfo
from pipeline.tasks import TASKS, Annotated, Task
from pipeline.tasks.spans.ner import NerOptions

pytestmark = pytest.mark.unit

KIND = pa.struct([("loud", pa.string()), ("letters", pa.int32())])


class Shout(Task[NerOptions]):
    """Stands in for NER: says each text louder, and chokes on some as a model or a bug would."""

    Options = NerOptions

    def output_type(self) -> pa.DataType:
        return KIND

    def load(self, models: Any) -> "Shout":
        return self

    def annotate(self, texts: Sequence[str]) -> Annotated:
        if any("BUG" in text for text in texts):
            raise ValueError("no such\n  luck")
        failures = {
            row: RowError("too odd for me", code="odd")
            for row, text in enumerate(texts)
            if "ODD" in text
        }
        rows = [
            None if row in failures else {"loud": text.upper(), "letters": len(text)}
            for row, text in enumerate(texts)
        ]
        return Annotated(pa.array(rows, KIND), failures, tokens=len(texts), padded_tokens=9)


class Raises:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def annotate(self, texts: Sequence[str]) -> Annotated:
        raise self.error


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Annotator]:
    """Makes an annotator over ``in/`` whose tasks are shouters."""
    monkeypatch.setitem(TASKS, "ner", Shout)

    def made(
        *, tasks: Sequence[str] = ("shout",), options: dict[str, Any] | None = None, **job: Any
    ) -> Annotator:
        (tmp_path / "in").mkdir(exist_ok=True)
        data = {
            "name": "loud",
            "input": {"path": str(tmp_path / "in"), **job.pop("input", {})},
            "output": {"path": str(tmp_path / "out")},
            "tasks": {n: {"kind": "ner", "model": "none", **(options or {})} for n in tasks},
            **job,
        }
        plan = WorkPlan(
            Job.model_validate(data),
            {},
            {"none": "r1"},
            {},
            "f",
            "0",
            "cpu",
            1,
            open_source(data["input"]["path"]),
            open_sink(data["output"]["path"]),
        )
        return Annotator(plan, name="w1")

    return made


Make = Callable[..., Annotator]


def rows_of(annotator: Annotator, texts: Sequence[str | None]) -> tuple[list[dict], Any]:
    table = pa.table({"id": range(len(texts)), "text": pa.array(texts, pa.string())})
    window = annotated(annotator, table)
    return window.table.to_pylist(), window


def annotated(annotator: Annotator, table: pa.Table) -> SimpleNamespace:
    """What becomes of a window of rows."""
    schema = annotator.schema(table.schema)
    made = annotator.annotate_table(table, schema)
    assert made.schema.equals(schema)
    window = annotator.rows.annotate(table)
    rows, tasks = window.counts(slice(0, table.num_rows))
    return SimpleNamespace(
        table=made,
        rows=rows,
        tasks=tasks,
        tokens=window.tokens,
        padded_tokens=window.padded_tokens,
    )


def counts(found: Any) -> tuple[int, int, int, int]:
    return found.rows, found.annotated, found.bad, found.skipped


def test_each_row_gets_its_own_annotation_in_order(make: Make) -> None:
    texts = [f"text {i}" for i in range(50)]
    rows, window = rows_of(make(), texts)
    assert [row["id"] for row in rows] == list(range(50))
    assert [row["shout"]["loud"] for row in rows] == [text.upper() for text in texts]
    assert {row["errors"] for row in rows} == {None}
    assert counts(window.rows) == (50, 50, 0, 0)
    assert (window.tokens, window.padded_tokens) == (50, 9)


def test_null_and_blank_texts_are_skipped_without_an_error(make: Make) -> None:
    rows, window = rows_of(make(), [None, "", "a", "  \n\t", "\u00a0\u3000", "b"])
    assert [row["shout"] and row["shout"]["loud"] for row in rows] == [
        None,
        None,
        "A",
        None,
        None,
        "B",
    ]
    assert all(row["errors"] is None for row in rows)
    assert counts(window.rows) == counts(window.tasks["shout"]) == (6, 2, 0, 4)


def test_a_text_that_makes_the_task_raise_is_one_bad_row_among_good_ones(make: Make) -> None:
    texts = [f"text {i}" for i in range(33)]
    texts[7] = "a BUG"
    rows, window = rows_of(make(), texts)
    assert rows[7]["shout"] is None
    assert rows[7]["errors"] == [
        {"task": "shout", "code": "task_error", "message": "ValueError: no such luck"}
    ]
    others = [row for row in rows if row["id"] != 7]
    assert [row["shout"]["loud"] for row in others] == [
        text.upper() for i, text in enumerate(texts) if i != 7
    ]
    assert all(row["errors"] is None for row in others)
    assert counts(window.rows) == (33, 32, 1, 0)


def test_a_row_that_a_task_gives_up_keeps_the_tasks_own_code(make: Make) -> None:
    rows, window = rows_of(make(), ["fine", "ODD", None, "an ODD BUG"])
    assert rows[1]["errors"] == [{"task": "shout", "code": "odd", "message": "too odd for me"}]
    assert rows[1]["shout"] is None
    assert rows[3]["errors"][0]["code"] == "task_error"
    assert counts(window.rows) == (4, 1, 2, 1)


def test_bytes_that_are_not_utf8_are_an_error_of_every_task(make: Make) -> None:
    annotator = make(tasks=("one", "two"))
    raw = pa.array([b"fine", b"\xff", None], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    table = pa.Table.from_arrays([texts], names=["text"])
    window = annotated(annotator, table)
    errors = window.table.column("errors").to_pylist()
    assert [e and [(x["task"], x["code"]) for x in e] for e in errors] == [
        None,
        [("one", "not_utf8"), ("two", "not_utf8")],
        None,
    ]
    assert window.table.column("one").to_pylist()[1:] == [None, None]
    assert counts(window.rows) == counts(window.tasks["two"]) == (3, 1, 1, 1)


def test_a_row_that_one_task_fails_on_keeps_the_other_tasks_annotation(make: Make) -> None:
    annotator = make(tasks=("one", "two"))
    annotator.rows.annotates["two"] = Raises(ValueError("never"))
    rows, window = rows_of(annotator, ["a", None])
    assert rows[0]["one"]["loud"] == "A"
    assert rows[0]["two"] is None
    assert [error["task"] for error in rows[0]["errors"]] == ["two"]
    assert counts(window.tasks["one"]) == (2, 1, 0, 1)
    assert counts(window.tasks["two"]) == (2, 0, 1, 1)
    assert counts(window.rows) == (2, 0, 1, 1)


TEXTS = st.lists(st.sampled_from([None, "", " ", "a", "bc", "ODD", "BUG", "ODD BUG"]), max_size=25)


@settings(max_examples=80, deadline=None)
@given(TEXTS)
def test_rows_are_annotated_bad_or_skipped(texts: list[str | None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "ner", Shout)
        job = Job.model_validate(
            {
                "name": "n",
                "input": {"path": "in"},
                "output": {"path": "out"},
                "tasks": {name: {"kind": "ner", "model": "none"} for name in ("one", "two")},
            }
        )
        annotator = Annotator(
            WorkPlan(job, {}, {}, {}, "f", "0", "cpu", 1, open_source("in"), open_sink("out"))
        )
    rows, window = rows_of(annotator, texts)
    for found in (window.rows, *window.tasks.values()):
        assert found.rows == found.annotated + found.bad + found.skipped == len(texts)
    for text, row in zip(texts, rows, strict=True):
        bad = text is not None and ("ODD" in text or "BUG" in text)
        assert (row["errors"] is not None) == bad
        expected = text.upper() if text and text.strip() and not bad else None
        assert [row[t] and row[t]["loud"] for t in ("one", "two")] == [expected, expected]


@pytest.mark.parametrize("texts", [[], [None, None], ["", " "], ["BUG"], ["a"]])
def test_the_schema_is_the_declared_one_whatever_the_texts(
    make: Make, texts: list[str | None]
) -> None:
    _, window = rows_of(make(), texts)
    schema = window.table.schema
    assert schema.names == ["id", "text", "shout", "errors"]
    assert schema.field("shout").type == KIND
    assert schema.field("errors").type == ERRORS_TYPE
    assert window.table.num_rows == len(texts)


def test_a_row_error_keeps_its_code() -> None:
    answer = annotate_safely(Raises(RowError("why", code="strange")), ["a", "b"], KIND)
    assert {row: error.code for row, error in answer.failures.items()} == {
        0: "strange",
        1: "strange",
    }
    assert {error.message for error in answer.failures.values()} == {"why"}
    assert answer.column.to_pylist() == [None, None]


@pytest.mark.parametrize(
    "error",
    [
        RunError("the output is gone"),
        JobError("wrong"),
        Interrupted("stop"),
        SplitError("broken"),
        WorkerLost("the device is broken"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_run_is_no_row_error(error: Exception) -> None:
    with pytest.raises(type(error), match=error.message):  # type: ignore[attr-defined]
        annotate_safely(Raises(error), ["a", "b"], KIND)


def test_without_texts_the_task_is_not_asked() -> None:
    answer = annotate_safely(Raises(ValueError("asked")), [], KIND)
    assert len(answer.column) == 0
    assert answer.column.type == KIND


@given(st.sets(st.integers(0, 63), max_size=5))
def test_a_few_bad_texts_cost_few_calls(bad: set[int]) -> None:
    calls = []

    class Counts:
        def annotate(self, texts: Sequence[str]) -> Annotated:
            calls.append(len(texts))
            if set(texts) & {str(row) for row in bad}:
                raise ValueError("bad")
            return Annotated(pa.array([len(text) for text in texts], pa.int32()))

    answer = annotate_safely(Counts(), [str(row) for row in range(64)], pa.int32())
    assert set(answer.failures) == bad
    assert [row for row, v in enumerate(answer.column.to_pylist()) if v is None] == sorted(bad)
    assert len(calls) <= 1 + 2 * 6 * len(bad)


def commit(annotator: Annotator, name: str = "a.parquet") -> SplitResult:
    return annotator.annotate(split_of(annotator, name))


def split_of(annotator: Annotator, name: str = "a.parquet") -> Split:
    dataset = open_source(annotator.job.input.path)
    (split,) = [
        split
        for split in splits_of(dataset.store, dataset.listing().files, fingerprint="f")
        if split.path == name
    ]
    return split


def write(annotator: Annotator, texts: Sequence[str | None], name: str = "a.parquet") -> Path:
    path = Path(annotator.job.input.path) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    column = pa.array(texts, pa.string())
    ids = pa.array(range(len(texts)), pa.int64())
    pq.write_table(pa.table({"id": ids, "text": column}), path)
    return path


def test_a_split_becomes_one_committed_file(make: Make, tmp_path: Path) -> None:
    annotator = make(limits={"bad_rows": 0.5})
    write(annotator, ["a", None, "b", "BUG"], "y=1/a.parquet")
    result = commit(annotator, "y=1/a.parquet")
    (made,) = (tmp_path / "out" / "y=1").iterdir()
    assert result.output == f"y=1/{made.name}"
    assert result.published
    assert result.bytes_out == made.stat().st_size
    assert result.worker == "w1"
    assert counts(result.rows) == counts(result.tasks["shout"]) == (4, 2, 1, 1)
    assert result.bad_rows == [(3, "shout", "ValueError: no such luck")]
    rows = pq.ParquetFile(made).read().to_pylist()
    assert [row["shout"] and row["shout"]["loud"] for row in rows] == ["A", None, "B", None]
    footer = read_footer(annotator.context.sink.store, result.output)
    assert footer["split"] == result.split
    assert footer["input"] == "y=1/a.parquet"
    assert (footer["job"], footer["fingerprint"]) == ("loud", "f")
    assert footer["models"] == {"none": "r1"}
    assert footer["rows"] == {"rows": 4, "annotated": 2, "bad": 1, "skipped": 1}
    assert list((own(tmp_path / "out") / "scratch").iterdir()) == []


def test_the_same_split_twice_is_committed_once(make: Make, tmp_path: Path) -> None:
    annotator = make()
    write(annotator, ["a"])
    assert commit(annotator).published
    assert not commit(annotator).published
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 1


def test_a_file_of_nulls_has_the_same_schema_as_one_of_texts(make: Make, tmp_path: Path) -> None:
    annotator = make()
    for name, texts in [("a", ["x"]), ("b", [None, None]), ("c", [])]:
        write(annotator, texts, f"{name}.parquet")
        commit(annotator, f"{name}.parquet")
    schemas = [pq.read_schema(path) for path in (tmp_path / "out").glob("*.parquet")]
    assert len(schemas) == 3
    assert schemas[0].equals(schemas[1])
    assert schemas[1].equals(schemas[2])


def test_rows_stay_in_order_over_many_windows(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BATCH_ROWS", 7)
    monkeypatch.setattr(open_files, "STEP_ROWS", 3)
    monkeypatch.setattr(open_files, "MOST_STEPS", 1)
    annotator = make(limits={"bad_rows": 0.5})
    texts = [["ODD", None, "text"][i % 3] + str(i) if i % 3 != 1 else None for i in range(50)]
    write(annotator, texts)
    result = commit(annotator)
    (made,) = (tmp_path / "out").glob("*.parquet")
    rows = pq.read_table(made).to_pylist()
    assert [row["text"] for row in rows] == texts
    assert [row["shout"] and row["shout"]["loud"] for row in rows] == [
        text.upper() if text and "ODD" not in text else None for text in texts
    ]
    assert counts(result.rows) == (50, 16, 17, 17)
    assert [row for row, _, _ in result.bad_rows] == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]


def test_only_the_carried_columns_go_out(make: Make, tmp_path: Path) -> None:
    annotator = make(input={"columns": ["id"]})
    write(annotator, ["a", "b"])
    commit(annotator)
    (made,) = (tmp_path / "out").glob("*.parquet")
    assert pq.read_schema(made).names == ["id", "shout", "errors"]
    assert pq.read_table(made).column("id").to_pylist() == [0, 1]


@pytest.mark.parametrize(("limit", "shown"), [(0.1, "0.1"), (0, "0"), (2, "2")])
def test_too_many_bad_rows_fail_the_split_and_say_where(
    make: Make, tmp_path: Path, limit: float, shown: str
) -> None:
    annotator = make(limits={"bad_rows": limit})
    write(annotator, ["a", None, "BUG", "ODD", "BUG", "b"])
    with pytest.raises(SplitError) as caught:
        commit(annotator)
    said = str(caught.value)
    assert str(tmp_path / "in" / "a.parquet") in said
    assert "3 of 6 rows can't be annotated" in said
    assert f"limits.bad_rows ({shown})" in said
    assert "row 2, task shout: ValueError: no such luck" in said
    assert "Mend the rows, or raise limits.bad_rows" in said
    assert list((tmp_path / "out").glob("*.parquet")) == []
    assert list((own(tmp_path / "out") / "scratch").iterdir()) == []


@pytest.mark.parametrize("limit", [0.5, 3, 100])
def test_as_many_bad_rows_as_the_job_allows_are_committed(make: Make, limit: float) -> None:
    annotator = make(limits={"bad_rows": limit})
    write(annotator, ["a", None, "BUG", "ODD", "BUG", "b"])
    assert commit(annotator).rows.bad == 3


def test_rows_that_get_lost_on_the_way_fail_the_split(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotator = make()
    write(annotator, ["a", "b", "c"])
    batches = reader.read_batches

    def lossy(*args: Any, **kwargs: Any) -> Any:
        for table in batches(*args, **kwargs):
            yield table.slice(1)

    monkeypatch.setattr(reader, "read_batches", lossy)
    with pytest.raises(SplitError, match="3 rows came in, 2 would go out"):
        commit(annotator)
    assert list((tmp_path / "out").glob("*.parquet")) == []


def test_an_input_that_changed_since_the_plan_is_refused(make: Make, tmp_path: Path) -> None:
    annotator = make()
    write(annotator, ["a"])
    split = split_of(annotator)
    write(annotator, ["a", "b"])
    with pytest.raises(SplitError, match=r"a\.parquet has changed since the run was planned"):
        annotator.annotate(split)
    assert list((tmp_path / "out").glob("*.parquet")) == []


def test_an_input_that_changes_while_it_is_annotated_is_refused(make: Make, tmp_path: Path) -> None:
    annotator = make()
    write(annotator, ["a"])
    shout = annotator.rows.annotates["shout"]

    class Meanwhile:
        def annotate(self, texts: Sequence[str]) -> Annotated:
            write(annotator, ["other", "text"])
            return shout.annotate(texts)

    annotator.rows.annotates["shout"] = Meanwhile()
    with pytest.raises(SplitError, match="has changed since the run was planned"):
        commit(annotator)
    assert list((tmp_path / "out").glob("*.parquet")) == []


def test_an_input_that_is_gone_is_named(make: Make) -> None:
    annotator = make()
    path = write(annotator, ["a"])
    split = split_of(annotator)
    path.unlink()
    with pytest.raises(SplitError, match=r"a\.parquet is not there any more"):
        annotator.annotate(split)


def test_an_input_with_a_column_of_a_tasks_name_is_refused(make: Make, tmp_path: Path) -> None:
    annotator = make()
    pq.write_table(pa.table({"text": ["a"], "shout": [1]}), tmp_path / "in" / "a.parquet")
    with pytest.raises(SplitError, match="column `shout`, which the output would overwrite"):
        commit(annotator)


def test_an_input_without_the_text_column_is_refused(make: Make, tmp_path: Path) -> None:
    annotator = make()
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "in" / "a.parquet")
    with pytest.raises(SplitError, match="no column `text`; it has body"):
        commit(annotator)


def test_a_task_that_answers_for_another_number_of_rows_fails_the_split(make: Make) -> None:
    annotator = make()
    write(annotator, ["a", "b"])

    class TooMany:
        def annotate(self, texts: Sequence[str]) -> Annotated:
            return Annotated(pa.nulls(len(texts) + 1, KIND))

    annotator.rows.annotates["shout"] = TooMany()
    with pytest.raises((SplitError, RunError)):
        commit(annotator)


def test_a_pulse_shows_the_split_in_flight_and_nothing_afterwards(make: Make) -> None:
    annotator = make(tasks=("one", "two"))
    write(annotator, ["a", "b", "c", "d"])
    split = split_of(annotator)
    seen = []
    task = annotator.rows.annotates["two"]

    class Watched:
        def annotate(self, texts: Sequence[str]) -> Annotated:
            seen.append(annotator.heartbeat())
            return task.annotate(texts)

    annotator.rows.annotates["two"] = Watched()
    annotator.annotate(split)
    assert seen[0].fractions == {split.id: pytest.approx(0.5)}
    after = annotator.heartbeat()
    assert after.fractions == after.rows == {}


def splits_in(annotator: Annotator, cut: Cut = Cut()) -> list[Split]:  # noqa: B008
    dataset = open_source(annotator.job.input.path)
    return list(splits_of(dataset.store, dataset.listing().files, fingerprint="f", cut=cut))


@pytest.mark.parametrize("rows", [1, 7, 24, 25])
@pytest.mark.parametrize("group", [None, 10])
def test_a_file_annotated_by_ranges_of_rows_is_what_it_is_when_it_is_annotated_whole(
    make: Make, tmp_path: Path, rows: int, group: int | None
) -> None:
    annotator = make(limits={"bad_rows": 1})
    texts = [f"{n} text" if n % 5 else None for n in range(25)]
    texts[13] = "13 BUG"
    table = pa.table({
        "id": range(25), "text": texts, "tags": [[{"n": n}] * (n % 3) for n in range(25)],
        "kind": pa.array([f"k{n % 4}" for n in range(25)]).dictionary_encode(),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "in/a.parquet", row_group_size=group)
    (whole,) = annotator.annotate_all(splits_in(annotator))
    assert isinstance(whole, SplitResult)
    expected = pq.read_table(tmp_path / "out" / whole.output).to_pylist()
    assert whole.bad_rows == [(13, "shout", "ValueError: no such luck")]

    ranges = splits_in(annotator, Cut(bytes=None, rows=rows))
    assert len(ranges) == -(-25 // rows)
    results = [*annotator.annotate_all(ranges[1::2]), *annotator.annotate_all(ranges[::2])]
    made = [result for result in results if isinstance(result, SplitResult)]
    assert len(made) == len(ranges)
    assert [bad for result in made for bad in result.bad_rows] == whole.bad_rows
    paths = sorted({result.output for result in made})
    found = [pq.read_table(tmp_path / "out" / path) for path in paths]
    assert [row for part in found for row in part.to_pylist()] == expected
    footer = read_footer(annotator.context.sink.store, paths[0])
    assert footer.get("row_range") == ([0, rows - 1] if rows < 25 else None)
    assert footer["row_groups"] is None


def test_a_range_that_is_not_in_its_file_fails_alone(make: Make) -> None:
    annotator = make()
    write(annotator, ["a", "b", "c"])
    (whole,) = splits_in(annotator)
    entry = Entry(whole.path, whole.size, whole.version)
    ranges = [Split.of(entry, fingerprint="f", region=Rows(at, 2)) for at in (0, 2, 9)]
    first, *others = annotator.annotate_all(ranges)
    assert isinstance(first, SplitResult)
    for other, told in zip(others, ("rows 2 to 3", "rows 9 to 10"), strict=True):
        assert isinstance(other, SplitError)
        assert f"a.parquet ({told}) is not in the file, which has 3 rows" in str(other)


class Watching:
    """A task that remembers which texts came together."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.calls: list[list[str]] = []

    def annotate(self, texts: Sequence[str]) -> Annotated:
        self.calls.append(list(texts))
        return self.inner.annotate(texts)


def watch(annotator: Annotator, task: str = "shout") -> Watching:
    watching = Watching(annotator.rows.annotates[task])
    annotator.rows.annotates[task] = watching
    return watching


def test_small_files_go_through_the_model_together_and_become_a_file_each(
    make: Make, tmp_path: Path
) -> None:
    annotator = make()
    for number in range(7):
        write(annotator, [f"{number} {row}" for row in range(number)], f"{number}.parquet")
    watching = watch(annotator)
    results = annotator.annotate_all(splits_in(annotator))
    assert len(watching.calls) == 1
    assert len(watching.calls[0]) == 21
    for number, result in enumerate(results):
        assert isinstance(result, SplitResult)
        assert result.published
        assert counts(result.rows) == (number, number, 0, 0)
        table = pq.read_table(tmp_path / "out" / result.output)
        assert [row["loud"] for row in table["shout"].to_pylist()] == [
            f"{number} {row}" for row in range(number)
        ]
    assert sum(result.tokens for result in results) == 21  # type: ignore[union-attr]
    assert sum(result.padded_tokens for result in results) == 9  # type: ignore[union-attr]
    assert list((own(tmp_path / "out") / "scratch").iterdir()) == []


def test_what_a_language_model_writes_on_a_cpu_is_committed_a_few_splits_at_a_time(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = property(lambda task: ModelInfo("none", {}), lambda task, info: None)
    monkeypatch.setattr(Shout, "info", known, raising=False)
    monkeypatch.setattr(Shout, "writes", True)
    monkeypatch.setattr("pipeline.engine.worker.annotator.WRITTEN_ROWS", 10)
    annotator = make()
    for number in range(6):
        write(annotator, [f"{number} {row}" for row in range(4)], f"{number}.parquet")
    watching = watch(annotator)
    results = annotator.annotate_all(splits_in(annotator))
    assert [len(call) for call in watching.calls] == [8, 8, 8]
    assert all(isinstance(result, SplitResult) for result in results)


def test_a_broken_file_among_small_ones_fails_alone(make: Make, tmp_path: Path) -> None:
    annotator = make(limits={"bad_rows": 0})
    write(annotator, ["a"], "0.parquet")
    write(annotator, ["b"], "1.parquet").write_bytes(b"PAR1 not really PAR1")
    write(annotator, ["BUG", "c"], "2.parquet")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "in" / "3.parquet")
    write(annotator, ["d"], "4.parquet")
    answers = annotator.annotate_all(splits_in(annotator))
    assert [type(answer).__name__ for answer in answers] == [
        "SplitResult",
        "SplitError",
        "SplitError",
        "SplitError",
        "SplitResult",
    ]
    told = [str(answer) for answer in answers]
    assert "1.parquet is not a readable Parquet file" in told[1]
    assert "1 of 2 rows can't be annotated" in told[2]
    assert "no column `text`" in told[3]
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2
    assert list((own(tmp_path / "out") / "scratch").iterdir()) == []


def test_files_whose_text_columns_differ_in_type_are_annotated_all_the_same(
    make: Make, tmp_path: Path
) -> None:
    annotator = make()
    (tmp_path / "in").mkdir(exist_ok=True)
    columns = [
        pa.array(["a", "b"]),
        pa.array(["c", None], pa.large_string()),
        pa.array(["d", "e", "d"]).dictionary_encode(),
        pa.array(["f", "g", "f"]).dictionary_encode(),
        pa.nulls(2),
    ]
    for number, column in enumerate(columns):
        pq.write_table(pa.table({"text": column}), tmp_path / "in" / f"{number}.parquet")
    results = annotator.annotate_all(splits_in(annotator))
    found = [
        [
            row and row["loud"]
            for row in pq.read_table(tmp_path / "out" / result.output)["shout"].to_pylist()
        ]
        for result in results
        if isinstance(result, SplitResult)
    ]
    assert found == [["A", "B"], ["C", None], ["D", "E", "D"], ["F", "G", "F"], [None, None]]


def test_a_file_is_read_in_windows_and_small_ones_fill_them_up(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BATCH_ROWS", 10)
    monkeypatch.setattr(open_files, "STEP_ROWS", 5)
    monkeypatch.setattr(open_files, "MOST_STEPS", 1)
    annotator = make()
    for number, rows in enumerate([25, 3, 3, 3, 3]):
        write(annotator, [f"{number} {row}" for row in range(rows)], f"{number}.parquet")
    watching = watch(annotator)
    results = annotator.annotate_all(splits_in(annotator))
    assert [result.rows.annotated for result in results] == [25, 3, 3, 3, 3]  # type: ignore[union-attr]
    assert [len(call) for call in watching.calls] == [10, 10, 8, 9]


def test_when_a_task_fails_a_window_of_small_files_only_the_guilty_one_fails(make: Make) -> None:
    annotator = make()
    for number in range(4):
        write(annotator, [f"text {number}"], f"{number}.parquet")
    shout = annotator.rows.annotates["shout"]

    class Guilty:
        def annotate(self, texts: Sequence[str]) -> Annotated:
            if "text 2" in list(texts):
                raise SplitError("this one")
            return shout.annotate(texts)

    annotator.rows.annotates["shout"] = Guilty()
    answers = annotator.annotate_all(splits_in(annotator))
    assert [type(answer).__name__ for answer in answers] == [
        "SplitResult",
        "SplitResult",
        "SplitError",
        "SplitResult",
    ]


def test_an_error_of_the_run_ends_the_call_and_leaves_no_scratch(
    make: Make, tmp_path: Path
) -> None:
    annotator = make()
    for number in range(3):
        write(annotator, ["a"], f"{number}.parquet")
    splits = splits_in(annotator)
    (tmp_path / "out").mkdir(exist_ok=True)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "out" / splits[1].output_path)
    with pytest.raises(RunError, match="is of split None"):
        annotator.annotate_all(splits)
    assert list((own(tmp_path / "out") / "scratch").iterdir()) == []


def test_what_is_committed_is_done_though_the_output_answers_nothing_more(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotator = make()
    write(annotator, ["a"], "0.parquet")
    splits = splits_in(annotator)

    def away(path: str) -> None:
        raise SplitError("the store does not answer")

    monkeypatch.setattr(annotator.context.sink.store, "entry", away)
    monkeypatch.setattr(annotator.context.sink.store, "open", away)
    (result,) = annotator.annotate_all(splits)
    assert isinstance(result, SplitResult)
    assert result.published
    assert result.bytes_out == (tmp_path / "out" / result.output).stat().st_size


def test_the_pulse_of_a_call_moves_all_its_splits(make: Make) -> None:
    annotator = make(tasks=("one", "two"))
    for number in range(3):
        write(annotator, ["a", "b"], f"{number}.parquet")
    splits = splits_in(annotator)
    seen = []
    task = annotator.rows.annotates["two"]

    class Watched:
        def annotate(self, texts: Sequence[str]) -> Annotated:
            seen.append(annotator.heartbeat())
            return task.annotate(texts)

    annotator.rows.annotates["two"] = Watched()
    annotator.annotate_all(splits)
    assert seen[0].fractions == {split.id: pytest.approx(0.5) for split in splits}
    assert sum(seen[0].rows.values()) == 3


@pytest.mark.parametrize(
    "error",
    [JobError("the store is away", hint="Check the network"), ValueError("an odd thing")],
)
def test_an_error_of_one_split_in_a_call_fails_no_other(
    make: Make, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    annotator = make()
    for number in range(4):
        write(annotator, ["a"], f"{number}.parquet")
    entry = annotator.source.store.entry

    def away(path: str) -> Any:
        if path == "2.parquet":
            raise error
        return entry(path)

    splits = splits_in(annotator)
    monkeypatch.setattr(annotator.source.store, "entry", away)
    answers = annotator.annotate_all(splits)
    assert [type(answer).__name__ for answer in answers] == [
        "SplitResult",
        "SplitResult",
        "SplitError",
        "SplitResult",
    ]
    assert "2.parquet" in str(answers[2])
    assert str(error) in str(answers[2])


def test_rows_that_can_not_be_prepared_fail_their_split_alone(make: Make) -> None:
    annotator = make()
    for number in range(4):
        write(annotator, [f"text {number}"], f"{number}.parquet")
    given = annotator.rows._distinct

    def choking(task: Any, rows: pa.Table, *others: Any) -> Any:
        if "text 1" in rows["text"].to_pylist():
            raise ValueError("no way to read this")
        return given(task, rows, *others)

    annotator.rows._distinct = choking  # type: ignore[method-assign]
    answers = annotator.annotate_all(splits_in(annotator))
    assert [isinstance(answer, SplitResult) for answer in answers] == [True, False, True, True]
    assert "1.parquet: ValueError: no way to read this" in str(answers[1])


def test_a_pulse_counts_each_row_once_whatever_is_written_already(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BATCH_ROWS", 4)
    monkeypatch.setattr(open_files, "STEP_ROWS", 2)
    monkeypatch.setattr(open_files, "MOST_STEPS", 1)
    annotator = make(tasks=("one", "two"))
    for number, rows in enumerate([10, 3, 1]):
        write(annotator, [f"{number} {row}" for row in range(rows)], f"{number}.parquet")
    splits = splits_in(annotator)
    seen = []
    task = annotator.rows.annotates["two"]

    class Watched:
        def annotate(self, texts: Sequence[str]) -> Annotated:
            seen.append(annotator.heartbeat())
            return task.annotate(texts)

    annotator.rows.annotates["two"] = Watched()
    annotator.annotate_all(splits)
    rows = [[heartbeat.rows[split.id] for split in splits] for heartbeat in seen]
    # Half of what goes through the tasks, and all that did before.
    assert rows == [[2, 0, 0], [6, 0, 0], [9, 0, 0], [10, 1, 0]]
    shares = [[round(heartbeat.fractions[split.id], 3) for split in splits] for heartbeat in seen]
    assert shares == [[0.2, 0, 0], [0.6, 0, 0], [0.9, 0, 0], [1, 0.5, 0.5]]


def test_a_pulse_over_ranges_of_a_file_rises_while_a_task_begins_anew(make: Make) -> None:
    annotator = make()
    write(annotator, [f"text {number}" for number in range(8)])
    dataset = open_source(annotator.job.input.path)
    splits = list(
        splits_of(dataset.store, dataset.listing().files, fingerprint="f", cut=Cut(rows=4))
    )
    assert [split.region for split in splits] == [Rows(0, 4), Rows(4, 4)]
    seen: list[Heartbeat] = []
    task = annotator.rows.annotates["shout"]

    class Slow:
        """As one that summarizes windows, then their summaries."""

        def annotate(self, texts: Sequence[str]) -> Annotated:
            for done in (0.25, 0.5, 1.0, 0.5, 1.0):
                annotator.device.report(done)
                seen.append(annotator.heartbeat())
            return task.annotate(texts)

    annotator.rows.annotates["shout"] = Slow()
    for split in splits:
        annotator.annotate(split)
    for split, heartbeats in zip(splits, (seen[:5], seen[5:]), strict=True):
        assert [heartbeat.fractions for heartbeat in heartbeats] == [
            {split.id: done} for done in (0.25, 0.5, 1.0, 1.0, 1.0)
        ]
        assert [heartbeat.rows[split.id] for heartbeat in heartbeats] == [1, 2, 4, 4, 4]
        signs = [heartbeat.moves[split.id] for heartbeat in heartbeats]
        assert len(set(signs)) == 5, "each step is a sign of life"


def test_a_call_moves_with_what_is_read_annotated_and_published(make: Make) -> None:
    annotator = make(tasks=("one", "two"))
    write(annotator, ["a"] * 300)
    signs = []
    task = annotator.rows.annotates["two"]

    class Watched:
        def annotate(self, texts: Sequence[str]) -> Annotated:
            signs.append(annotator.heartbeat().moves)
            signs.append(annotator.heartbeat().moves)
            annotator.device.moved()
            signs.append(annotator.heartbeat().moves)
            return task.annotate(texts)

    annotator.rows.annotates["two"] = Watched()
    split = split_of(annotator)
    annotator.annotate(split)
    first, second, third = (sign[split.id] for sign in signs)
    assert first == second, "nothing moves by itself"
    assert first[0] > 2, "steps of reading, and the first task"
    assert third != second
    assert annotator.heartbeat().moves == {}


def test_a_text_larger_than_the_limit_is_a_bad_row_of_its_own_code_and_no_task_sees_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    annotate = Shout.annotate
    monkeypatch.setattr(
        Shout, "annotate", lambda self, texts: asked.extend(texts) or annotate(self, texts)
    )
    # Bytes of UTF-8 count, not characters.
    texts = ["a" * 10, "a" * 11, "é" * 5, "é" * 6, "🙂" * 2, "🙂" * 3, " " * 20, None]
    rows, window = rows_of(make(limits={"text": 10}), texts)
    assert set(asked) == {"a" * 10, "é" * 5, "🙂" * 2}
    assert counts(window.rows) == (8, 3, 3, 2)
    bad = [row["errors"] for row in rows if row["errors"]]
    assert [error["code"] for (error,) in bad] == ["too_large"] * 3
    assert "the text has 11 bytes, more than limits.text (10) allows" in bad[0][0]["message"]
    assert [row["shout"] is None for row in rows] == [False, True] * 3 + [True, True]


def test_texts_of_up_to_four_megabytes_are_annotated_by_default(make: Make) -> None:
    rows, window = rows_of(make(), ["a" * 4_000_000, "a" * 4_000_001])
    assert counts(window.rows) == (2, 1, 1, 0)
    assert rows[0]["shout"]["letters"] == 4_000_000


@pytest.mark.parametrize(
    "options", [{"input": ["text", "more"]}, {"template": "{more}: {text}"}], ids=str
)
def test_a_text_that_is_made_of_columns_is_measured_as_it_is_made(
    make: Make, options: dict[str, Any]
) -> None:
    annotator = make(limits={"text": 12}, options=options)
    table = pa.table({"text": ["aaaa", "aaaa"], "more": ["bbbb", "bbbbbbbb"]})
    window = annotator.rows.annotate(table)
    assert {row: list(found) for row, found in window.errors.items()} == {1: ["shout"]}
    assert window.errors[1]["shout"].code == "too_large"


def test_a_large_text_that_is_not_asked_for_is_skipped_not_bad(make: Make) -> None:
    annotator = make(limits={"text": 5}, options={"when": "length(text) < 5"})
    window = annotator.rows.annotate(pa.table({"text": ["aaaa", "a" * 50]}))
    assert counts(window.counts(slice(0, 2))[0]) == (2, 1, 0, 1)


def test_what_stands_beside_a_text_is_measured_too(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shout, "extra_columns", lambda self: ("more",))
    annotator = make(limits={"text": 5})
    window = annotator.rows.annotate(pa.table({"text": ["a", "b"], "more": ["x" * 50, "x"]}))
    assert {row: found["shout"].code for row, found in window.errors.items()} == {0: "too_large"}


def test_an_upload_shows_signs_of_life_for_as_long_as_its_bytes_need(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotator_module, "SLOWEST_UPLOAD", 1)
    annotator = make()
    write(annotator, ["a"] * 50)
    split = split_of(annotator)
    signs = []
    put_new = annotator.context.sink.store.put_new

    def slowly(*given: Any) -> bool:
        signs.append(annotator.heartbeat().moves[split.id])
        return put_new(*given)

    monkeypatch.setattr(annotator.context.sink.store, "put_new", slowly)
    annotator.annotate(split)
    assert signs[0][2] > 0
