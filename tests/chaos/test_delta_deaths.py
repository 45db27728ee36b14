"""kill -9 at each step of a Delta table's transaction and at random, also beside another writer."""

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from dying_runs import AFTER, BEFORE, die_at, kill_at_random
from helpers import own
from table_jobs import added_once, ids, log, run, write, write_job

pytestmark = pytest.mark.chaos

# SHARDSCRIBE_ROUNDS=6 is 30 random kills with another writer, and as many without.
KILLS = 5 * int(os.environ.get("SHARDSCRIBE_ROUNDS", "1"))
SEED = 20_261_201
OTHERS = 1_000_000


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    write(tmp_path / "lake", "a", 1, 2)
    write(tmp_path / "lake", "b", 3)
    return tmp_path / "lake"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def job(lake: Path, tmp_path: Path) -> str:
    return write_job(tmp_path)


@pytest.mark.parametrize("table", ["made", "there"])
@pytest.mark.parametrize("step", [*BEFORE, *AFTER])
def test_a_run_that_dies_is_finished_by_the_next_in_one_transaction(
    job: str, lake: Path, out: Path, step: str, table: str
) -> None:
    first = table == "there"
    if first:
        run(job)
        write(lake, "a", 1, 20)
        write(lake, "c", 4)
    before = DeltaTable(out).version() if first else -1
    rows = ids(out) if first else []
    die_at(step, job)
    wanted = [1, 3, 4, 20] if first else [1, 2, 3]
    seen = ids(out) if (out / "_delta_log").exists() else []
    assert seen == (wanted if step in AFTER else rows), "all of the run is seen, or nothing"
    summary = run(job)
    assert summary.exit_code == 0
    assert ids(out) == wanted
    assert DeltaTable(out).version() == before + 1
    added_once(out)
    assert run(job).state == "nothing to do"
    assert DeltaTable(out).version() == before + 1


def test_lists_of_runs_that_died_are_no_one_s_and_a_second_run_of_one_id_adds_nothing(
    job: str, lake: Path, out: Path
) -> None:
    die_at("after its list", job)
    die_at("before its transaction", job)
    assert len([*own(out).rglob("*.list")]) == 2
    assert run(job).exit_code == 0
    assert (ids(out), DeltaTable(out).version()) == ([1, 2, 3], 0)


@contextmanager
def another_writer(out: Path) -> Iterator[list[int]]:
    """Appends rows of its own and compacts the table, all the time; gives what it appended."""
    ended = threading.Event()
    appended: list[int] = []

    def work() -> None:
        while not ended.is_set():
            # It loses races, as we do, and is not as patient.
            with suppress(DeltaError, OSError):
                table = DeltaTable(out)
                number = OTHERS + len(appended)
                row = pa.table({"id": [number]})
                write_deltalake(table, row, mode="append", schema_mode="merge")
                appended.append(number)
                DeltaTable(out).optimize.compact()
            time.sleep(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield appended
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    ("beside", "every"), [("nobody", None), ("another writer", None), ("nobody", 2)]
)
def test_killed_at_random_again_and_again_each_row_is_in_the_table_once(
    lake: Path, tmp_path: Path, out: Path, beside: str, every: int | None
) -> None:
    job = write_job(tmp_path, output={"commit_every": every})
    chance = random.Random(f"{SEED} {beside}")
    wanted = [1, 2, 3]
    run(job)
    died = 0
    with another_writer(out) if beside != "nobody" else nullcontext() as appended:
        for number in range(KILLS):
            new = range(100 * (number + 1), 100 * (number + 1) + 6)
            for row in new:
                write(lake, f"night={number}/{row}", row)
            wanted += new
            died += kill_at_random(job, chance)
        last = run(job)
        assert last.exit_code == 0, last.error
    found = [row for row in ids(out) if row < OTHERS]
    assert found == sorted(wanted)
    assert [row for row in ids(out) if row >= OTHERS] == (appended or [])
    assert len(added_once(out)) == 2 + 6 * KILLS
    if beside != "nobody":
        rewritten = [a for a in log(out) if "remove" in a and not a["remove"]["dataChange"]]
        assert rewritten, "it has compacted"
    assert run(job).state == "nothing to do"
    assert died, "some were killed before their end"
