"""kill -9 at each step of an Iceberg table's transaction and at random, also beside a writer."""

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pyarrow as pa
import pytest
from dying_runs import AFTER, BEFORE, die_at, kill_at_random
from iceberg_tables import added_once, catalog, ids, job_into, made, versions
from table_jobs import run, write

pytestmark = pytest.mark.chaos

# SHARDSCRIBE_ROUNDS=15 is 30 random kills with another writer, and as many without.
KILLS = 2 * int(os.environ.get("SHARDSCRIBE_ROUNDS", "1"))
SEED = 20_261_201
OTHERS = 1_000_000
# About as long as a run takes when it is imported: the library has a part in it.
A_RUN = 2.0


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    write(tmp_path / "lake", "a", 1, 2)
    write(tmp_path / "lake", "b", 3)
    return tmp_path / "lake"


@pytest.fixture
def job(lake: Path, tmp_path: Path) -> str:
    catalog(tmp_path)
    return job_into(tmp_path)


@pytest.mark.parametrize(
    ("step", "there"),
    [*((step, True) for step in (*BEFORE, *AFTER)), (BEFORE[-1], False), (AFTER[0], False)],
)
def test_a_run_that_dies_is_finished_by_the_next_in_one_snapshot(
    job: str, lake: Path, tmp_path: Path, step: str, there: bool
) -> None:
    if there:
        run(job)
        write(lake, "a", 1, 20)
        write(lake, "c", 4)
    before, seen = versions(tmp_path), ids(tmp_path)
    die_at(step, job)
    wanted = [1, 3, 4, 20] if there else [1, 2, 3]
    assert ids(tmp_path) == (wanted if step in AFTER else seen), "all of the run, or nothing"
    assert run(job).exit_code == 0
    assert (ids(tmp_path), versions(tmp_path)) == (wanted, before + 1)
    added_once(tmp_path)
    assert run(job).state == "nothing to do"
    assert versions(tmp_path) == before + 1


@contextmanager
def another_writer(folder: Path) -> Iterator[list[int]]:
    """Appends rows of its own all the time, and now and then writes its rows anew; gives them."""
    ended = threading.Event()
    appended: list[int] = []

    def work() -> None:
        while not ended.is_set():
            # It loses races, as we do, and is not as patient.
            with suppress(Exception):
                table = made(folder)
                number = OTHERS + len(appended)
                row = pa.table({"id": [number], "text": [None]}).cast(
                    pa.schema([("id", pa.int64()), ("text", pa.string())])
                )
                table.append(row)
                appended.append(number)
                if len(appended) % 5 == 0:
                    theirs = table.scan(row_filter=f"id >= {OTHERS}").to_arrow()
                    table.overwrite(theirs, overwrite_filter=f"id >= {OTHERS}")
            time.sleep(0.05)

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
    job: str, lake: Path, tmp_path: Path, beside: str, every: int | None
) -> None:
    job = job_into(tmp_path, output={"commit_every": every})
    chance = random.Random(f"{SEED} {beside}")
    wanted = [1, 2, 3]
    run(job)
    died = 0
    with another_writer(tmp_path) if beside != "nobody" else nullcontext() as appended:
        for number in range(KILLS):
            new = range(100 * (number + 1), 100 * (number + 1) + 4)
            for row in new:
                write(lake, f"night={number}/{row}", row)
            wanted += new
            died += kill_at_random(job, chance, seconds=A_RUN)
        last = run(job)
        assert last.exit_code == 0, last.error
    found = ids(tmp_path)
    assert [row for row in found if row < OTHERS] == sorted(wanted)
    assert [row for row in found if row >= OTHERS] == (appended or [])
    assert len(added_once(tmp_path)) == 2 + 4 * KILLS
    assert run(job).state == "nothing to do"
    assert died, "some were killed before their end"
    assert beside == "nobody" or appended
