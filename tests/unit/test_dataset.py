"""A dataset's files, its splits, and what is left to do."""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import PATIENCE

from pipeline.errors import JobError
from pipeline.lake.memory import Memory
from pipeline.lake.plan import make_plan
from pipeline.lake.sink.footers import Footer
from pipeline.lake.source.cut import splits_of
from pipeline.lake.source.open import open_source
from pipeline.lake.split import OUTPUT_NAME, WHOLE, Cut, Region, RowGroups, Rows, Split
from pipeline.lake.store.base import Entry
from pipeline.lake.store.local import LocalStore

pytestmark = pytest.mark.unit

ENTRY = Entry("y=1/part-0.parquet", 1_000, "v1")


def parquet(path: Path, *, rows: int = 3, row_group_size: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": [f"text {i}" for i in range(rows)]})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def names(address: str | Path) -> list[str]:
    return [entry.path for entry in open_source(str(address)).listing().files]


def test_a_file_is_a_dataset_of_one(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet")
    parquet(tmp_path / "b.parquet")
    assert names(tmp_path / "a.parquet") == ["a.parquet"]


@pytest.mark.parametrize("name", ["a.parquet", "a.pq", "a.parq", "A.PARQUET", "über 1.parquet"])
def test_a_file_is_known_by_its_suffix_alone_or_in_a_directory(tmp_path: Path, name: str) -> None:
    parquet(tmp_path / name)
    assert names(tmp_path / name) == [name]
    assert names(tmp_path) == [name]


def test_a_directory_is_read_recursively_and_by_path(tmp_path: Path) -> None:
    for path in ("b.parquet", "y=2/a.parquet", "y=1/m=01/c.pq", "a.parquet"):
        parquet(tmp_path / path)
    for path in ("_SUCCESS", "y=1/notes.txt", "_old/x.parquet", ".tmp/x.parquet"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    expected = ["a.parquet", "b.parquet", "y=1/m=01/c.pq", "y=2/a.parquet"]
    assert names(tmp_path) == expected
    assert names(f"{tmp_path}/") == expected
    assert names(f"file://{tmp_path}") == expected


def test_a_directory_that_is_named_like_a_file_is_a_directory(tmp_path: Path) -> None:
    parquet(tmp_path / "spark.parquet" / "part-0.parquet")
    assert names(tmp_path / "spark.parquet") == ["part-0.parquet"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.parquet", ["a.parquet", "b.parquet", "y=1/a.parquet", "y=2/c.parquet"]),
        ("y=*/a.parquet", ["y=1/a.parquet"]),
        ("y=1/*", ["y=1/a.parquet"]),
        ("?.parquet", ["a.parquet", "b.parquet"]),
        ("y=[12]/*.parquet", ["y=1/a.parquet", "y=2/c.parquet"]),
        ("y=[!1]/*.parquet", ["y=2/c.parquet"]),
    ],
)
def test_a_glob_names_files(tmp_path: Path, pattern: str, found: list[str]) -> None:
    for path in ("a.parquet", "b.parquet", "y=1/a.parquet", "y=2/c.parquet"):
        parquet(tmp_path / path)
    dataset = open_source(f"{tmp_path}/{pattern}")
    assert isinstance(dataset.store, LocalStore)
    base = dataset.store.base.relative_to(tmp_path)
    assert [(base / entry.path).as_posix() for entry in dataset.listing().files] == found


def test_a_relative_address_counts_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path / "data" / "a.parquet")
    monkeypatch.chdir(tmp_path)
    assert names("data") == ["a.parquet"]
    assert names("data/a.parquet") == ["a.parquet"]
    assert names("data/*.parquet") == ["a.parquet"]
    assert names("*/a.parquet") == ["data/a.parquet"]
    monkeypatch.chdir("data")
    assert names("") == ["a.parquet"]
    assert names("a.parquet") == ["a.parquet"]
    assert names("*.parquet") == ["a.parquet"]


def refusal(address: str | Path) -> str:
    with pytest.raises(JobError) as caught:
        names(address)
    return str(caught.value)


def test_a_missing_path_is_named_as_written_and_as_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal("data/nosuch")
    assert "data/nosuch does not exist" in said
    assert str(tmp_path / "data" / "nosuch") in said
    assert "nosuch.parquet does not exist" in refusal("data/nosuch.parquet")


def test_an_empty_directory_is_told_from_one_without_parquet(tmp_path: Path) -> None:
    assert "holds no Parquet file: it is empty" in refusal(tmp_path)
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.json").touch()
    assert "holds no Parquet file: it holds 2 other files" in refusal(tmp_path)


def test_a_file_with_another_suffix_is_named(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").touch()
    said = refusal(tmp_path / "reviews.csv")
    assert "reviews.csv is not a Parquet file by its name" in said
    assert ".parquet or .pq" in said


def test_a_glob_that_matches_nothing_is_named(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet")
    assert "z*.parquet matches no file" in refusal(tmp_path / "z*.parquet")
    assert "matches no file" in refusal(tmp_path / "nowhere" / "*.parquet")


def test_an_id_depends_on_all_that_makes_a_split_another() -> None:
    two = RowGroups(0, 1)
    base = Split.of(ENTRY, fingerprint="f", region=two)
    others = [
        Split.of(replace(ENTRY, path="y=2/part-0.parquet"), fingerprint="f", region=two),
        Split.of(replace(ENTRY, size=1_001), fingerprint="f", region=two),
        Split.of(replace(ENTRY, version="v2"), fingerprint="f", region=two),
        Split.of(ENTRY, fingerprint="f", region=RowGroups(0, 2)),
        Split.of(ENTRY, fingerprint="f"),
        Split.of(ENTRY, fingerprint="g", region=two),
        Split.of(ENTRY, fingerprint="f", region=Rows(0, 2)),
        Split.of(ENTRY, fingerprint="f", region=Rows(0, 1)),
    ]
    assert len({base.id, *(split.id for split in others)}) == 9
    assert Split.of(ENTRY, fingerprint="f", region=two, size=5).id == base.id
    assert len(base.id) == 16
    assert int(base.id, 16) >= 0


def test_an_id_is_the_same_tomorrow() -> None:
    # A change here makes every earlier output foreign: raise RESULTS_VERSION with it, knowingly.
    assert Split.of(ENTRY, fingerprint="f").id == "ccad0943df359497"
    groups, rows = RowGroups(0, 3), Rows(128, 64)
    assert Split.of(ENTRY, fingerprint="f", region=groups).id == "de23f3a9b662f386"
    assert Split.of(ENTRY, fingerprint="f", region=rows).id == "b6390c9d8803c6c6"


@pytest.mark.parametrize(
    "stem", ["a", "a-rows", "a-rows0", "a-7", "a-3-7", "a-all", "a-rows0000000000-0000000063"]
)
def test_a_name_tells_a_range_of_rows_from_row_groups_whatever_the_input_is_called(
    stem: str,
) -> None:
    regions = [WHOLE, RowGroups(3, 17), RowGroups(0, 0), Rows(0, 64), Rows(64, 1), Rows(0, 10**12)]
    for region in regions:
        split = Split.of(replace(ENTRY, path=f"{stem}.parquet"), fingerprint="f", region=region)
        found = OUTPUT_NAME.match(split.output_path)
        assert found is not None
        assert (found["stem"], found["region"], found["id"]) == (stem, region.name, split.id)


def test_the_outputs_of_ranges_of_rows_are_in_order_by_name() -> None:
    regions = [Rows(first, 64) for first in range(0, 20_000, 64)]
    made = [Split.of(ENTRY, fingerprint="f", region=region).output_path for region in regions]
    assert made == sorted(made)


@pytest.mark.parametrize(
    ("path", "region", "shape"),
    [
        ("a.parquet", WHOLE, "a-all-{id}.parquet"),
        ("y=1/m=2/a.parquet", WHOLE, "y=1/m=2/a-all-{id}.parquet"),
        ("y=1/a.pq", RowGroups(3, 17), "y=1/a-3-17-{id}.parquet"),
        ("a.b.PARQ", RowGroups(0, 0), "a.b-0-0-{id}.parquet"),
        ("über 1.parquet", WHOLE, "über 1-all-{id}.parquet"),
    ],
)
def test_an_output_keeps_the_directory_and_the_stem(path: str, region: Region, shape: str) -> None:
    split = Split.of(replace(ENTRY, path=path), fingerprint="f", region=region)
    assert split.output_path == shape.format(id=split.id)


@pytest.mark.parametrize("letter", ["n", "ü", "語", "🙂"])
def test_the_name_of_an_output_fits_a_file_system_and_stays_utf8(
    tmp_path: Path, letter: str
) -> None:
    longest = 255 - len(".parquet")
    for spare in range(4):
        stem = "n" * spare + letter * ((longest - spare) // len(letter.encode()))
        entry = replace(ENTRY, path=f"{stem}.parquet")
        split = Split.of(entry, fingerprint="f", region=Rows(10**9, 10**9))
        assert len(split.output_path.encode("utf-8")) <= 255
        assert split.output_path.startswith(stem[:20])
        (tmp_path / split.output_path).touch()


def test_inputs_that_differ_only_in_suffix_have_outputs_of_their_own() -> None:
    paths = ("a.parquet", "a.pq", "a.parq")
    made = {Split.of(replace(ENTRY, path=p), fingerprint="f").output_path for p in paths}
    assert len(made) == 3


def test_a_small_file_is_one_split(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", rows=100, row_group_size=10)
    dataset = open_source(str(tmp_path))
    files = dataset.listing().files
    (split,) = splits_of(dataset.store, files, fingerprint="f")
    assert split.region == WHOLE
    assert (split.path, split.size, split.version) == (
        files[0].path,
        files[0].size,
        files[0].version,
    )


def test_a_large_file_that_is_broken_is_one_split_that_fails_later(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"x" * 500 + b"PAR1")
    dataset = open_source(str(tmp_path))
    (split,) = splits_of(dataset.store, dataset.listing().files, fingerprint="f", cut=Cut(bytes=10))
    assert split.region == WHOLE


def test_planning_twice_gives_the_same_ids_until_a_file_changes(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", rows=100, row_group_size=10)

    def ids() -> list[str]:
        dataset = open_source(str(tmp_path))
        made = splits_of(
            dataset.store, dataset.listing().files, fingerprint="f", cut=Cut(bytes=300)
        )
        return [split.id for split in made]

    before = ids()
    assert ids() == before
    os.utime(file, ns=(5, 5))
    assert not set(ids()) & set(before)


FINGERPRINT = "f"


def split_of(path: str, version: str = "v1") -> Split:
    return Split.of(Entry(path, 10, version), fingerprint=FINGERPRINT)


def plan(splits: list[Split], outputs: dict[str, Any], **options: Any) -> Any:
    read: list[str] = []

    def look(entries: Sequence[Entry]) -> Iterator[Footer]:
        for entry in entries:
            read.append(entry.path)
            found = outputs[entry.path]
            yield found if isinstance(found, Footer) else Footer(found)

    made = make_plan(
        splits,
        [Entry(path, 5, "o") for path in outputs],
        files=len(splits),
        look=look,
        fingerprint=FINGERPRINT,
        **options,
    )
    return made, read


def footer(split: Split, fingerprint: str = FINGERPRINT) -> dict[str, Any]:
    return {"split": split.id, "input": split.path, "fingerprint": fingerprint, "job": "old-job"}


def test_without_outputs_everything_is_to_do() -> None:
    splits = [split_of("a.parquet"), split_of("b.parquet")]
    made, _ = plan(splits, {})
    assert (made.todo, made.done, made.splits) == (splits, [], 2)


def test_what_is_committed_is_done_and_no_footer_is_read_where_the_size_is_known() -> None:
    splits = [split_of("a.parquet"), split_of("y=1/b.parquet"), split_of("c.parquet")]
    outputs = {split.output_path: footer(split) for split in splits[:2]}
    made, read = plan(splits, outputs, known=lambda entry: entry.size == 5)
    assert made.done == splits[:2]
    assert made.todo == splits[2:]
    assert read == []


def test_an_output_of_an_earlier_version_is_outdated() -> None:
    old, new = split_of("y=1/a.parquet", "v1"), split_of("y=1/a.parquet", "v2")
    made, _ = plan([new], {old.output_path: footer(old)})
    assert made.todo == [new]
    assert made.outdated == {new.path: [old.output_path]}
    assert made.vanished == []


def test_an_outdated_output_beside_its_successor_is_still_told() -> None:
    old, new = split_of("a.parquet", "v1"), split_of("a.parquet", "v2")
    made, _ = plan([new], {old.output_path: footer(old), new.output_path: footer(new)})
    assert (made.todo, made.done) == ([], [new])
    assert made.outdated == {new.path: [old.output_path]}


def test_outputs_of_all_runs_of_an_earlier_version_are_outdated() -> None:
    entry = Entry("a.parquet", 10, "v1")
    old = [Split.of(entry, fingerprint=FINGERPRINT, region=RowGroups(i, i)) for i in range(3)]
    new = split_of("a.parquet", "v2")
    made, _ = plan([new], {split.output_path: footer(split) for split in old})
    assert sorted(made.outdated[new.path]) == sorted(split.output_path for split in old)


def test_an_output_whose_input_is_gone_is_vanished() -> None:
    here, gone = split_of("a.parquet"), split_of("b.parquet")
    made, _ = plan([here], {gone.output_path: footer(gone)})
    assert made.vanished == [gone.output_path]
    assert made.outdated == {}


@pytest.mark.parametrize("path", ["theirs.parquet", "y=1/a-all-0123456789abcdef.parquet"])
def test_a_file_that_shardscribe_did_not_write_is_refused(path: str) -> None:
    with pytest.raises(JobError, match=r"holds .*, which shardscribe did not write") as caught:
        plan([split_of("a.parquet")], {path: {}})
    assert path in str(caught.value)


def test_an_output_of_a_job_that_gives_other_results_is_refused() -> None:
    old = Split.of(Entry("a.parquet", 10, "v1"), fingerprint="other")
    with pytest.raises(JobError) as caught:
        plan([split_of("a.parquet")], {old.output_path: footer(old, "other")})
    said = str(caught.value)
    assert old.output_path in said
    assert "old-job" in said
    assert "Choose another output directory" in said


def test_what_differs_between_two_jobs_is_named() -> None:
    old = Split.of(Entry("a.parquet", 10, "v1"), fingerprint="other")
    before = {**footer(old, "other"), "fingerprint_parts": {"text": "body", "dtype": "auto"}}
    with pytest.raises(JobError) as caught:
        plan(
            [split_of("a.parquet")],
            {old.output_path: before},
            parts={"text": "title", "dtype": "auto"},
        )
    said = str(caught.value)
    assert "text" in said
    assert "body" in said
    assert "title" in said
    assert "dtype" not in said


def test_superseding_takes_outputs_of_another_job_for_outdated() -> None:
    here = split_of("a.parquet")
    old = Split.of(Entry("a.parquet", 10, "v1"), fingerprint="other")
    gone = Split.of(Entry("b.parquet", 10, "v1"), fingerprint="other")
    outputs = {split.output_path: footer(split, "other") for split in (old, gone)}
    made, _ = plan([here], outputs, supersede=True)
    assert made.todo == [here]
    assert made.outdated == {"a.parquet": [old.output_path]}
    assert made.vanished == [gone.output_path]


def test_superseding_spares_a_file_that_shardscribe_did_not_write() -> None:
    with pytest.raises(JobError, match="did not write"):
        plan([split_of("a.parquet")], {"theirs.parquet": {}}, supersede=True)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("a[1].parquet", ["a[1].parquet"]),
        ("part [1]", ["x.parquet"]),
        ("part [1]/x.parquet", ["x.parquet"]),
        ("part [1]/*.parquet", ["x.parquet"]),
        ("what?/", ["y.parquet"]),
        ("a[12].parquet", ["a1.parquet", "a2.parquet"]),
        ("part [2]/*.parquet", []),
        ("a*.parquet", ["a1.parquet", "a2.parquet", "a[1].parquet"]),
    ],
)
def test_a_path_that_is_there_is_taken_as_it_is_written(
    tmp_path: Path, given: str, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ["a[1].parquet", "a1.parquet", "a2.parquet", "part [1]/x.parquet"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "what?").mkdir()
    (tmp_path / "what?" / "y.parquet").write_bytes(b"")
    for address in (given, f"{tmp_path}/{given}"):
        dataset = open_source(address)
        if found:
            assert [entry.path for entry in dataset.listing().files] == found
        else:
            with pytest.raises(JobError, match="matches no file"):
                dataset.listing()


def test_a_damaged_output_is_annotated_anew_in_its_place() -> None:
    good, bad = split_of("a.parquet"), split_of("b.parquet")
    made, _ = plan(
        [good, bad], {good.output_path: footer(good), bad.output_path: Footer(damage="cut short")}
    )
    assert made.done == [good]
    assert made.todo == [replace(bad, replace=True)]
    assert made.damaged == {bad.output_path: "cut short"}


def test_an_output_that_can_not_be_looked_at_is_not_taken_for_damaged() -> None:
    split = split_of("a.parquet")
    made, _ = plan([split], {split.output_path: Footer(unread="Input/output error")})
    assert (made.done, made.todo, made.damaged) == ([split], [], {})
    assert made.unread == {split.output_path: "Input/output error"}


@pytest.mark.parametrize("region", [WHOLE, RowGroups(3, 7), Rows(5, 70)], ids=repr)
@pytest.mark.parametrize("name", ["y=1/a.parquet", "y=1/a.b.pq", "y=1/" + "ä" * 120 + ".parquet"])
def test_a_damaged_output_of_a_changed_input_goes_when_its_successor_is_there(
    name: str, region: Region
) -> None:
    old = Split.of(Entry(name, 10, "v1"), fingerprint="f", region=region)
    new = split_of(name, "v2")
    made, _ = plan([new], {old.output_path: Footer(damage="empty")})
    assert (made.todo, made.outdated, made.vanished) == ([new], {name: [old.output_path]}, [])


def test_a_damaged_output_of_a_vanished_input_is_in_nobodys_way() -> None:
    here, gone = split_of("a.parquet"), split_of("b.parquet")
    made, _ = plan([here], {gone.output_path: Footer(damage="empty")})
    assert (made.todo, made.vanished, made.outdated) == ([here], [gone.output_path], {})


def test_a_damaged_file_that_has_no_name_of_ours_is_refused() -> None:
    with pytest.raises(JobError, match="shardscribe did not write"):
        plan([split_of("a.parquet")], {"theirs.parquet": Footer(damage="empty")})


def test_what_an_outdated_output_is_of_can_not_be_told_while_it_can_not_be_read() -> None:
    old, new = split_of("a.parquet", "v1"), split_of("a.parquet", "v2")
    made, _ = plan([new], {old.output_path: Footer(unread="Input/output error")})
    assert (made.todo, made.outdated, made.vanished) == ([new], {}, [])
    assert made.unread == {old.output_path: "Input/output error"}


def test_what_a_superseded_job_left_of_a_vanished_input_is_in_nobodys_way() -> None:
    here = split_of("a.parquet")
    gone = Split.of(Entry("b.parquet", 10, "v1"), fingerprint="other")
    outputs = {here.output_path: footer(here), gone.output_path: footer(gone, "other")}
    made, _ = plan([here], outputs)
    assert (made.done, made.todo) == ([here], [])
    assert made.vanished == [gone.output_path]


def test_an_output_that_is_all_another_jobs_is_refused_though_its_inputs_are_gone() -> None:
    gone = Split.of(Entry("b.parquet", 10, "v1"), fingerprint="other")
    with pytest.raises(JobError, match="annotated in another way"):
        plan([split_of("a.parquet")], {gone.output_path: footer(gone, "other")})


def test_superseding_that_died_half_way_is_asked_for_again() -> None:
    splits = [split_of("a.parquet"), split_of("b.parquet")]
    old = Split.of(Entry("b.parquet", 10, "v1"), fingerprint="other")
    outputs = {splits[0].output_path: footer(splits[0]), old.output_path: footer(old, "other")}
    with pytest.raises(JobError, match="--supersede"):
        plan(splits, outputs)


def test_footers_of_large_files_are_read_many_at_once_and_once_a_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(16):
        parquet(tmp_path / f"in/{number:02}.parquet", rows=100, row_group_size=10)
    dataset = open_source(str(tmp_path / "in"))
    meeting, opened = threading.Barrier(16, timeout=PATIENCE), []
    plainly = dataset.store.open

    def together(path: str) -> Any:
        opened.append(path)
        meeting.wait()  # as long as not all sixteen are here, none goes on
        return plainly(path)

    monkeypatch.setattr(dataset.store, "open", together)

    def ids() -> list[str]:
        memory = Memory(LocalStore(str(tmp_path / "own")), "inputs")
        files = dataset.listing().files
        made = list(
            splits_of(
                dataset.store,
                files,
                fingerprint="f",
                cut=Cut(bytes=300),
                memory=memory,
            )
        )
        memory.save({entry.path for entry in files})
        return [split.id for split in made]

    before = ids()
    assert len(opened) == 16
    assert len(before) > 16
    assert ids() == before
    assert len(opened) == 16, "and not again"

    meeting = threading.Barrier(1)
    parquet(tmp_path / "in/03.parquet", rows=200, row_group_size=10)
    assert ids() != before
    assert opened[16:] == ["03.parquet"]


def test_a_memory_that_is_damaged_is_no_memory(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    memory = Memory(store, "inputs")
    memory.put("a", "v1", [1, 2])
    memory.put("ü", "v1")
    memory.put("\udcff.parquet", "v1", [4])
    memory.save()
    memory = Memory(store, "inputs")
    assert memory.get("\udcff.parquet", "v1") == [4]
    assert (memory.get("a", "v1"), memory.get("ü", "v1")) == ([1, 2], ())
    assert (memory.get("a", "v2"), memory.get("b", "v1")) == (None, None)
    memory.put("b", "v1", [3])
    memory.save({"b", "ü"})
    assert (Memory(store, "inputs").get("a", "v1"), Memory(store, "inputs").get("b", "v1")) == (
        None,
        [3],
    )
    whole = (tmp_path / "memory/inputs").read_bytes()
    for content in (b"", whole[:-9], whole[: len(whole) // 2], b"PAR1" * 9):
        (tmp_path / "memory/inputs").write_bytes(content)
        assert Memory(store, "inputs").get("b", "v1") is None
