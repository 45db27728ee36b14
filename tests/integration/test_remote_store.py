"""The object store: every method against an S3 server, and what is told when it fails."""

import contextlib
import io
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import commit_file
from s3_server import KEY, SECRET, Faults, s3_server

from pipeline import verify
from pipeline.engine.driver.lease import Lease
from pipeline.errors import JobError, OutputBusy, ShardscribeError, SplitError
from pipeline.job.job import Job
from pipeline.lake.sink.files import FileSink
from pipeline.lake.sink.footers import read_footer
from pipeline.lake.sink.scratch import OutputFile
from pipeline.lake.source.cut import splits_of
from pipeline.lake.source.open import open_source
from pipeline.lake.source.open_files import OpenFiles
from pipeline.lake.source.reader import ParquetSplit
from pipeline.lake.split import Split
from pipeline.lake.store import parts, ranges, remote
from pipeline.lake.store.open import open_store
from pipeline.lake.store.probe import check_create_only
from pipeline.lake.store.remote import RemoteStore
from pipeline.moves import Moves, working

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server():
    with s3_server() as running:
        yield running


@pytest.fixture
def s3(server, monkeypatch):
    """The server, without faults and with an empty log; its clients repeat without much pause."""
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(remote, "FIRST_PATIENCE", remote.PATIENCE)
    server.faults = None
    server.log.clear()
    yield server
    server.faults, server.ignores = None, False


@pytest.fixture
def store(s3, request) -> RemoteStore:
    """A prefix of its own for each test, with characters that have to be quoted."""
    return open_store(f"s3://lake/{request.node.nodeid.encode().hex()[-40:]}/a b/y=1")


@pytest.fixture
def local(tmp_path):
    """Writes a local file with the given bytes."""

    def write(content: bytes):
        path = tmp_path / "scratch.tmp"
        path.write_bytes(content)
        return path

    return write


def parquet(rows: int, *, row_group_size: int | None = None, wide: bool = False) -> bytes:
    columns = {"id": range(rows), "text": [f"text {i}" for i in range(rows)]}
    if wide:
        columns["junk"] = [os.urandom(4096) for _ in range(rows)]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, row_group_size=row_group_size)
    return sink.getvalue()


def test_a_listing_is_relative_and_passes_over_hidden_parts(store):
    for path in ["a.parquet", "x/b ü%20#?.parquet", "_own/c.parquet", "x/_d.parquet", ".e/f"]:
        store.put(path, path.encode())
    store.put("x/z.txt", b"1")
    open_store(store.root + "0").put("sibling.parquet", b"a prefix is a directory, not letters")
    found = {entry.path: entry for entry in store.entries()}
    assert sorted(found) == ["a.parquet", "x/b ü%20#?.parquet", "x/z.txt"]
    assert found["a.parquet"].size == len("a.parquet")
    assert found["a.parquet"] == store.entry("a.parquet")


def test_a_listing_of_more_than_a_page_is_whole(store):
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda i: store.put(f"{i:04}.parquet", b""), range(1100)))
    assert len(list(store.entries())) == 1100


def test_a_version_changes_with_the_content_alone(store):
    versions = []
    for content in (b"one", b"two", b"one"):
        store.put("a", content)
        versions.append(store.entry("a").version)
    assert versions[0] == versions[2] != versions[1]


def opened(store, path):
    return ParquetSplit(store, Split("1", path, 1, "v"), OpenFiles())


def test_what_is_not_there_is_none(store):
    assert store.entry("nothing") is None
    assert store.read("nothing") is None
    assert store.names("nothing") == []
    assert list(store.entries()) == []
    store.delete("nothing")
    with pytest.raises(FileNotFoundError):
        store.open("nothing")
    with pytest.raises(SplitError, match="is not there any more"):
        opened(store, "nothing")


def test_small_objects_are_put_read_named_and_deleted(store):
    store.put("_own/runs/one/summary.json", b"1")
    store.put("_own/runs/two/summary.json", b"2")
    store.put("_own/runs/two/summary.json", b"3")
    assert store.read("_own/runs/two/summary.json") == b"3"
    assert sorted(store.names("_own/runs")) == ["one", "two"]
    store.delete("_own/runs/two/summary.json")
    assert store.read("_own/runs/two/summary.json") is None
    assert store.names("_own/runs") == ["one"]


def test_a_name_is_given_once(store, local):
    assert store.put_new("a.parquet", local(b"first"))
    assert not store.put_new("a.parquet", local(b"second"))
    assert store.read("a.parquet") == b"first"
    store.replace("a.parquet", local(b"third"))
    assert store.read("a.parquet") == b"third"
    assert store.create("lease", b"first")
    assert not store.create("lease", b"second")
    assert not store.create("lease", b"first")
    assert store.read("lease") == b"first"


def test_of_many_that_put_at_once_one_succeeds(store):
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait()
        return store.create("lease", str(number).encode())

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(create, range(8)))
    assert sum(won) == 1
    assert store.read("lease") == str(won.index(True)).encode()


def test_a_large_file_is_put_in_one_piece(store, local, s3):
    content = os.urandom(12 * 1024 * 1024)
    assert store.put_new("large.parquet", local(content))
    assert [method for method, *_ in s3.log] == ["PUT"]
    assert store.read("large.parquet") == content


def test_parquet_is_read_by_ranges(store, s3):
    raw = parquet(4000, row_group_size=500, wide=True)
    store.put("wide.parquet", raw)
    s3.log.clear()
    with pq.ParquetFile(store.open("wide.parquet"), buffer_size=1 << 20) as file:
        table = file.read_row_groups([3, 4], columns=["id", "text"])
    assert table.column("id").to_pylist() == list(range(1500, 2500))
    ranges = [asked for method, _, asked in s3.log if method == "GET"]
    assert all(asked.startswith("bytes=") for asked in ranges)
    edges = [asked.removeprefix("bytes=").split("-") for asked in ranges]
    fetched = sum(int(last) - int(first) + 1 for first, last in edges)
    assert fetched < len(raw) / 3
    assert len(ranges) <= 6


def test_a_small_file_is_one_look_and_one_get(store, s3):
    store.put("small.parquet", parquet(100, row_group_size=10))
    s3.log.clear()
    with pq.ParquetFile(store.open("small.parquet")) as file:
        assert file.read().num_rows == 100
    assert [method for method, *_ in s3.log] == ["HEAD", "GET"]


def as_file(store, path, size):
    return ranges.Ranges(lambda start, end: store.range(path, start, end), size)


def test_reading_is_like_reading_a_file(store):
    raw = os.urandom(3 * ranges.BLOCK + 17)
    store.put("raw", raw)
    file, same = as_file(store, "raw", len(raw)), io.BytesIO(raw)
    steps = [(0, 10), (5, ranges.BLOCK), (ranges.BLOCK - 3, 6), (len(raw) - 5, 100),
             (len(raw) + 5, 1), (0, -1), (2 * ranges.BLOCK, ranges.BLOCK)]  # fmt: skip
    for at, size in steps:
        assert file.seek(at) == same.seek(at)
        assert file.read(size) == same.read(size)
    assert file.seek(-7, os.SEEK_END) == same.seek(-7, os.SEEK_END)
    assert file.read() == same.read()


def test_few_blocks_of_a_file_are_kept(store, monkeypatch):
    monkeypatch.setattr(ranges, "BLOCK", 1000)
    raw = os.urandom(100_000)
    store.put("raw", raw)
    file = as_file(store, "raw", len(raw))
    assert b"".join(iter(lambda: file.read(700), b"")) == raw
    assert len(file._blocks) == ranges.BLOCKS_KEPT


@pytest.mark.parametrize("address", ["{0}", "{0}/", "{0}/x/*.parquet", "{0}/x/a.parquet"])
def test_an_input_is_a_prefix_a_glob_or_a_file(store, address):
    store.put("x/a.parquet", parquet(10))
    dataset = open_source(address.format(store.root))
    files = dataset.listing().files
    assert [dataset.store.address(entry.path).replace("//x", "/x") for entry in files] == [
        f"{store.root}/x/a.parquet"
    ]
    (split,) = splits_of(dataset.store, files, fingerprint="f")
    with contextlib.closing(dataset.open(split)) as found:
        assert found.rows == 10


class Script(Faults):
    """Faults in a given order, then none."""

    def __init__(self, kinds: list[str]) -> None:
        super().__init__()
        self.kinds = kinds

    def next(self, method: str) -> str:
        return self.kinds.pop(0) if self.kinds else ""


def publish(store, split: str, *, value: int = 1) -> bool:
    table = pa.table({"value": [value]})
    out = OutputFile(FileSink(store), "out.parquet", table.schema, compression="zstd")
    out.write(table)
    try:
        return commit_file(out, {"split": split}, rows=1)
    finally:
        out.discard()


def test_a_put_whose_answer_is_lost_is_adopted(store, s3):
    s3.faults = Script(["lost"])
    assert not publish(store, "split-1")
    assert [method for method, *_ in s3.log if method == "PUT"] == ["PUT", "PUT"]
    assert read_footer(store, "out.parquet") == {"split": "split-1"}
    assert list(store.scratch().glob("*")) == []


@pytest.fixture
def large(monkeypatch, local):
    """A file that is put in three parts."""
    monkeypatch.setattr(parts, "LARGE_BYTES", 6 << 20)
    monkeypatch.setattr(parts, "PART_BYTES", 5 << 20)
    return local(os.urandom(11 << 20))


def test_a_remote_output_is_compared_byte_by_byte_and_leaves_no_copy(store, tmp_path):
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "a.parquet")
    given = open_source(str(tmp_path))
    (split,) = splits_of(given.store, given.listing().files, fingerprint="f")
    job = Job.model_validate(
        {
            "name": "test",
            "input": {"path": str(tmp_path)},
            "output": {"path": store.root},
            "tasks": {"label": {"kind": "classify", "model": "none"}},
        }
    )
    table = pa.table({"text": ["a", "b"], "label": ["x", "y"]})
    out = OutputFile(FileSink(store), split.output_path, table.schema, compression="zstd")
    out.write(table)
    commit_file(out, {"split": split.id}, rows=2)
    assert verify.compare(given, FileSink(store), split, job) == verify.Finding(rows=2)
    raw = bytearray(store.read(split.output_path))
    raw[len(raw) // 2] ^= 1
    store.put(split.output_path, bytes(raw))
    found = verify.compare(given, FileSink(store), split, job)
    assert found.damaged
    assert f"{split.output_path} is damaged" in found.problem
    store.delete(split.output_path)
    found = verify.compare(given, FileSink(store), split, job)
    assert (found.damaged, found.rows) == (False, 0)
    assert split.output_path in found.problem
    assert list(store.scratch().glob("*")) == []


def requests(s3) -> list[str]:
    return [method for method, *_ in s3.log if method in ("PUT", "POST")]


def test_a_large_file_is_put_in_parts_and_only_once(store, s3, large):
    assert store.put_new("a.parquet", large)
    assert sorted(requests(s3)) == ["POST", "POST", "PUT", "PUT", "PUT"]
    assert store.read("a.parquet") == large.read_bytes()
    before = store.entry("a.parquet")
    large.write_bytes(bytes(11 << 20))
    assert not store.put_new("a.parquet", large)
    assert store.entry("a.parquet") == before
    store.replace("a.parquet", large)
    assert store.read("a.parquet") == large.read_bytes()


def test_parts_are_moves_of_the_work_they_are_for(store, s3, large):
    moves = Moves()
    with working(moves):
        assert store.put_new("a.parquet", large)
    assert moves.count >= 3


@pytest.mark.parametrize("kind", ["lost", "error", "reset"])
@pytest.mark.parametrize("at", range(6))
def test_a_large_put_is_done_whatever_request_fails_once(store, s3, large, kind, at):
    # A look, the begin, three parts, the end.
    s3.faults = Script([""] * at + [kind])
    published = store.put_new("a.parquet", large)
    assert store.read("a.parquet") == large.read_bytes()
    assert published or kind == "lost"
    assert not store.put_new("a.parquet", large)


def test_nothing_of_a_large_file_shows_before_it_is_whole(store, s3, large, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE", 0.3)
    near = open_store(store.root)
    near.entry("a.parquet")
    s3.faults = Script(["", "", "", *["reset"] * 1000])
    with pytest.raises(SplitError, match=r"a\.parquet can't be written"):
        near.put_new("a.parquet", large)
    s3.faults = None
    assert list(near.entries()) == []


def test_a_lease_whose_answer_is_lost_is_held(store, s3):
    s3.faults = Script(["lost"])
    with Lease(store, "run-1"), pytest.raises(OutputBusy), Lease(store, "run-2"):
        pass
    with Lease(store, "run-3"):
        pass


@pytest.mark.parametrize("kind", ["error", "reset", "cut", "busy", "throttled"])
def test_a_fault_for_a_while_is_not_noticed(store, s3, kind, local):
    store.put("a.parquet", parquet(10))

    s3.faults = Script([kind] * 2)
    assert [entry.path for entry in store.entries()] == ["a.parquet"]
    s3.faults = Script([kind] * 2)
    assert store.entry("a.parquet") is not None
    s3.faults = Script([kind] * 2)
    assert opened(store, "a.parquet").rows == 10
    s3.faults = Script([kind] * 2)
    assert store.put_new("b", local(b"b"))
    s3.faults = Script([kind] * 2)
    assert store.create("c", b"c")
    s3.faults = Script([kind] * 2)
    store.put("b", b"c")
    s3.faults = Script([kind] * 2)
    assert store.read("b") == b"c"
    s3.faults = Script([kind] * 2)
    store.delete("b")
    assert store.read("b") is None


def test_a_conflict_that_the_store_asks_to_try_again_is_tried_again(store, s3, local):
    s3.faults = Script(["conflict"] * 3)
    assert store.put_new("b", local(b"b"))
    assert store.read("b") == b"b"
    s3.faults = Script(["conflict"] * 3)
    assert store.create("c", b"c")
    s3.faults = Script(["conflict"] * 3)
    assert not store.create("c", b"d")
    s3.faults = Script(["", "conflict", "", "conflict"])
    assert store.swap("c", b"c", b"d")
    assert store.read("c") == b"d"
    s3.faults = Script(["conflict"] * 3)
    assert publish(store, "split-1")
    store.put("c", b"e")
    assert store.read("c") == b"e"


def test_a_conflict_without_end_is_told(store, s3, monkeypatch, local):
    monkeypatch.setattr(remote, "PATIENCE", 0.5)
    assert store.entry("b") is None
    s3.faults = Faults(conflict=1.0)
    with pytest.raises(SplitError, match="ConditionalRequestConflict"):
        store.put_new("b", local(b"b"))


def test_of_several_that_swap_at_once_one_does(store):
    for number in range(3):
        store.put("a", b"old")
        with ThreadPoolExecutor(6) as threads:
            news = [f"{number}.{i}".encode() for i in range(6)]
            did = list(threads.map(lambda new: store.swap("a", b"old", new), news))
        assert did.count(True) == 1
        assert store.read("a") == news[did.index(True)]


def test_a_swap_whose_answer_is_lost_is_done(store, s3):
    store.put("a", b"old")
    s3.faults = Script(["", "lost"])
    assert store.swap("a", b"old", b"new")
    assert not store.swap("a", b"old", b"newer")
    assert not store.swap("nowhere", b"old", b"new")


def test_a_listing_that_fails_half_way_goes_on_where_it_was_or_is_told(store, s3, monkeypatch):
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda i: store.put(f"{i:04}.parquet", b""), range(1100)))
    s3.log.clear()
    s3.faults = Script(["", "cut"])
    assert len({entry.path for entry in store.entries()}) == 1100
    assert [method for method, *_ in s3.log] == ["GET"] * 3
    monkeypatch.setattr(remote, "PATIENCE", 0.5)
    near = open_store(store.root)
    listing = near.entries()
    next(listing)
    s3.faults = Faults(error=1.0)
    with pytest.raises(JobError, match="can't be listed"):
        list(listing)


def test_a_store_that_takes_no_notice_of_conditions_is_refused(store, s3):
    check_create_only(store.own)
    s3.log.clear()
    check_create_only(store.own)
    assert [method for method, *_ in s3.log] == ["PUT", "HEAD"]
    s3.ignores = True
    for _ in range(2):
        with pytest.raises(JobError, match=r"can't keep two runs apart.*If-None-Match") as caught:
            check_create_only(store.own)
        assert store.own.root in str(caught.value)


def every_call(store, local):
    store.scratch().mkdir(parents=True, exist_ok=True)
    return {
        "entries": lambda: list(store.entries()),
        "entry": lambda: store.entry("a.parquet"),
        "open": lambda: opened(store, "a.parquet"),
        "read": lambda: store.read("a.parquet"),
        "names": lambda: store.names("a"),
        "create": lambda: store.create("a", b"1"),
        "put": lambda: store.put("a", b"1"),
        "put_new": lambda: store.put_new("a", local(b"1")),
        "replace": lambda: store.replace("a", local(b"1")),
        "delete": lambda: store.delete("a"),
        "read_footer": lambda: read_footer(store, "a.parquet"),
    }


def told(call) -> ShardscribeError:
    with pytest.raises((JobError, SplitError)) as caught:
        call()
    error = caught.value
    assert error.hint
    assert "\n" not in str(error)
    assert len(str(error)) < 900
    # Neither in the message nor in what a traceback would show.
    shown = f"{error!r} {error} {error.__cause__}"
    assert SECRET not in shown
    assert KEY not in shown
    assert "Debug source" not in shown
    return error


@pytest.mark.parametrize(
    "name", ["entries", "names", "create", "put", "put_new", "replace"]
)  # what is looked up in a bucket that is not there is not there
def test_a_wrong_bucket_is_told(s3, local, name):
    error = told(every_call(open_store("s3://no-such-bucket/x"), local)[name])
    assert "s3://no-such-bucket/x" in str(error)
    assert "NoSuchBucket" in str(error)


CALLS = ["entries", "entry", "open", "read", "names", "create", "put", "put_new", "replace",
         "delete", "read_footer"]  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_wrong_credentials_are_told(s3, local, name, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDUNKNOWN")
    error = told(every_call(open_store("s3://lake/x"), local)[name])
    assert "credentials" in error.hint
    assert "AKIDUNKNOWN" not in str(error)


def test_a_server_that_is_down_is_told_by_every_call(s3, local, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PATIENCE", 1.0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        stores = {name: open_store("s3://lake/x") for name in CALLS}
        with ThreadPoolExecutor(len(CALLS)) as threads:
            calls = [every_call(store, local)[name] for name, store in stores.items()]
            errors = list(threads.map(told, calls))
    assert all("AWS_ENDPOINT_URL" in error.hint for error in errors)


def test_no_answer_at_all_is_told(s3, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PATIENCE", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        told(lambda: list(open_store("s3://lake/x").entries()))


def test_an_endpoint_without_tls_has_to_be_allowed(s3, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    error = told(lambda: list(open_store("s3://lake/x").entries()))
    assert "AWS_ALLOW_HTTP=true" in error.hint


def test_a_store_that_goes_away_while_a_file_is_read_is_no_broken_file(store, s3, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE", 1.0)
    near = open_store(store.root)
    near.put("a.parquet", parquet(2000, row_group_size=500, wide=True))
    file = pq.ParquetFile(near.open("a.parquet"), buffer_size=1 << 20)
    s3.faults = Faults(error=1.0)
    with pytest.raises(SplitError, match=r"can't be read: .*InternalError"):
        list(file.iter_batches())


def test_a_run_that_publishes_to_a_store_that_is_away_leaves_no_scratch(store, s3, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE", 1.0)
    near = open_store(store.root)
    assert near.entry("out.parquet") is None
    s3.faults = Faults(error=1.0)
    with pytest.raises(SplitError, match=r"can't be written: .*InternalError"):
        publish(near, "split-1")
    assert list(near.scratch().glob("*")) == []


def test_an_address_with_a_password_is_refused_and_not_repeated():
    with pytest.raises(JobError) as caught:
        open_store("s3://key:hush@bucket/x")
    assert "hush" not in str(caught.value)


def test_what_a_store_repeats_of_the_request_is_not_told():
    said = (
        "Generic S3 error: Error performing GET http://me:hush@host/b?sig=hush in 1ms - "
        "Server returned non-2xx status code: 400 Bad Request: <?xml?>\n<Error><Code>InvalidToken"
        "</Code><Message>The token is wrong.</Message><Token-0>hush</Token-0></Error>\n\n"
        'Debug source:\nGeneric { token: "hush" }'
    )
    assert remote.reason(Exception(said)) == (
        "Generic S3 error: Error performing GET http://host/b in 1ms - Server returned non-2xx "
        "status code: 400 Bad Request: InvalidToken: The token is wrong."
    )
