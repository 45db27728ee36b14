"""How the columns of an output file are encoded."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.lake.sink import scratch
from pipeline.lake.sink.files import FileSink
from pipeline.lake.sink.scratch import OutputFile
from pipeline.lake.store.local import LocalStore

pytestmark = pytest.mark.unit

SCORE = pa.struct([("label", pa.string()), ("score", pa.float32())])
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("a.b", pa.string()),
        ("vector", pa.list_(pa.float32(), 2)),
        ("half", pa.list_(pa.float16(), 2)),
        ("sentiment", pa.struct([("label", pa.string()), ("scores", pa.list_(SCORE))])),
        ("map", pa.map_(pa.string(), pa.list_(pa.int8()))),
        ("coded", pa.dictionary(pa.int8(), pa.string())),
        ("uuid", pa.uuid()),
    ]
)
PLAIN = {"vector.list.element", "half.list.element"}


def written(directory: Path, schema: pa.Schema, rows: list[dict]) -> pq.ParquetFile:
    out = OutputFile(
        FileSink(LocalStore(str(directory / "out"))), "x.parquet", schema, compression="zstd"
    )
    out.write(pa.Table.from_pylist(rows, schema))
    out.close({"split": "x"}, rows=len(rows))
    return pq.ParquetFile(out.scratch)


def test_all_columns_but_vectors_are_looked_through_for_repeats(tmp_path: Path) -> None:
    row = {
        "id": 1,
        "a.b": "x",
        "vector": [0.5, 2.5],
        "half": [0.5, 2.5],
        "sentiment": {"label": "x", "scores": [{"label": "x", "score": 0.5}]},
        "map": [("k", [1])],
        "coded": "c",
        "uuid": b"0123456789abcdef",
    }
    file = written(tmp_path, SCHEMA, [row, row])
    group = file.metadata.row_group(0)
    columns = [group.column(at) for at in range(group.num_columns)]
    assert {c.path_in_schema for c in columns if not c.has_dictionary_page} == PLAIN
    assert file.read().schema.equals(SCHEMA)
    assert file.read().slice(0, 1).equals(file.read().slice(1, 1))


def test_a_file_without_vectors_is_encoded_as_ever(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.int64()), ("list", pa.list_(pa.float32()))])
    group = written(tmp_path, schema, [{"id": 1, "list": [1.0]}]).metadata.row_group(0)
    assert all(group.column(at).has_dictionary_page for at in range(2))


@pytest.mark.parametrize(
    ("wanted", "held", "groups"),
    [
        (None, None, [7, 7, 7, 2]),
        (10, None, [10, 10, 3]),
        (3, None, [3] * 7 + [2]),
        (100, None, [23]),
        (100, 200, [14, 9]),  # no more is held than so many bytes
    ],
)
def test_row_groups_have_as_many_rows_as_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: int, held: int, groups: list[int]
) -> None:
    if held is not None:
        monkeypatch.setattr(scratch, "HELD_BYTES", held)
    kind = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema([("n", pa.int64()), ("kind", kind)])
    sink = FileSink(LocalStore(str(tmp_path / "out")))
    out = OutputFile(sink, "a.parquet", schema, compression="zstd", row_group=wanted)
    for at in range(0, 23, 7):
        numbers = list(range(at, min(23, at + 7)))
        kinds = pa.array([f"kind {n}" for n in numbers]).dictionary_encode()
        out.write(pa.table({"n": numbers, "kind": kinds}, schema=schema))
    out.close({"split": "a"}, rows=23)
    metadata = pq.read_metadata(out.scratch)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == groups
    rows = pq.read_table(out.scratch).to_pylist()
    assert rows == [{"n": n, "kind": f"kind {n}"} for n in range(23)]
    out.discard()
