"""A table of every Arrow type that Parquet holds, through a whole job and back."""

import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from in_process import loud_job, run_here

from pipeline.preview import Wanted, output_rows
from pipeline.verify import verify_job

pytestmark = pytest.mark.unit

ROWS = 7
ZONES = (None, "UTC", "+05:30", "America/New_York")
LEAVES = {
    **{str(kind): ([*range(ROWS - 1), None], kind) for kind in (
        pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(),
        pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.date32(), pa.time32("s"),
        pa.time32("ms"), pa.time64("us"), pa.time64("ns"), pa.duration("s"), pa.duration("ms"),
        pa.duration("us"), pa.duration("ns"),
        *(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in ZONES),
    )},
    "bool": ([True, False, None, True, False, None, True], pa.bool_()),
    "date64": ([dt.date(2026, 1, n) for n in range(1, ROWS)] + [None], pa.date64()),
    **{str(kind): ([*"abcdef", None], kind)
       for kind in (pa.string(), pa.large_string(), pa.string_view())},
    **{str(kind): ([b"\xff", b"", b"a" * 3, None, b"\0", b"d", b"e"], kind)
       for kind in (pa.binary(), pa.large_binary(), pa.binary_view())},
    "fixed": ([b"\xff\0"] * (ROWS - 1) + [None], pa.binary(2)),
    **{str(kind): ([Decimal("1.25")] * (ROWS - 1) + [None], kind) for kind in (
        pa.decimal32(5, 2), pa.decimal64(12, 2), pa.decimal128(30, 2), pa.decimal256(70, 2))},
    "null": ([None] * ROWS, pa.null()),
    "nan": ([float("nan"), float("inf"), -0.0, 0.0, None, 1e-310, 5.0], pa.float64()),
    "list": ([[1], [], None, [None], [1, 2], [3], [4]], pa.list_(pa.int32())),
    "large list": ([["a"], [], None, [None], ["b"], [], []], pa.large_list(pa.string())),
    "list view": ([[1], [], None, [None], [1, 2], [3], [4]], pa.list_view(pa.int8())),
    "large view": ([[1], [], None, [None], [1, 2], [3], [4]], pa.large_list_view(pa.int8())),
    "vector": ([[1.0, 2.0]] * (ROWS - 1) + [None], pa.list_(pa.float32(), 2)),
    "map": ([[("a", [1])], [], None, [("b", None)], [], [], []],
            pa.map_(pa.string(), pa.list_(pa.int8()))),
    "struct": ([{"a": 1, "b": {"c": [dt.date(2026, 1, 1)]}}, None, {"a": None, "b": None}] * 2
               + [None], pa.struct([("a", pa.int8()), ("b", pa.struct([("c", pa.list_(
                   pa.date32()))]))])),
}  # fmt: skip


class Celsius(pa.ExtensionType):
    """A type that this process alone knows."""

    def __init__(self) -> None:
        super().__init__(pa.float32(), "tests.celsius")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"kept"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: Any, serialized: bytes) -> "Celsius":
        assert serialized == b"kept"
        return cls()


def special() -> dict[str, pa.Array]:
    words = pa.array([*"abcab", None, "c"])
    points = pa.array(["1,2"] * 6 + [None])
    squares = pa.array([[1, 2, 3, 4]] * 6 + [None], pa.list_(pa.int32(), 4))
    return {
        "dictionary": words.dictionary_encode(),
        "small keys": words.cast(pa.dictionary(pa.int8(), pa.large_string())),
        "ordered": pa.DictionaryArray.from_arrays([1, 0, 1, 0, 1, 0, 1], ["x", "y"], ordered=True),
        "numbers": pa.array([7, 8, None, 7, 7, 8, 9]).dictionary_encode(),
        "uuid": pa.array([uuid.UUID(int=n).bytes for n in range(6)] + [None], pa.uuid()),
        "json": pa.array(['{"a": 1}'] * 6 + [None], pa.json_()),
        "bool8": pa.ExtensionArray.from_storage(
            pa.bool8(), pa.array([1, 0] * 3 + [None], pa.int8())
        ),
        "opaque": pa.ExtensionArray.from_storage(pa.opaque(pa.string(), "point", "maps"), points),
        "tensor": pa.FixedShapeTensorArray.from_storage(
            pa.fixed_shape_tensor(pa.int32(), [2, 2]), squares
        ),
        "celsius": pa.ExtensionArray.from_storage(
            Celsius(), pa.array([1.5] * 6 + [None], pa.float32())
        ),
    }


@pytest.fixture
def table() -> pa.Table:
    columns = {name: pa.array(values, kind) for name, (values, kind) in LEAVES.items()} | special()
    fields = [pa.field("text", pa.string(), nullable=False, metadata={"lang": "en"})]
    for number, (name, column) in enumerate(columns.items()):
        said = {"PARQUET:field_id": str(number + 2), "unit": f"m{number}", "note": "ключ"}
        fields.append(pa.field(name, column.type, metadata=said))
    schema = pa.schema(fields, metadata={"owner": "me", "bytes": b"\x01\x02"})
    return pa.table([pa.array([f"t{n}" for n in range(ROWS)]), *columns.values()], schema=schema)


@pytest.fixture
def known() -> Any:
    pa.register_extension_type(Celsius())
    yield
    pa.unregister_extension_type("tests.celsius")


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("given", "output"),
    [({}, {}), ({"split": {"rows": 3}}, {"row_group": 2}), ({"filter": "text <> 't3'"}, {})],
    ids=["whole", "in ranges of rows", "filtered"],
)
def test_every_type_comes_back_equal_with_its_metadata(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    table: pa.Table,
    given: dict[str, Any],
    output: dict[str, Any],
) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        pq.write_table(table, tmp_path / f"in/{name}.parquet", row_group_size=4)
    job = loud_job(monkeypatch, tmp_path / "in")(output=output, **given)
    summary = run_here(job)
    assert summary.exit_code == 0, summary.failed_splits
    assert verify_job(job).problems == []
    read = pq.read_table(tmp_path / "in/a.parquet")
    assert output_rows(job.output.path, Wanted(9, "text = 't1'")).rows == 2
    paths = sorted((tmp_path / "out").glob("a-*.parquet"))
    rows = [n for n in range(ROWS) if "filter" not in given or n != 3]
    at = 0
    for path in paths:
        found = pq.read_table(path)
        names = read.schema.names
        assert found.schema.names == [*names, "loud", "errors"]
        some = rows[at : at + found.num_rows]
        wanted = pa.concat_tables([read.slice(n, 1) for n in some])
        for name in names:
            assert found.schema.field(name).equals(read.schema.field(name), check_metadata=True)
            one, other = found[name].combine_chunks(), wanted[name].combine_chunks()
            # NaN is no NaN to Arrow.
            assert one.equals(other) or repr(one.to_pylist()) == repr(other.to_pylist()), name
        for key in (b"owner", b"bytes"):
            assert found.schema.metadata[key] == read.schema.metadata[key]
        at += found.num_rows
    assert at == len(rows)
