"""What statistics rule out is not read; and nothing else is left out for it."""

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.conditions.bounds import Bounds, may_hold_within
from pipeline.conditions.condition import rows_where
from pipeline.lake.source.choice import Choice
from pipeline.lake.source.open import open_source
from pipeline.lake.source.statistics import bounds_of
from pipeline.lake.split import WHOLE, Region, Rows, Split
from pipeline.lake.store.local import LocalStore

pytestmark = pytest.mark.unit

TABLE = pa.table(
    {
        "n": pa.array([1, 2, None, 5, 6, 7, None, None, None], pa.int16()),
        "t": ["a", "b", "b", "c", "cc", "d", None, "x", "y"],
        "day": [dt.date(2024, 1, day) for day in range(1, 10)],
        "at": [dt.datetime(2024, 1, day, 12) for day in range(1, 10)],
        "yes": [True] * 3 + [False] * 6,
        "f": [1.0, 2.0, 3.0, 4.0, float("nan"), 6.0, 7.0, 8.0, 9.0],
        "lang": pa.array(["en"] * 6 + ["de"] * 3).dictionary_encode(),
    }
)
PARTS = [
    "n > 5", "n <= 2", "5 < n", "n = 4", "n <> 1", "n IS NULL", "n IS NOT NULL", "n IN (2, 7)",
    "n NOT IN (1, 2)", "n BETWEEN 3 AND 5", "n NOT BETWEEN 3 AND 5", "n + 1 = 6", "t = 'c'",
    "t > 'cb'", "t LIKE 'c%'", "t IS NULL", "t < 'b'", "day >= '2024-01-08'", "at < '2024-01-02'",
    "yes", "NOT yes", "yes = TRUE", "f > 5", "f < 2", "lang = 'de'", "lang > 'ea'", "n = NULL",
    "coalesce(n, 0) = 0", "n = 2.5", "n < 1e9", "day = at", "NULL", "TRUE",
]  # fmt: skip


def conditions() -> st.SearchStrategy[str]:
    return st.recursive(
        st.sampled_from(PARTS),
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(
                lambda p: f"({' '.join(p)})"
            ),
            inner.map(lambda part: f"NOT ({part})"),
        ),
        max_leaves=5,
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> pq.ParquetFile:
    path = tmp_path_factory.mktemp("groups") / "a.parquet"
    pq.write_table(TABLE, path, row_group_size=3)
    return pq.ParquetFile(path)


@settings(max_examples=150, deadline=None)
@given(conditions())
def test_no_row_group_is_ruled_out_that_holds_a_row_that_passes(
    file: pq.ParquetFile, where: str
) -> None:
    for group, bounds in enumerate(bounds_of(file, TABLE.column_names)):
        passes = any(rows_where(where, TABLE.slice(3 * group, 3)))
        assert may_hold_within(where, bounds) or not passes


@pytest.mark.parametrize(
    ("where", "groups"),
    [
        ("n > 5", [1]),
        ("2 >= n", [0]),
        ("n = 4", []),
        ("n IS NULL", [0, 2]),
        ("n IS NOT NULL", [0, 1]),
        ("n IN (2, 99)", [0]),
        ("n BETWEEN 3 AND 5", [1]),
        ("t > 'cb' AND day < '2024-01-07'", [1]),
        ("day >= '2024-01-08' OR at < '2024-01-02'", [0, 2]),
        ("lang = 'de'", [2]),
        ("yes", [0]),
        ("f > 99", [0, 1, 2]),
        ("n % 2 = 9", [0, 1]),
    ],
)
def test_what_bounds_tell_is_made_use_of(
    file: pq.ParquetFile, where: str, groups: list[int]
) -> None:
    found = [may_hold_within(where, bounds) for bounds in bounds_of(file, TABLE.column_names)]
    assert [group for group, may in enumerate(found) if may] == groups


def test_a_file_without_statistics_is_read(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet", write_statistics=False)
    assert [*bounds_of(pq.ParquetFile(tmp_path / "a.parquet"), TABLE.column_names)] == [{}]
    assert may_hold_within("n = 99", {})
    assert not may_hold_within("n = 99", {"n": Bounds.exactly(pa.scalar(1))})


class Counted(LocalStore):
    """Counts the bytes that are read of files."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.reads: list[tuple[int, int]] = []

    def open(self, path: str) -> Any:
        raw, reads = (self.base / path).open("rb"), self.reads

        class File:
            closed = False

            def read(self, size: int = -1) -> bytes:
                at, found = raw.tell(), raw.read(size)
                reads.append((at, at + len(found)))
                return found

            def __getattr__(self, name: str) -> Any:
                return getattr(raw, name)

        return pa.PythonFile(File(), mode="r")


@pytest.mark.parametrize("region", [WHOLE, Rows(0, 4000), Rows(500, 3000)], ids=str)
def test_row_groups_that_statistics_rule_out_are_not_read(tmp_path: Path, region: Region) -> None:
    texts = [f"{n} {hash(str(n))}" for n in range(4000)]
    table = pa.table({"id": range(4000), "text": texts})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1000, compression="none")
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    columns = [[metadata.row_group(g).column(c) for c in range(2)] for g in range(4)]
    starts = [min(c.dictionary_page_offset or c.data_page_offset for c in cs) for cs in columns]
    store = Counted(str(tmp_path))
    source = open_source(str(tmp_path), choice=Choice("id BETWEEN 1900 AND 2004"))
    object.__setattr__(source, "store", store)
    split = Split.of(source.listing().files[0], fingerprint="f", region=region)
    opened = source.open(split)
    tables = [*opened.batches(["id", "text"])]
    found = [row["id"] for table in tables for row in table.to_pylist()]
    assert found == [*range(1900, 2005)]
    assert [opened.place(row) for row in (0, 104)] == [1900, 2004]
    touched = {sum(at >= start for start in starts) - 1 for at, end in store.reads if end > at}
    footer = 3  # it stands behind the last row group
    assert touched - {footer, -1} == {1, 2}
    opened.close()
