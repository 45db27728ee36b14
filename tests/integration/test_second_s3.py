"""The store, a run and a compaction on an S3 server that shares no code with the other tests' one.

It is localbucket (PyPI, MIT, one file without dependencies): it keeps objects as files, and honours
`If-None-Match: *` by a hard link, so that of many puts at once one succeeds. It takes no notice of
`If-Match` on a put, and does not know how to remove several objects at once.

Of others in the package index, by their sources: alocals3 0.3.0 looks and then writes; nanio 0.1.7
and pys3local 0.2.1 know no conditional puts, so that a run would be refused. moto, which the other
tests use, looks and then writes, too: a lock is put around it there.
"""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from in_process import loud_job, run_here
from localbucket import S3Handler

from pipeline.compact import compact_output
from pipeline.lake.store.open import open_store
from pipeline.status import output_status
from pipeline.verify import verify_job

pytestmark = pytest.mark.integration


class Quiet(S3Handler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server with an empty bucket, ``lake``."""
    root = tmp_path / "buckets"
    (root / "lake").mkdir(parents=True)
    monkeypatch.setattr(S3Handler, "data_root", root, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    address = f"http://127.0.0.1:{server.server_port}"
    told = {"ACCESS_KEY_ID": "any", "SECRET_ACCESS_KEY": "any", "REGION": "us-east-1"}
    for name, value in (told | {"ENDPOINT_URL": address, "ALLOW_HTTP": "true"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    yield address
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_put_on_condition_that_there_is_none_is_refused_where_there_is_one(endpoint: str) -> None:
    def put() -> int:
        headers = {"If-None-Match": "*"}
        request = urllib.request.Request(
            f"{endpoint}/lake/once", b"x", headers=headers, method="PUT"
        )
        try:
            with urllib.request.urlopen(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert (put(), put()) == (200, 412)


def test_of_many_that_create_one_object_at_once_one_does(endpoint: str) -> None:
    store = open_store("s3://lake/race")
    for turn in range(5):
        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(lambda n, t=turn: store.create(f"{t}", bytes([n])), range(8)))
        assert sum(made) == 1
        assert store.read(f"{turn}") == bytes([made.index(True)])


def test_a_run_a_changed_file_and_a_compaction_end_with_each_row_once(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = open_store("s3://lake/texts")

    def put(name: str, *texts: str) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": list(texts)}), sink)
        lake.put(f"{name}.parquet", sink.getvalue().to_pybytes())

    for number in range(4):
        put(f"deep/{number}", f"a{number}", f"b{number}")
    out = "s3://lake/annotated"
    made = loud_job(monkeypatch, tmp_path / "lake")
    job = made(output={"path": out}, path=lake.root)
    assert run_here(job).splits.done == 4
    assert run_here(job).state == "nothing to do"
    put("deep/2", "changed")
    assert run_here(job).splits.done == 1
    done = compact_output(out, file_size=1 << 20)
    assert (done.before, done.after) == (4, 1)
    assert run_here(job).state == "nothing to do"
    verdict = verify_job(job)
    assert (verdict.splits, verdict.rows, verdict.problems) == (4, 7, [])
    status = output_status(out, job=job)
    assert (status.files, status.left, status.rows.rows) == (1, 0, 7)
