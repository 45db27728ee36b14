"""The commit point: whole or not at all, once."""

import os
import resource
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from helpers import commit_file

from pipeline.errors import RunError, SplitError
from pipeline.lake.sink.files import FileSink
from pipeline.lake.sink.footers import FOOTER_KEY, read_footer
from pipeline.lake.sink.scratch import OutputFile, clean_scratch
from pipeline.lake.store.local import LocalStore
from pipeline.lake.store.process import token

pytestmark = pytest.mark.unit

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])
NAME = "y=1/a-all-0123456789abcdef.parquet"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "out"))


def table(rows: int = 3) -> pa.Table:
    return pa.table({"id": range(rows), "text": ["t"] * rows}, schema=SCHEMA)


def publish(store: LocalStore, split: str = "s1", *, rows: int = 3, **footer: Any) -> bool:
    out = OutputFile(FileSink(store), NAME, SCHEMA, compression="zstd")
    out.write(table(rows))
    return commit_file(out, {"split": split, **footer}, rows=rows)


def visible(store: LocalStore) -> list[str]:
    return sorted(entry.path for entry in store.entries())


def scratch(store: LocalStore) -> list[Path]:
    return sorted(store.scratch().iterdir())


def test_a_published_file_holds_its_rows_and_what_it_says_of_itself(store: LocalStore) -> None:
    out = OutputFile(FileSink(store), NAME, SCHEMA, compression="zstd")
    out.write(table(3))
    out.write(table(2))
    footer = {"split": "s1", "input": "ünï.parquet", "rows": {"rows": 5}, "row_groups": (0, 1)}
    assert commit_file(out, footer, rows=5)
    assert visible(store) == [NAME]
    file = pq.ParquetFile(store.open(NAME))
    assert file.read().column("id").to_pylist() == [0, 1, 2, 0, 1]
    assert file.schema_arrow.equals(SCHEMA)
    assert read_footer(store, NAME) == {**footer, "row_groups": [0, 1]}
    assert scratch(store) == []


@pytest.mark.parametrize("compression", ["zstd", "snappy", "gzip", "none"])
def test_each_compression_of_a_job_is_what_the_file_has(
    store: LocalStore, compression: str
) -> None:
    out = OutputFile(FileSink(store), NAME, SCHEMA, compression=compression)
    out.write(table())
    commit_file(out, {"split": "s"}, rows=3)
    column = pq.ParquetFile(store.open(NAME)).metadata.row_group(0).column(0)
    expected = "UNCOMPRESSED" if compression == "none" else compression.upper()
    assert column.compression == expected


def test_a_file_without_rows_can_be_published(store: LocalStore) -> None:
    out = OutputFile(FileSink(store), NAME, SCHEMA, compression="zstd")
    assert commit_file(out, {"split": "s1"}, rows=0)
    assert pq.read_table(store.open(NAME)).num_rows == 0
    assert pq.ParquetFile(store.open(NAME)).schema_arrow.equals(SCHEMA)
    assert read_footer(store, NAME) == {"split": "s1"}


@pytest.mark.parametrize("rows", [2, 4])
def test_rows_in_must_be_rows_out(store: LocalStore, rows: int) -> None:
    out = OutputFile(FileSink(store), NAME, SCHEMA, compression="zstd")
    out.write(table(3))
    with pytest.raises(SplitError, match=f"{rows} rows came in, 3 would go out"):
        commit_file(out, {"split": "s1"}, rows=rows)
    assert visible(store) == scratch(store) == []


def test_a_file_of_another_schema_is_not_published(store: LocalStore) -> None:
    out = OutputFile(FileSink(store), NAME, SCHEMA, compression="zstd")
    out.write(table())
    out.schema = pa.schema([("id", pa.int32()), ("text", pa.string())])
    with pytest.raises(SplitError, match="schema is not the declared one"):
        commit_file(out, {"split": "s1"}, rows=3)
    assert visible(store) == scratch(store) == []


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.timestamp("ns", tz="Europe/Berlin"),
        pa.decimal128(20, 3),
        pa.date32(),
        pa.list_(pa.field("element", pa.struct([("a", pa.float32())]))),
        pa.map_(pa.string(), pa.int64()),
        pa.list_(pa.float32(), 4),
        pa.binary(16),
        pa.bool_(),
        pa.null(),
    ],
    ids=str,
)
def test_columns_of_any_kind_keep_their_declared_type(store: LocalStore, kind: pa.DataType) -> None:
    schema = pa.schema([pa.field("x", kind), pa.field("id", pa.int64(), nullable=False)])
    rows = pa.table([pa.nulls(2, kind), pa.array([1, 2])], schema=schema)
    out = OutputFile(FileSink(store), NAME, schema, compression="zstd")
    out.write(rows)
    assert commit_file(out, {"split": "s"}, rows=2)


def test_the_same_split_published_again_is_adopted(store: LocalStore) -> None:
    assert publish(store, worker="first")
    before = Path(store.open(NAME)).read_bytes()
    assert not publish(store, worker="second")
    assert Path(store.open(NAME)).read_bytes() == before
    assert read_footer(store, NAME)["worker"] == "first"
    assert visible(store) == [NAME]
    assert scratch(store) == []


def test_another_splits_file_under_the_name_stops_the_run(store: LocalStore) -> None:
    publish(store, "s1")
    with pytest.raises(RunError, match=r"exists and is of split s1, not s2") as caught:
        publish(store, "s2")
    assert NAME in str(caught.value)
    assert read_footer(store, NAME)["split"] == "s1"
    assert scratch(store) == []


def test_a_foreign_file_under_the_name_stops_the_run(store: LocalStore) -> None:
    store.put(NAME, b"not Parquet at all")
    with pytest.raises(RunError, match="exists and is of split None"):
        publish(store)
    assert Path(store.open(NAME)).read_bytes() == b"not Parquet at all"
    assert scratch(store) == []


def test_before_it_is_published_nothing_is_visible(store: LocalStore) -> None:
    out = OutputFile(FileSink(store), NAME, SCHEMA, compression="zstd")
    out.write(table())
    # Killed here: neither our own listing nor a reader of the lake sees anything.
    assert visible(store) == []
    store.base.mkdir()
    assert pads.dataset(str(store.base), format="parquet").files == []
    (left,) = scratch(store)
    assert left.suffix != ".parquet"
    out.discard()
    assert scratch(store) == []


def test_killed_after_the_file_was_finished_nothing_is_visible(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(path: str, local: Path) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "put_new", die)
    with pytest.raises(KeyboardInterrupt):
        publish(store)
    assert visible(store) == scratch(store) == []


def test_discarding_twice_or_after_publication_is_harmless(store: LocalStore) -> None:
    out = OutputFile(FileSink(store), NAME, SCHEMA, compression="zstd")
    out.write(table())
    commit_file(out, {"split": "s"}, rows=3)
    out.discard()
    out.discard()
    assert visible(store) == [NAME]


def test_an_output_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "out"))
    store.own.base.parent.write_text("a file")  # type: ignore[attr-defined]
    with pytest.raises(SplitError, match=r"the output .*out can't be written.*free space"):
        OutputFile(FileSink(store), NAME, SCHEMA, compression="zstd")


def test_an_output_that_became_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SplitError, match=r"out/y=1/a-all-.* can't be published.*free space"):
        publish(LocalStore(str(tmp_path / "out")))


@pytest.fixture
def full_disk() -> Any:
    """Files of more than 100 kB can't be written, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def noise(size: int) -> pa.Table:
    text = np.random.default_rng(0).bytes(size // 2).hex()
    return pa.table({"id": [0], "text": [text]}, schema=SCHEMA)


@pytest.mark.usefixtures("full_disk")
def test_a_disk_that_is_full_is_an_error_of_the_output(store: LocalStore) -> None:
    out = OutputFile(FileSink(store), NAME, SCHEMA, compression="none")
    with pytest.raises(SplitError, match=r"the output .* can't be written.*free space"):
        out.write(noise(200_000))
    out.discard()
    assert visible(store) == scratch(store) == []


@pytest.mark.usefixtures("full_disk")
def test_a_disk_that_is_full_at_the_end_is_an_error_of_the_output(store: LocalStore) -> None:
    out = OutputFile(FileSink(store), NAME, SCHEMA, compression="none")
    out.write(noise(99_000))
    with pytest.raises(SplitError, match=r"the output .* can't be written.*free space"):
        commit_file(out, {"split": "s", "much": "x" * 5_000}, rows=1)
    assert visible(store) == scratch(store) == []


def test_a_footer_of_another_tool_says_nothing(store: LocalStore, tmp_path: Path) -> None:
    store.base.mkdir()
    pq.write_table(table(), store.base / "plain.parquet")
    for name, value in [("words", b"not JSON"), ("list", b"[1]")]:
        with pq.ParquetWriter(store.base / f"{name}.parquet", SCHEMA) as writer:
            writer.add_key_value_metadata({FOOTER_KEY: value})
    (store.base / "broken.parquet").write_bytes(b"PAR1")
    for name in ("plain", "words", "list", "broken", "missing"):
        assert read_footer(store, f"{name}.parquet") == {}


def test_scratch_of_the_dead_goes_and_that_of_the_living_stays(store: LocalStore) -> None:
    directory = store.scratch()
    directory.mkdir(parents=True)
    dead = subprocess.Popen(["true"])
    was = token(dead.pid) or "boot.1"
    dead.wait()
    host, now = socket.gethostname(), 1_000_000.0
    files = {
        f"{host}~{dead.pid}~{was}~aa.tmp": 1,
        f"{host}~{os.getpid()}~{token(os.getpid())}~ab.tmp": 1,
        f"{host}~{os.getpid()}~{token(os.getpid())}9~ac.tmp": 1,
        "other-host~1~boot.1~ad.tmp": 23 * 3600,
        "other-host~1~boot.1~ae.tmp": 25 * 3600,
        "not-ours.txt": 99 * 3600,
    }
    for name, age in files.items():
        (directory / name).touch()
        os.utime(directory / name, (now - age, now - age))
    assert clean_scratch(directory, now=now) == 3
    left = {path.name.rpartition("~")[2] for path in directory.iterdir()}
    assert left == {"ab.tmp", "ad.tmp", "not-ours.txt"}


def test_cleaning_a_scratch_that_is_not_there_is_harmless(tmp_path: Path) -> None:
    assert clean_scratch(tmp_path / "nowhere", now=10) == 0
