"""Ranges of a file's rows, read by a reader that goes on where it stands."""

import pickle
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lake.source import open_files
from pipeline.lake.source.files import FileSource
from pipeline.lake.source.open_files import KEPT, OpenFile, OpenFiles
from pipeline.lake.split import WHOLE, Cut, Region, RowGroups, Rows, Split
from pipeline.lake.store.local import LocalStore
from pipeline.lake.store.ranges import BLOCK, Ranges

pytestmark = pytest.mark.unit


def write(path: Path, rows: int, *, group: int | None = None) -> Path:
    table = pa.table({"id": range(rows), "text": [f"text {n}" for n in range(rows)]})
    pq.write_table(table, path, row_group_size=group)
    return path


def opened(path: Path, version: str = "v") -> OpenFile:
    parquet = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    return OpenFile(parquet, ("a.parquet", version))


def ids(file: OpenFile, region: Region) -> list[int]:
    return [row for batch in file.read(region, ["id"]) for row in batch.column(0).to_pylist()]


def split(region: Region, version: str = "v") -> Split:
    return Split("s", "a.parquet", 1, version, region)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lake")


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 500), st.integers(1, 300), st.integers(1, 20), st.data())
def test_a_range_gives_its_rows_wherever_the_reader_stands(
    folder: Path, rows: int, group: int, step: int, data: st.DataObject
) -> None:
    file = opened(write(folder / "a.parquet", rows, group=group))
    groups = file.parquet.num_row_groups
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_files, "STEP_ROWS", step)
        patch.setattr(open_files, "MOST_STEPS", 1)
        for _ in range(data.draw(st.integers(1, 6))):
            match data.draw(st.sampled_from(["rows", "rows", "rows", "groups", "whole"])):
                case "rows":
                    first = data.draw(st.integers(0, rows - 1))
                    last = data.draw(st.integers(first, rows - 1))
                    region: Region = Rows(first, last - first + 1)
                case "groups":
                    begin = data.draw(st.integers(0, groups - 1))
                    region = RowGroups(begin, data.draw(st.integers(begin, groups - 1)))
                case _:
                    region = WHOLE
            begin, end = file.extent(region)
            reading = file.read(region, ["id"])
            if data.draw(st.booleans()):  # whoever stops early leaves it where it is
                next(reading)
                reading.close()
            assert ids(file, region) == list(range(begin, end))
    file.close()


def test_ranges_in_order_are_one_pass_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", 10_000)
    begun: list[list[int]] = []
    plainly = OpenFile._start

    def start(self: OpenFile, groups: range, *rest: Any) -> None:
        begun.append(list(groups))
        plainly(self, groups, *rest)

    monkeypatch.setattr(OpenFile, "_start", start)
    files = OpenFiles()
    for worker in range(2):
        for number in range(worker, 157, 2):  # the other has the splits between
            region = Rows(64 * number, min(64, 10_000 - 64 * number))
            file = files.take(split(region)) or opened(path)
            assert ids(file, region) == list(range(region.first, region.first + region.count))
            files.give(file, split(region))
    assert begun == [[0], [0]]


def test_a_reader_jumps_over_row_groups_that_nobody_wants(tmp_path: Path) -> None:
    file = opened(write(tmp_path / "a.parquet", 100, group=10))
    assert ids(file, Rows(5, 3)) == [5, 6, 7]
    assert file.way_to(8) == 0
    assert file.way_to(9) == 1
    assert file.way_to(4) is None
    assert file.way_to(55) is None, "in another row group"
    assert ids(file, Rows(55, 10)) == list(range(55, 65))
    assert file.way_to(65) == 0


def test_other_columns_are_read_by_another_reader(tmp_path: Path) -> None:
    file = opened(write(tmp_path / "a.parquet", 100))
    assert ids(file, Rows(0, 5)) == [0, 1, 2, 3, 4]
    found = [b.to_pydict() for b in file.read(Rows(5, 2), ["text", "id"])]
    assert found == [{"id": [5, 6], "text": ["text 5", "text 6"]}]


def test_few_readers_are_kept_and_of_the_file_alone_that_was_read_last(tmp_path: Path) -> None:
    path, files = write(tmp_path / "a.parquet", 100), OpenFiles()
    made = [opened(path, "v1") for _ in range(KEPT + 1)]
    for file in made:
        files.give(file, split(Rows(0, 1), "v1"))
    assert [file.parquet.closed for file in made] == [True] + [False] * KEPT
    assert files.take(split(Rows(0, 1), "v0")) is None
    assert files.take(split(WHOLE, "v1")) is None
    assert files.take(split(Rows(0, 1), "v1")) is made[1]
    assert files.take(split(Rows(0, 1), "v1")) is made[2]
    assert files.take(split(Rows(0, 1), "v1")) is None, "they are in use"
    files.give(made[1], split(Rows(0, 1), "v1"))
    assert pickle.loads(pickle.dumps(files)).take(split(Rows(0, 1), "v1")) is None
    whole = opened(path, "v2")
    files.give(whole, split(WHOLE, "v2"))
    assert (whole.parquet.closed, made[1].parquet.closed) == (True, False)
    files.give(opened(path, "v2"), split(Rows(0, 1), "v2"))
    assert made[1].parquet.closed


def test_of_several_open_files_the_nearest_before_the_rows_is_taken(tmp_path: Path) -> None:
    path, files = (write(tmp_path / "a.parquet", 100)), OpenFiles()
    near, far = (opened(path) for _ in range(2))
    ids(near, Rows(40, 10))
    ids(far, Rows(0, 10))
    for file in (near, far):
        files.give(file, split(Rows(0, 1)))
    assert files.take(split(Rows(60, 10))) is near
    files.give(near, split(Rows(0, 1)))
    assert files.take(split(Rows(30, 10))) is far


def test_a_reader_that_failed_starts_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 20_000)
    file = opened(path)
    assert ids(file, Rows(0, 1024)) == list(range(1024))  # a whole number of steps

    def broken() -> None:
        raise ValueError("broken")

    file._batches = iter(broken, None)
    with pytest.raises(ValueError, match="broken"):
        ids(file, Rows(1024, 8))
    assert ids(file, Rows(1024, 8)) == list(range(1024, 1032))


def decoded_at_once(path: Path) -> int:
    with closing(opened(path)) as file:
        return next(iter(file.read(WHOLE, ["id", "text"]))).num_rows


def test_what_is_decoded_at_once_is_bounded_even_if_its_largest_row_repeats(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for size in (1, 1_000, 20_000, 100_000, 900_000):
        texts = ["x" * size, *(f"small {row}" for row in range(3_000))]
        pq.write_table(pa.table({"id": range(3_001), "text": texts}), path)
        rows = decoded_at_once(path)
        assert rows in {8 << more for more in range(8)}
        assert rows == 8 or rows * size <= open_files.STEP_BYTES
    small = write(tmp_path / "b.parquet", 2_000)
    assert decoded_at_once(small) >= 128


def test_a_row_group_that_says_it_holds_nothing_is_read_all_the_same(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(tmp_path / "a.parquet", schema) as writer:
        for rows in (0, 3, 0, 2):
            writer.write_table(pa.table({"id": range(rows), "text": ["x"] * rows}, schema=schema))
    file = opened(tmp_path / "a.parquet")
    assert ids(file, WHOLE) == [0, 1, 2, 0, 1]


def test_behind_the_row_groups_that_were_asked_for_a_reader_starts_anew(tmp_path: Path) -> None:
    file = opened(write(tmp_path / "a.parquet", 30, group=10))
    assert ids(file, RowGroups(0, 0)) == list(range(10))
    assert file.way_to(10) is None
    assert ids(file, Rows(10, 5)) == [10, 11, 12, 13, 14]


@pytest.mark.parametrize("columns", [["id", "text"], ["id"]])
def test_all_ranges_of_a_large_row_group_cost_each_worker_one_pass_over_the_columns_asked_for(
    tmp_path: Path, columns: list[str]
) -> None:
    noise = np.random.default_rng(0)
    table = pa.table({"id": range(40_000), "text": [noise.bytes(100).hex() for _ in range(40_000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=40_000, data_page_size=8192)
    size, fetched = (tmp_path / "a.parquet").stat().st_size, 0

    class Remote(LocalStore):
        """Read by ranges, as an object store is."""

        def open(self, path: str) -> pa.PythonFile:
            raw = (self.base / path).read_bytes()

            def fetch(start: int, end: int) -> bytes:
                nonlocal fetched
                fetched += end - start
                return raw[start:end]

            return pa.PythonFile(Ranges(fetch, len(raw)), mode="r")

    source = FileSource(Remote(str(tmp_path)), str(tmp_path))
    files = source.listing().files
    splits = list(source.splits(files, fingerprint="f", cut=Cut(rows=64)))
    assert len(splits) == 625
    fetched = 0
    workers = [replace(source, kept=OpenFiles()) for _ in range(2)]
    rows: list[int] = []
    for number, split in enumerate(splits):
        with closing(workers[number % 2].open(split)) as found:
            for batch in found.batches(columns):
                rows += batch.column("id").to_pylist()
    assert rows == list(range(40_000))
    of_columns = size if columns == ["id", "text"] else size // 10
    assert fetched < 2 * of_columns + 2 * 3 * BLOCK, "a footer and what blocks are too much"
