"""Imports from an object store into one, and what ends them there."""

import gzip
import json

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from s3_server import KEY, SECRET, s3_server

from pipeline.errors import JobError
from pipeline.lake.ingest.importer import Importer
from pipeline.lake.ingest.origin import ImportOptions, find
from pipeline.lake.store.open import open_store

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server():
    with s3_server() as running:
        yield running


@pytest.fixture
def lake(server, tmp_path):
    """An address, with files of each kind below it."""
    server.ignores = False
    raw = open_store("s3://lake/raw")
    content = b"".join(json.dumps({"id": i, "t": "x" * 50}).encode() + b"\n" for i in range(900))
    raw.put("jsonl/a.jsonl", content + b"broken\n")
    raw.put("jsonl/b.jsonl.gz", gzip.compress(content))
    raw.put("csv/a.csv", b'id,t\n1,"a\nb"\n')
    sink = pa.BufferOutputStream()
    table = pa.table({"id": [1, 2], "t": ["a", "b"]})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    raw.put("arrow/a.arrow", sink.getvalue().to_pybytes())
    return "s3://lake"


def imported(source, dest, *, told=lambda _: None):
    origin, _ = find(source, ImportOptions())
    return Importer(origin, open_store(dest), 10**9, 500, told).run()


def table_at(server, path):
    filesystem = pafs.S3FileSystem(
        access_key=KEY, secret_key=SECRET, endpoint_override=f"127.0.0.1:{server.port}",
        scheme="http",
    )  # fmt: skip
    return pads.dataset(path, filesystem=filesystem, format="parquet").to_table()


@pytest.mark.parametrize(("kind", "rows"), [("jsonl", 1800), ("csv", 1), ("arrow", 2)])
def test_files_of_a_bucket_become_shards_in_it(lake, server, kind, rows):
    state = imported(f"{lake}/raw/{kind}", f"{lake}/out/{kind}")
    assert (state.rows, state.bad) == (rows, int(kind == "jsonl"))
    assert table_at(server, f"lake/out/{kind}").num_rows == rows
    assert imported(f"{lake}/raw/{kind}", f"{lake}/out/{kind}").rows == rows


def test_one_file_and_a_pattern_of_a_bucket_are_read(lake, tmp_path):
    assert imported(f"{lake}/raw/jsonl/a.jsonl", str(tmp_path / "one")).rows == 900
    assert imported(f"{lake}/raw/*.gz", str(tmp_path / "two")).rows == 900


def test_an_import_that_stops_goes_on_with_the_same_bytes_in_both_kinds_of_store(lake, tmp_path):
    class Stop(Exception):
        pass

    def told(state):
        if state.shards == 2:
            raise Stop

    with pytest.raises(Stop):
        imported(f"{lake}/raw/jsonl", f"{lake}/again", told=told)
    imported(f"{lake}/raw/jsonl", f"{lake}/again")
    imported(f"{lake}/raw/jsonl", str(tmp_path / "local"))
    there, here = open_store(f"{lake}/again"), tmp_path / "local"
    names = [entry.path for entry in there.entries()]
    assert len(names) == 4
    assert {name: there.read(name) for name in names} == {
        path.name: path.read_bytes() for path in here.glob("*.parquet")
    }
    assert pq.read_table(here).num_rows == 1800


def test_a_store_that_ignores_conditions_is_refused(lake, server):
    server.ignores = True
    with pytest.raises(JobError, match="can't keep two runs apart"):
        imported(f"{lake}/raw/csv", f"{lake}/careless/out")
