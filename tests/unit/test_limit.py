"""Which splits a run with a limit takes."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.lake.limit import counted, hold_back
from pipeline.lake.plan import Plan
from pipeline.lake.source.open import open_source
from pipeline.lake.split import RowGroups, Rows, Split

pytestmark = pytest.mark.unit


def splits(*names: str) -> list[Split]:
    return [Split(f"{at}", name, 1, "v") for at, name in enumerate(names)]


@pytest.mark.parametrize(
    ("limit", "taken"), [(1, 1), (10, 1), (11, 2), (20, 2), (30, 3), (31, 3), (10**9, 3)]
)
def test_the_first_splits_are_taken_until_there_are_enough_rows(limit: int, taken: int) -> None:
    plan = Plan(todo=splits("a", "b", "c"), done=splits("z"))
    hold_back(plan, limit, count=lambda split: 10)
    assert [split.path for split in plan.todo] == ["a", "b", "c"][:taken]
    assert [split.path for split in plan.held] == ["a", "b", "c"][taken:]
    assert plan.splits == 4


def test_only_as_many_footers_are_read_as_it_takes() -> None:
    asked: list[str] = []

    def count(split: Split) -> int:
        asked.append(split.path)
        return 10

    hold_back(Plan(todo=splits("a", "b", "c")), 10, count=count)
    assert asked == ["a"]


def test_a_large_file_may_be_taken_in_part_but_not_a_changed_one() -> None:
    for outdated, taken in (({}, ["a"]), ({"a": ["a-old.parquet"]}, ["a", "a", "a"])):
        plan = Plan(todo=splits("a", "a", "a", "b"), outdated=outdated)
        hold_back(plan, 1, count=lambda split: 10)
        assert [split.path for split in plan.todo] == taken


def test_rows_are_counted_by_row_groups_and_a_broken_file_has_none(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": range(10)}), tmp_path / "a.parquet", row_group_size=4)
    (tmp_path / "b.parquet").write_bytes(b"")
    count = counted(open_source(str(tmp_path)))
    assert count(Split("1", "a.parquet", 1, "v")) == 10
    assert count(Split("1", "a.parquet", 1, "v", RowGroups(1, 2))) == 6
    assert count(Split("1", "a.parquet", 1, "v", Rows(1, 5))) == 5
    assert count(Split("1", "a.parquet", 1, "v", Rows(8, 5))) == 0
    assert count(Split("1", "b.parquet", 1, "v")) == 0
    assert count(Split("1", "gone.parquet", 1, "v")) == 0
