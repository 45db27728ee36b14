"""An output in an object store is compacted there, and what is killed in it is finished."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from compact_jobs import compact, files, holds, parquet_job
from s3_server import s3_server
from table_jobs import run

from pipeline.compact import compact_output
from pipeline.lake.sink.compacted import CompactedSink
from pipeline.lake.store.open import open_store

pytestmark = pytest.mark.integration

IDS = list(range(12))


class Dead(BaseException):
    """Stands for a process that is no more."""


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with s3_server() as running:
        yield running


def put(store: Any, name: str, *ids: int) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": list(ids), "text": [f"w{i}" for i in ids]}), sink)
    store.put(name, sink.getvalue().to_pybytes())


def test_files_of_a_bucket_are_merged_there_and_each_row_counts_once_all_the_time(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ignores = False
    lake, out = open_store("s3://lake/small"), "s3://lake/annotated"
    for number in range(4):
        put(lake, f"day={number % 2}/f{number}.parquet", *IDS[3 * number : 3 * number + 3])
    job = parquet_job(tmp_path, input={"path": lake.root}, output={"path": out})
    run(job)
    remove, calls = CompactedSink.remove, iter(range(2))

    def dying(*arguments: Any) -> None:
        if next(calls, None) is None:
            raise Dead
        remove(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(CompactedSink, "remove", dying)
        with pytest.raises(Dead):
            compact_output(out, file_size=1 << 20)
    assert len(files(out)) == 5
    holds(job, out, IDS, splits=4)
    assert compact(out)["after"] == 2
    holds(job, out, IDS, splits=4)
    put(lake, "day=0/f0.parquet", 77)
    assert run(job).splits.done == 1
    holds(job, out, [*IDS[3:], 77], splits=4)
    assert len(files(out)) == 3
