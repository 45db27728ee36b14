"""The local store: what a listing shows, and how a file appears."""

import os
import pickle
from pathlib import Path

import pytest

from pipeline.errors import JobError, RunError
from pipeline.lake.sink.open import open_sink
from pipeline.lake.source.open import open_source
from pipeline.lake.store.local import LocalStore
from pipeline.lake.store.open import open_store
from pipeline.lake.store.remote import RemoteStore

pytestmark = pytest.mark.unit


def fill(base: Path, *paths: str) -> LocalStore:
    for path in paths:
        target = base / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path)
    return LocalStore(str(base))


def listed(store: LocalStore) -> list[str]:
    return sorted(entry.path for entry in store.entries())


def test_a_listing_shows_files_at_any_depth(tmp_path: Path) -> None:
    store = fill(tmp_path, "a.parquet", "y=1/b.parquet", "y=1/m=2/c.parquet", "notes.txt")
    assert listed(store) == ["a.parquet", "notes.txt", "y=1/b.parquet", "y=1/m=2/c.parquet"]


def test_hidden_names_are_skipped_at_any_depth(tmp_path: Path) -> None:
    store = fill(
        tmp_path,
        "a",
        "_SUCCESS",
        ".a.crc",
        ".shardscribe/runs/x",
        ".git/a",
        "y=1/_temporary/b",
        "y=1/.b",
        "y=1/_b",
        "y=1/b_",
    )
    assert listed(store) == ["a", "y=1/b_"]


def test_a_root_with_a_hidden_name_is_listed_all_the_same(tmp_path: Path) -> None:
    assert listed(fill(tmp_path / "_lake", "a")) == ["a"]


def test_links_to_files_and_directories_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", "deep/x")
    store = fill(tmp_path / "lake", "a")
    (tmp_path / "lake" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "lake" / "b").symlink_to(tmp_path / "elsewhere" / "deep" / "x")
    (tmp_path / "lake" / "broken").symlink_to(tmp_path / "nowhere")
    assert listed(store) == ["a", "b", "linked/deep/x"]


def test_a_loop_of_links_ends_and_shows_each_file_once(tmp_path: Path) -> None:
    store = fill(tmp_path, "a/x", "b/y")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to(tmp_path / "b")
    assert sorted(Path(path).name for path in listed(store)) == ["x", "y"]


def test_a_link_to_itself_hides_no_other_file(tmp_path: Path) -> None:
    store = fill(tmp_path, "a", "z/b")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "ping").symlink_to(tmp_path / "pong")
    (tmp_path / "pong").symlink_to(tmp_path / "ping")
    assert listed(store) == ["a", "z/b"]


def test_a_directory_of_two_names_is_listed_under_its_own(tmp_path: Path) -> None:
    store = fill(tmp_path, "m/x", "n/deep/y")
    for link, target in [("a", "m"), ("z", "m"), ("b", "n/deep")]:
        (tmp_path / link).symlink_to(tmp_path / target)
    assert listed(store) == ["m/x", "n/deep/y"]


def test_a_missing_directory_lists_nothing(tmp_path: Path) -> None:
    assert listed(LocalStore(str(tmp_path / "nowhere"))) == []


def test_a_file_that_vanishes_while_listing_hides_no_other(tmp_path: Path) -> None:
    names = [f"{i:02}.parquet" for i in range(20)]
    store = fill(tmp_path, *names, "deep/x", "deeper/y")
    listing = store.entries()
    first = next(listing).path
    gone = next(p.name for p in tmp_path.iterdir() if p.name in names and p.name != first)
    (tmp_path / gone).unlink()
    found = [first, *(entry.path for entry in listing)]
    assert set(found) | {gone} == {*names, "deep/x", "deeper/y"}


def test_versions_change_with_the_content(tmp_path: Path) -> None:
    store = fill(tmp_path, "a")
    before = store.entry("a")
    assert before is not None
    assert before == next(store.entries())
    os.utime(tmp_path / "a", ns=(1, 1))
    after = store.entry("a")
    assert after is not None
    assert after.version != before.version
    assert after.size == before.size


def test_an_entry_that_is_not_there_is_none(tmp_path: Path) -> None:
    store = fill(tmp_path, "a")
    assert store.entry("b") is None
    assert store.entry("nowhere/b") is None
    assert store.entry("a/b") is None


def test_a_new_file_appears_whole_and_makes_its_directories(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "out"))
    made = fill(tmp_path, "made").base / "made"
    assert store.put_new("y=1/m=2/a.parquet", made)
    assert (tmp_path / "out/y=1/m=2/a.parquet").read_text() == "made"
    assert made.exists(), "the caller's file is left to the caller"


def test_a_name_that_is_taken_is_left_as_it_is(tmp_path: Path) -> None:
    store = fill(tmp_path / "out", "a")
    fill(tmp_path, "second")
    assert not store.put_new("a", tmp_path / "second")
    assert (tmp_path / "out" / "a").read_text() == "a"
    assert (tmp_path / "second").read_text() == "second"


def test_of_two_publications_of_a_name_one_wins(tmp_path: Path) -> None:
    store = fill(tmp_path, "first", "second")
    assert store.put_new("out", tmp_path / "first")
    assert not store.put_new("out", tmp_path / "second")
    assert (tmp_path / "out").read_text() == "first"


def test_a_file_that_can_not_be_linked_says_what_an_output_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fill(tmp_path, "made")

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(RunError, match=r"not permitted.*hard links"):
        store.put_new("out", tmp_path / "made")
    assert not (tmp_path / "out").exists()


def test_put_replaces_what_was_there(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    store.put("deep/summary.json", b"one")
    store.put("deep/summary.json", b"two")
    assert (tmp_path / "deep" / "summary.json").read_bytes() == b"two"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["summary.json"]


def test_put_never_shows_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(str(tmp_path))
    store.put("a", b"whole")
    seen = []
    write = Path.write_bytes

    def half(self: Path, data: bytes) -> int:
        write(self, data[:3])
        seen.append((tmp_path / "a").read_bytes())
        seen.append(listed(store))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space"):
        store.put("a", b"replaced")
    assert seen == [b"whole", ["a"]]
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_deleting_what_is_gone_is_silent(tmp_path: Path) -> None:
    store = fill(tmp_path, "a")
    store.delete("a")
    assert listed(store) == []
    store.delete("a")
    store.delete("nowhere/a")


def test_scratch_is_on_the_outputs_own_file_system_and_not_in_its_listing(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "out"))
    store.base.mkdir()
    assert tmp_path in store.scratch().parents
    store.scratch().mkdir(parents=True)
    (store.scratch() / "x.parquet").touch()
    assert listed(store) == []


def test_a_relative_path_counts_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("data/reviews")
    assert isinstance(store, LocalStore)
    assert store.base == tmp_path / "data" / "reviews"
    monkeypatch.chdir("/")
    assert store.base == tmp_path / "data" / "reviews"


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store = open_store("~/lake")
    assert isinstance(store, LocalStore)
    assert store.base == tmp_path / "lake"


def test_a_file_address_is_a_local_path(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    assert isinstance(store, LocalStore)
    assert store.base == tmp_path


@pytest.mark.parametrize("address", ["ftp://host/x", "hdfs://x/y", "S4://b", "://x", "http://x/y"])
def test_an_unknown_scheme_is_refused_with_the_known_ones(address: str) -> None:
    with pytest.raises(JobError, match=r"is unknown\. Use a local path or one of s3://") as caught:
        open_store(address)
    assert caught.value.exit_code == 2


def test_an_address_without_a_bucket_is_refused() -> None:
    with pytest.raises(JobError, match=r"s3:// is no address of an object store.*s3://bucket"):
        open_store("s3://")


def test_an_object_store_is_opened_without_a_request() -> None:
    store = open_store("s3://bucket/prefix")
    assert isinstance(store, RemoteStore)
    assert store.address("y=1/a.parquet") == "s3://bucket/prefix/y=1/a.parquet"


def test_an_address_for_messages_has_one_slash_between_its_parts(tmp_path: Path) -> None:
    assert open_store(f"{tmp_path}/").address("a/b") == f"{tmp_path}/a/b"
    assert open_store("s3://bucket/").address("a") == "s3://bucket/a"


@pytest.mark.parametrize("address", ["out", "s3://lake/out", "gs://lake"])
def test_a_source_and_a_sink_go_to_another_process_as_their_addresses(address: str) -> None:
    for place in (open_source(address), open_sink(address)):
        again = pickle.loads(pickle.dumps(place))
        assert type(again) is type(place)
        assert type(again.store) is type(place.store)
        assert again.store.root == place.store.root
        assert again.store.own.root == place.store.own.root
