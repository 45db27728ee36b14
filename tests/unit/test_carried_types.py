"""What a column was to pandas, `datasets` and Arrow in the input, it is in the output."""

import datetime as dt
import decimal
import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.engine.messages import SplitResult, WorkPlan
from pipeline.engine.worker.annotator import Annotator
from pipeline.job.columns import ERRORS_TYPE
from pipeline.job.job import Job
from pipeline.lake.sink.metadata import output_metadata
from pipeline.lake.sink.open import open_sink
from pipeline.lake.source.cut import splits_of
from pipeline.lake.source.open import open_source
from pipeline.lake.split import Cut
from pipeline.tasks import TASKS, Annotated, Task
from pipeline.tasks.spans.ner import NerOptions

pytestmark = pytest.mark.unit

KIND = pa.struct(
    [
        ("loud", pa.string()),
        ("parts", pa.list_(pa.float32())),
        ("vector", pa.list_(pa.float32(), 2)),
    ]
)
ADDED = [pa.field("shout", KIND), pa.field("errors", ERRORS_TYPE)]


class Shout(Task[NerOptions]):
    """Stands in for a task: needs no model."""

    Options = NerOptions

    def output_type(self) -> pa.DataType:
        return KIND

    def load(self, models: Any) -> "Shout":
        return self

    def annotate(self, texts: Sequence[str]) -> Annotated:
        rows = [{"loud": text.upper(), "parts": [0.5], "vector": [1.0, 2.0]} for text in texts]
        return Annotated(pa.array(rows, KIND), {}, tokens=0, padded_tokens=0)


Annotate = Callable[..., list[Path]]


@pytest.fixture
def annotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Annotate:
    """Annotates all of ``in/``; gives the output files."""
    monkeypatch.setitem(TASKS, "ner", Shout)

    def made(*, columns: Sequence[str] | None = None, cut: Cut = Cut()) -> list[Path]:  # noqa: B008
        job = Job.model_validate(
            {
                "name": "loud",
                "input": {"path": str(tmp_path / "in"), "columns": columns},
                "output": {"path": str(tmp_path / "out")},
                "tasks": {"shout": {"kind": "ner", "model": "none"}},
            }
        )
        dataset = open_source(str(tmp_path / "in"))
        sink = open_sink(job.output.path)
        plan = WorkPlan(job, {}, {"none": "r1"}, {}, "f", "0", "cpu", 1, dataset, sink)
        splits = list(splits_of(dataset.store, dataset.listing().files, fingerprint="f", cut=cut))
        for answer in Annotator(plan, name="w1").annotate_all(splits):
            assert isinstance(answer, SplitResult), answer
        return [tmp_path / "out" / split.output_path for split in splits]

    (tmp_path / "in").mkdir()
    return made


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "text": pd.array(["a", None, "c"], dtype="string"),
            "plain": ["x", "y", None],
            "n": pd.array([1, None, 3], dtype="Int64"),
            "small": pd.array([1, None, 3], dtype="UInt8"),
            "f": pd.array([1.5, None, 3], dtype="Float32"),
            "flag": pd.array([True, None, False], dtype="boolean"),
            "kind": pd.Categorical(["lo", "hi", "lo"], categories=["lo", "hi"], ordered=True),
            "when": pd.to_datetime(["2026-01-01", None, "2026-01-03"]).tz_localize("Europe/Berlin"),
            "day": pd.to_datetime(["2026-01-01", None, "2026-01-03"]),
            "took": pd.to_timedelta(["1s", None, "3h"]),
            "month": pd.PeriodIndex(["2026-01", "2026-02", "2026-03"], freq="M"),
            "range": pd.arrays.IntervalArray.from_breaks([0, 1, 2, 3]),
        }
    )


INDEXES = {
    "none": lambda df: df,
    "named": lambda df: df.set_index(pd.Index([5, 7, 8], name="row")),
    "unnamed": lambda df: df.set_index(pd.Index(["a", "b", "c"])),
    "range": lambda df: df.set_index(pd.RangeIndex(10, 40, 10, name="at")),
    "two levels": lambda df: df.set_index(
        pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")], names=["one", "two"])
    ),
    "dates": lambda df: df.set_index(pd.date_range("2026-01-01", periods=3, name="date")),
}


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
def test_pandas_reads_the_inputs_own_types_and_index(
    tmp_path: Path, annotate: Annotate, index: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    index(frame()).to_parquet(tmp_path / "in/a.parquet")
    given = pd.read_parquet(tmp_path / "in/a.parquet")
    (path,) = annotate()
    found = pd.read_parquet(path)
    assert [*found.columns] == [*given.columns, "shout", "errors"]
    pd.testing.assert_frame_equal(found[list(given.columns)], given)
    assert [row["loud"] for row in found["shout"].dropna()] == ["A", "C"]


def test_of_carried_columns_and_a_lost_index_pandas_makes_what_it_can(
    tmp_path: Path, annotate: Annotate
) -> None:
    INDEXES["named"](frame()).to_parquet(tmp_path / "in/a.parquet")
    (path,) = annotate(columns=["n", "kind"])
    found = pd.read_parquet(path)
    assert [*found.columns] == ["n", "kind", "shout", "errors"]
    assert (str(found["n"].dtype), found["kind"].dtype.ordered) == ("Int64", True)
    assert found.index.tolist() == [0, 1, 2]


@pytest.mark.parametrize("cut", [Cut(bytes=2_500), Cut(bytes=None, rows=17)])
def test_a_range_index_goes_on_from_split_to_split(
    tmp_path: Path, annotate: Annotate, cut: Cut
) -> None:
    rows = pd.DataFrame({"text": [f"{n} {uuid.uuid4().hex * 9}" for n in range(60)]})
    rows.index = pd.RangeIndex(100, 220, 2)
    rows.to_parquet(tmp_path / "in/a.parquet", row_group_size=10)
    paths = annotate(cut=cut)
    assert len(paths) > 2
    parts = [pd.read_parquet(path) for path in paths]
    assert [n for part in parts for n in part.index] == list(range(100, 220, 2))


@pytest.mark.parametrize(
    "columns",
    [[10, 20], pd.MultiIndex.from_tuples([("a", "x"), ("b", "y")]), pd.Index(["u", "v"], name="k")],
    ids=["numbers", "two levels", "named"],
)
def test_names_of_columns_that_are_no_plain_text_break_no_reader(
    tmp_path: Path, annotate: Annotate, columns: Any
) -> None:
    table = pa.Table.from_pandas(pd.DataFrame([[1, 2], [3, 4]], columns=columns))
    table = table.append_column("text", pa.array(["a", "b"]))
    pq.write_table(table, tmp_path / "in/a.parquet")
    (path,) = annotate()
    found = pd.read_parquet(path)
    assert found.shape == (2, 5)
    assert [row["loud"] for row in found.iloc[:, -2]] == ["A", "B"]


def test_datasets_sees_the_inputs_own_features(tmp_path: Path, annotate: Annotate) -> None:
    import datasets
    from datasets import ClassLabel, Features, List, Value

    features = Features(
        {
            "text": Value("string"),
            "label": ClassLabel(names=["no", "yes"]),
            "tags": List(ClassLabel(names=["x", "y"])),
            "pair": {"a": Value("int8"), "b": List(Value("float64"), length=2)},
            "grid": datasets.Array2D((2, 2), "int32"),
            "languages": datasets.Translation(["de", "en"]),
            "when": Value("timestamp[ms, tz=UTC]"),
        }
    )
    row = {
        "text": "a", "label": 1, "tags": [0, 1], "pair": {"a": 1, "b": [0.5, 1.5]},
        "grid": [[1, 2], [3, 4]],
        "languages": {"de": "ja", "en": "yes"}, "when": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    }  # fmt: skip
    datasets.disable_progress_bars()
    given = datasets.Dataset.from_list([row, {**row, "text": "b", "label": 0}], features=features)
    given.to_parquet(tmp_path / "in/a.parquet")
    (path,) = annotate()
    found = datasets.load_dataset(str(path.parent), cache_dir=str(tmp_path / "cache"))["train"]
    assert list(found.features) == [*features, "shout", "errors"]
    assert {name: found.features[name] for name in features} == dict(features)
    assert found.features["label"].int2str(found[0]["label"]) == "yes"
    assert found.features["shout"]["vector"] == List(Value("float32"), length=2)
    for number in range(2):
        kept = {name: found[number][name] for name in features}
        assert kept == given[number]
    assert found["shout"][1]["loud"] == "B"
    assert datasets.Dataset.from_parquet(
        str(path), columns=["label", "shout"], cache_dir=str(tmp_path / "cache")
    ).features["label"] == features["label"]  # fmt: skip

    (tmp_path / "out" / path.name).unlink()
    (path,) = annotate(columns=["tags"])
    found = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "other"))
    assert list(found.features) == ["tags", "shout", "errors"]
    assert found.features["tags"] == features["tags"]


TYPES = {
    "large_string": pa.array(["x", None], pa.large_string()),
    "string_view": pa.array(["x", None], pa.string_view()),
    "dictionary": pa.DictionaryArray.from_arrays(pa.array([1, None], pa.int8()), ["x", "y"]),
    "ordered": pa.DictionaryArray.from_arrays(pa.array([1, 0]), ["x", "y"], ordered=True),
    "dictionary of numbers": pa.array([7, None]).dictionary_encode(),
    "decimal128": pa.array([decimal.Decimal("1.23"), None], pa.decimal128(30, 2)),
    "decimal256": pa.array([decimal.Decimal("1.23"), None], pa.decimal256(60, 2)),
    "decimal32": pa.array([decimal.Decimal("1.23"), None], pa.decimal32(7, 2)),
    "duration": pa.array([1, None], pa.duration("us")),
    "seconds": pa.array([1, None], pa.timestamp("s")),
    "zone": pa.array([1, None], pa.timestamp("ns", tz="America/New_York")),
    "time": pa.array([1, None], pa.time32("s")),
    "date64": pa.array([86_400_000, None], pa.date64()),
    "half": pa.array([1.5, None], pa.float16()),
    "large_list": pa.array([[1], None], pa.large_list(pa.int8())),
    "list_view": pa.array([[1], None], pa.list_view(pa.int8())),
    "fixed": pa.array([[1, 2], None], pa.list_(pa.int8(), 2)),
    "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int32())),
    "uint64": pa.array([2**63, None], pa.uint64()),
    "uuid": pa.array([uuid.UUID(int=5).bytes, None], pa.uuid()),
    "json": pa.array(['{"a": 1}', None], pa.json_()),
    "opaque": pa.ExtensionArray.from_storage(
        pa.opaque(pa.string(), "point", "maps"), pa.array(["1,2", None])
    ),
    "tensor": pa.FixedShapeTensorArray.from_storage(
        pa.fixed_shape_tensor(pa.int32(), [2, 2]),
        pa.array([[1, 2, 3, 4], None], pa.list_(pa.int32(), 4)),
    ),
    "null": pa.nulls(2),
    "binary": pa.array([b"\xff", None], pa.binary(1)),
}


@pytest.mark.parametrize("name", TYPES)
def test_an_arrow_type_is_read_from_the_output_as_it_is_from_the_input(
    tmp_path: Path, annotate: Annotate, name: str
) -> None:
    column = TYPES[name]
    field = pa.field("x", column.type, metadata={"unit": "m", "PARQUET:field_id": "7"})
    schema = pa.schema(
        [pa.field("text", pa.string(), nullable=False), field], metadata={"owner": "me"}
    )
    table = pa.table([["a", "b"], column], schema=schema)
    pq.write_table(table, tmp_path / "in/a.parquet")
    given = pq.read_table(tmp_path / "in/a.parquet")
    (path,) = annotate()
    found = pq.read_table(path)
    for column_name in given.column_names:
        assert found.schema.field(column_name).equals(
            given.schema.field(column_name), check_metadata=True
        )
        assert found[column_name].equals(given[column_name])
    assert found.schema.metadata[b"owner"] == b"me"


def test_what_an_annotated_input_said_of_itself_is_not_said_of_its_output(
    tmp_path: Path, annotate: Annotate
) -> None:
    schema = pa.schema(
        [("text", pa.string())],
        metadata={
            "shardscribe": '{"split": "old"}',
            "shardscribe.seal": "old",
            "org.apache.spark.sql.parquet.row.metadata": '{"type": "struct", "fields": []}',
            "owner": "me",
        },
    )
    pq.write_table(pa.table({"text": ["a"]}, schema=schema), tmp_path / "in/a.parquet")
    (path,) = annotate()
    metadata = pq.ParquetFile(path).metadata.metadata
    assert json.loads(metadata[b"shardscribe"])["input"] == "a.parquet"
    assert b"org.apache.spark.sql.parquet.row.metadata" not in metadata
    assert pq.read_schema(path).metadata == {b"owner": b"me"}


@pytest.mark.parametrize(
    "said",
    [
        b"", b"no JSON", b"[]", b"null", b"{}", b'{"info": {}}', b'{"info": {"features": {}}}',
        b'{"info": {"features": []}}', b'{"columns": 3}',
        b'{"columns": [], "column_indexes": [{}]}',
        b'{"columns": [{}], "column_indexes": [], "index_columns": []}', b"\xff\xfe",
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", [b"huggingface", b"pandas"])
def test_metadata_that_makes_no_sense_is_left_out(key: bytes, said: bytes) -> None:
    found = output_metadata({key: said, b"owner": b"me"}, ["text"], ADDED, rows=(0, 1))
    assert found == {b"owner": b"me"}
