"""How files are cut into splits: each row once, by the job and the file alone."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import JobError
from pipeline.job.file import job_text, load_job
from pipeline.job.input import SLOW_ROWS, SLOW_TEXT
from pipeline.job.job import Job, fingerprint
from pipeline.lake.memory import Memory
from pipeline.lake.plan import Plan, make_plan
from pipeline.lake.sink.footers import Footer
from pipeline.lake.source.cut import splits_of
from pipeline.lake.source.open import open_source
from pipeline.lake.split import WHOLE, Cut, Region, RowGroups, Rows, Split
from pipeline.lake.store.base import Entry
from pipeline.lake.store.local import LocalStore
from pipeline.models.resolve import ModelInfo
from pipeline.planning import told
from pipeline.verify import uncovered

pytestmark = pytest.mark.unit

SLOW = Cut(rows=SLOW_ROWS, text_bytes=SLOW_TEXT, texts=("text",))


def write(path: Path, rows: int, *, group: int | None = None, text: str = "some text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": range(rows), "text": [f"{n} {text}" for n in range(rows)]})
    pq.write_table(table, path, row_group_size=group, use_dictionary=False, compression="none")
    return path


def cut_up(path: Path, cut: Cut, *, there: Sequence[str] = (), **options: Any) -> list[Split]:
    dataset = open_source(str(path))
    files = dataset.listing().files
    return list(
        splits_of(dataset.store, files, fingerprint="f", cut=cut, there=set(there), **options)
    )


def rows_in(path: Path, splits: Sequence[Split]) -> list[int]:
    """The rows of all splits, one after another."""
    source, rows = open_source(str(path)), []
    for split in splits:
        with closing(source.open(split)) as found:
            rows += range(found.first, found.first + found.rows)
    return rows


CUTS = st.builds(
    Cut,
    bytes=st.none() | st.integers(1, 20_000),
    range_bytes=st.integers(1, 4_000),
    rows=st.none() | st.integers(1, 400),
    text_bytes=st.none() | st.integers(1, 4_000),
    texts=st.just(("text",)),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lake")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 900), st.integers(1, 400), CUTS, st.data())
def test_each_row_is_in_one_split_however_a_file_is_cut_and_was_cut_before(
    folder: Path, rows: int, group: int, cut: Cut, data: st.DataObject
) -> None:
    path = write(folder / "a.parquet", rows, group=group)
    made = cut_up(path, cut)
    assert rows_in(path, made) == list(range(rows))
    assert len({split.id for split in made}) == len({s.output_path for s in made}) == len(made)
    assert cut_up(path, cut) == made

    coarse = [s.output_path for s in cut_up(path, Cut(bytes=cut.bytes, range_bytes=10**9))
              if not isinstance(s.region, Rows)]  # fmt: skip
    there = data.draw(st.lists(st.sampled_from(coarse), unique=True) if coarse else st.just([]))
    kept = cut_up(path, cut, there=there)
    assert rows_in(path, kept) == list(range(rows))
    assert set(there) <= {split.output_path for split in kept}


def test_a_large_file_is_cut_into_runs_of_row_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 1_000, group=100)
    size = path.stat().st_size
    made = cut_up(path, Cut(bytes=size // 4))
    assert [split.region for split in made] == [RowGroups(0, 1), RowGroups(2, 3), RowGroups(4, 5),
                                                RowGroups(6, 7), RowGroups(8, 9)]  # fmt: skip
    assert sum(split.size for split in made) <= size


def test_a_row_group_that_is_too_large_is_cut_into_ranges_of_one_size(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 1_000)
    made = cut_up(path, Cut(bytes=8_000, range_bytes=2_000))
    counts = [split.region.count for split in made if isinstance(split.region, Rows)]
    assert len(counts) == len(made) > 8
    assert len({split.size for split in made}) == 1, "so that sorting by size keeps their order"
    assert max(counts) - min(counts[:-1]) == 0 < counts[-1] <= counts[0]


def test_so_many_rows_are_a_split_across_row_groups_and_the_last_has_the_rest(
    tmp_path: Path,
) -> None:
    write(tmp_path / "a.parquet", 25, group=4)
    made = cut_up(tmp_path, Cut(bytes=None, rows=10))
    assert [split.region for split in made] == [Rows(0, 10), Rows(10, 10), Rows(20, 5)]
    (split,) = cut_up(tmp_path, Cut(bytes=None, rows=25))
    assert split.region == WHOLE


def test_where_a_language_model_works_splits_are_small_and_smaller_of_long_texts(
    tmp_path: Path,
) -> None:
    write(tmp_path / "short.parquet", 1_000)
    assert {s.region.count for s in cut_up(tmp_path / "short.parquet", SLOW)} == {64, 1_000 % 64}  # type: ignore[union-attr]
    write(tmp_path / "long.parquet", 100, text="x" * 8_000)
    assert {s.region.count for s in cut_up(tmp_path / "long.parquet", SLOW)} == {8, 100 % 8}  # type: ignore[union-attr]
    write(tmp_path / "huge.parquet", 3, text="x" * 100_000)
    assert {s.region.count for s in cut_up(tmp_path / "huge.parquet", SLOW)} == {1}  # type: ignore[union-attr]
    write(tmp_path / "few.parquet", 64)
    assert [s.region for s in cut_up(tmp_path / "few.parquet", SLOW)] == [WHOLE]


def test_a_file_without_rows_is_a_split(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 0)
    for cut in (Cut(), SLOW, Cut(bytes=1), Cut(bytes=None, rows=1)):
        assert [split.region for split in cut_up(tmp_path, cut)] == [WHOLE]


def test_footers_are_read_only_where_they_decide_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in/a.parquet", 200)
    write(tmp_path / "in/b.parquet", 2_000)
    opened: list[str] = []
    plainly = LocalStore.open
    monkeypatch.setattr(
        LocalStore, "open", lambda self, path: opened.append(path) or plainly(self, path)
    )
    cut_up(tmp_path / "in", Cut())
    assert opened == []
    cut_up(tmp_path / "in", Cut(bytes=20_000))
    assert opened == ["b.parquet"]
    opened.clear()
    whole = [split.output_path for split in cut_up(tmp_path / "in", Cut())]
    cut_up(tmp_path / "in", SLOW, there=whole[:1])
    assert opened == ["b.parquet"], "the other is done in one piece"
    opened.clear()
    for _ in range(2):
        memory = Memory(LocalStore(str(tmp_path / "own")), "inputs")
        cut_up(tmp_path / "in", SLOW, memory=memory)
        memory.save()
    assert sorted(opened) == ["a.parquet", "b.parquet"]


def test_what_is_remembered_of_a_file_is_of_its_size_and_of_the_columns_asked_for(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "in/a.parquet", 500, text="x" * 2_000)
    store = LocalStore(str(tmp_path / "own"))
    memory = Memory(store, "inputs")
    assert len(cut_up(path, SLOW, memory=memory)) > 10
    other = Cut(rows=SLOW_ROWS, text_bytes=SLOW_TEXT, texts=("id",))
    assert len(cut_up(path, other, memory=memory)) == 8
    (entry,) = open_source(str(path)).listing().files
    # As a version before kept it: the sizes of row groups alone.
    memory = Memory(store, "inputs")
    memory.put("a.parquet", entry.version, [7, 7, 7, 7])
    assert rows_in(path, cut_up(path, SLOW, memory=memory)) == list(range(500))


def plan(splits: list[Split], outputs: Sequence[Split]) -> Plan:
    files = {split.output_path: split for split in outputs}

    def look(entries: Sequence[Entry]) -> list[Footer]:
        found = [files[entry.path] for entry in entries]
        return [
            Footer({"split": split.id, "input": split.path, "fingerprint": "f"}) for split in found
        ]

    there = [Entry(path, 1, "v") for path in files]
    return make_plan(splits, there, files=1, look=look, fingerprint="f")


def test_what_an_earlier_version_annotated_in_one_piece_is_done(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 1_000)
    before = cut_up(path, Cut())
    made = plan(cut_up(path, SLOW, there=[before[0].output_path]), before)
    assert (made.done, made.todo, made.outdated) == (before, [], {})


def test_what_an_earlier_version_annotated_in_part_is_cut_anew_for_the_rest(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.parquet", 1_000, group=100)
    runs = cut_up(path, Cut(bytes=path.stat().st_size // 4))
    fine = Cut(bytes=path.stat().st_size // 4, rows=64)
    made = plan(cut_up(path, fine, there=[runs[1].output_path]), runs[1:2])
    assert made.done == [runs[1]]
    assert rows_in(path, made.todo) == [*range(200), *range(400, 1_000)]
    assert made.outdated == {}


def test_of_rows_that_are_there_in_one_piece_and_in_ranges_the_ranges_go(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 1_000)
    whole, ranges = cut_up(path, Cut()), cut_up(path, SLOW)
    there = [split.output_path for split in (*whole, *ranges[:3])]
    made = plan(cut_up(path, SLOW, there=there), [*whole, *ranges[:3]])
    assert (made.done, made.todo) == (whole, [])
    assert made.outdated == {"a.parquet": sorted(s.output_path for s in ranges[:3])}


def job(split: Any = "auto") -> Job:
    return Job.model_validate(
        {
            "name": "j",
            "input": {"path": "in", "split": split},
            "output": {"path": "out"},
            "tasks": {"t": {"kind": "ner", "model": "m"}},
        }
    )


def test_a_fingerprint_says_nothing_of_splits_until_a_job_names_their_size() -> None:
    plain = job().fingerprint_parts({"m": "r"})
    assert "split" not in plain
    sized = [job({"rows": 64}), job({"rows": 65}), job({"bytes": "1MB"}), job({"bytes": 1_000_000})]
    made = [one.fingerprint_parts({"m": "r"}) for one in sized]
    assert [parts["split"] for parts in made] == [
        "64 rows", "65 rows", "1000000 bytes", "1000000 bytes"
    ]  # fmt: skip
    assert len({fingerprint(parts) for parts in (plain, *made)}) == 4


def test_the_sizes_of_splits_are_the_same_tomorrow() -> None:
    # Others give an output other names: what is there has to be taken for done all the same.
    assert Cut() == Cut(bytes=256 * 2**20, range_bytes=8 * 2**20)
    assert (SLOW_ROWS, SLOW_TEXT) == (64, 64 * 1024)


CHAT, SEQ2SEQ, ENCODER, NLI, FINDER = (
    ModelInfo("m", {"architectures": ["LlamaForCausalLM"]}, chat_template=True),
    ModelInfo("m", {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}),
    ModelInfo("m", {"architectures": ["BertModel"]}),
    ModelInfo("m", {"architectures": ["BertForSequenceClassification"],
                    "label2id": {"entailment": 0, "neutral": 1}}),
    ModelInfo("m", {"architectures": ["BertForQuestionAnswering"]}),
)  # fmt: skip


@pytest.mark.parametrize(
    ("task", "model", "slow"),
    [
        ({"kind": "generate", "instruction": "Say it"}, CHAT, True),
        ({"kind": "translate", "target": "fra"}, SEQ2SEQ, True),
        ({"kind": "summarize", "method": "abstractive"}, CHAT, True),
        ({"kind": "summarize", "method": "extractive"}, ENCODER, False),
        ({"kind": "answer", "question": "Who?"}, CHAT, True),
        ({"kind": "answer", "question": "Who?"}, FINDER, False),
        ({"kind": "zero_shot", "labels": ["a", "b"]}, CHAT, True),
        ({"kind": "zero_shot", "labels": ["a", "b"]}, NLI, False),
        ({"kind": "zero_shot", "labels": ["a", "b"]}, ENCODER, False),
        ({"kind": "classify"}, NLI, False),
        ({"kind": "embed"}, ENCODER, False),
        ({"kind": "embed"}, CHAT, False),
    ],
)
def test_splits_are_small_where_a_language_model_reads_or_writes(
    task: dict[str, Any], model: ModelInfo, slow: bool
) -> None:
    made = job()
    quick = {"kind": "ner", "model": "q"}
    tasks = {"t": {"model": "m"} | task, "u": quick}
    made = Job.model_validate(made.model_dump(exclude={"tasks"}) | {"tasks": tasks})
    made.bind({"m": model, "q": ModelInfo("q", {"architectures": ["BertForTokenClassification"]})})
    assert (made.cut == Cut()) is not slow
    assert made.cut.rows == (64 if slow else None)
    assert not slow or made.cut.texts == ("text",)


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("small", "write auto, {rows: 1000} or {bytes: 64MB}"),
        (64, "write auto, {rows: 1000} or {bytes: 64MB}"),
        (True, "write auto, {rows: 1000} or {bytes: 64MB}"),
        (["rows"], "write auto, {rows: 1000} or {bytes: 64MB}"),
        ({}, "write auto, {rows: 1000} or {bytes: 64MB}"),
        ({"rows": 5, "bytes": 5}, "write auto, {rows: 1000} or {bytes: 64MB}"),
        (None, "Write a value behind it, or remove the line"),
        ({"rows": 0}, "`input.split.rows` must be at least 1, not 0"),
        ({"rows": -3}, "`input.split.rows` must be at least 1, not -3"),
        ({"rows": 1.5}, "`input.split.rows` must be a whole number, not 1.5"),
        ({"rows": "many"}, "`input.split.rows` must be a whole number, not 'many'"),
        ({"rows": True}, "`input.split.rows` must be a whole number, not true"),
        ({"bytes": "64 MiB"}, "'64 MiB' is no size: write 4MB, 500kB or a number of bytes"),
        ({"bytes": 0}, "`input.split.bytes` must be more than 0, not 0"),
        ({"row": 5}, "write auto, {rows: 1000} or {bytes: 64MB}"),
    ],
)
def test_a_size_of_splits_that_makes_no_sense_is_told_in_one_line(
    tmp_path: Path, split: Any, said: str
) -> None:
    text = yaml.safe_dump(
        {
            "name": "j",
            "input": {"path": "in", "split": split},
            "output": {"path": "out"},
            "tasks": {"t": {"kind": "ner", "model": "m"}},
        }
    )
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(JobError) as caught:
        load_job(tmp_path / "job.yaml")
    (line,) = str(caught.value).splitlines()
    assert said in line
    assert "input.split" in line


def test_a_size_of_splits_may_be_set_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "{name: j, input: {path: in}, output: {path: out}, tasks: {t: {kind: ner, model: m}}}"
    )
    made = load_job(tmp_path / "job.yaml", overrides=["input.split.rows=10"])
    assert made.cut == Cut(bytes=None, rows=10)
    assert load_job(tmp_path / "job.yaml", overrides=["input.split={bytes: 2MB}"]).cut == Cut(
        bytes=2 * 10**6, range_bytes=2 * 10**6
    )
    (tmp_path / "job.yaml").write_text(job_text(made))
    assert load_job(tmp_path / "job.yaml").input == made.input


@pytest.mark.parametrize(
    ("regions", "sizes", "said"),
    [
        ([Rows(0, 128), Rows(128, 128)], [5, 5], "256 rows in 2 splits of 128 rows"),
        ([Rows(0, 1000), Rows(1000, 500)], [5, 5], "1,500 rows in 2 splits of up to 1,000 rows"),
        ([Rows(0, 1)], [5], "1 rows in 1 split of 1 rows"),
        ([WHOLE], [4_200_000], "4.2 MB in 1 split of 4.2 MB"),
        ([WHOLE, Rows(0, 64)], [900, 2_100], "3.0 kB in 2 splits of up to 2.1 kB"),
        ([RowGroups(0, 1), RowGroups(2, 3)], [0, 0], "0 B in 2 splits of 0 B"),
    ],
)
def test_the_head_of_a_run_tells_how_many_splits_there_are_and_how_large(
    regions: list[Region], sizes: list[int], said: str
) -> None:
    todo = [Split("s", "a", n, "v", region) for region, n in zip(regions, sizes, strict=True)]
    assert told(Plan(todo=todo)) == said


def test_a_file_that_is_not_cut_well_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 100, group=10)
    source = open_source(str(path))
    (entry,) = source.listing().files

    def said(*regions: Region) -> list[str]:
        splits = [Split.of(entry, fingerprint="f", region=region) for region in regions]
        return list(uncovered(source, splits))

    assert said(WHOLE) == said(Rows(0, 64), Rows(64, 36)) == []
    assert said(RowGroups(0, 3), Rows(40, 20), RowGroups(6, 9)) == []
    assert said(Rows(0, 64)) == ["a.parquet is not cut well: rows 64 and 100 should be one"]
    assert len(said(Rows(0, 64), Rows(63, 37))) == len(said(Rows(0, 64), Rows(65, 35))) == 1
    assert len(said(RowGroups(1, 9))) == 1
    assert said(Rows(0, 64), Rows(64, 37)) == [], "which compare tells: it is not in the file"


def test_splits_of_another_size_than_an_output_has_are_refused_with_both(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 100)
    (before,) = cut_up(path, Cut())
    was = {"dtype": "float32"}
    footer = {"split": before.id, "input": before.path, "fingerprint": "g", "job": "j",
              "fingerprint_parts": was}  # fmt: skip
    with pytest.raises(JobError, match=r"split was not set, is 10 rows.*--supersede"):
        make_plan(
            cut_up(path, Cut(bytes=None, rows=10)),
            [Entry(before.output_path, 1, "v")],
            files=1,
            look=lambda entries: [Footer(footer) for _ in entries],
            fingerprint="f",
            parts={**was, "split": str(job({"rows": 10}).input.split)},
        )
