"""A process that dies at any step of publication: what readers see, and what the next run does.

This file is also the program that dies: it works through a lake without models and kills itself
at the step that it is given.
"""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from helpers import PATIENCE, QuietDisplay, commit_file

from pipeline.engine.driver.tally import Tally
from pipeline.engine.messages import SplitResult
from pipeline.lake.plan import Plan
from pipeline.lake.sink.files import FileSink
from pipeline.lake.sink.footers import read_footer
from pipeline.lake.sink.scratch import OutputFile, clean_scratch
from pipeline.lake.source.base import Listing
from pipeline.lake.source.cut import splits_of
from pipeline.lake.source.open import open_source
from pipeline.lake.split import RowGroups, Split
from pipeline.lake.store import local as stores
from pipeline.lake.store.local import LocalStore
from pipeline.lake.store.own import OWN
from pipeline.planning import plan_run
from pipeline.records.writer import RunRecord

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[2]
FINGERPRINT = "f" * 16
ROWS = 300


def pinned(lake: Path, out: LocalStore) -> Any:
    """What `plan_run` asks of a checked job."""
    dataset = open_source(str(lake))
    files = dataset.listing().files
    return SimpleNamespace(
        splits=lambda *_, **__: list(splits_of(dataset.store, files, fingerprint=FINGERPRINT)),
        checked=SimpleNamespace(listing=Listing(files), source=dataset, sink=FileSink(out)),
        fingerprint=FINGERPRINT,
        parts={},
    )


def annotate(lake: Path, out: LocalStore, split: Split) -> bool:
    """Publishes a copy of the input file, as an annotator would publish it annotated."""
    table = pq.read_table(lake / split.path, partitioning=None)
    file = OutputFile(FileSink(out), split.output_path, table.schema, compression="none")
    half = table.num_rows // 2
    file.write(table.slice(0, half))
    file.write(table.slice(half))
    footer = {"split": split.id, "input": split.path, "fingerprint": FINGERPRINT}
    return commit_file(file, footer, rows=table.num_rows, replace=split.replace)


def work(lake: Path, out: LocalStore, todo: list[Split] | None = None) -> Plan:
    """Plans and does everything; gives the plan as it was before."""
    plan = plan_run(pinned(lake, out))
    before = Plan(list(plan.todo), list(plan.done), dict(plan.outdated))
    tally = Tally(plan, [], RunRecord(out.own, "run"), QuietDisplay(), out.delete)
    for split in todo if todo is not None else plan.todo:
        published = annotate(lake, out, split)
        tally.done(split, SplitResult(split.id, split.output_path, published=published))
        tell(split.output_path, published)
    return before


def tell(*words: object) -> None:
    """Says what is done to who started this program."""
    print(*words, flush=True)


# The dying process.


def die(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def on_second_call(function: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter([function])

    def call(*arguments: Any, **named: Any) -> Any:
        return next(calls, die)(*arguments, **named)

    return call


def tell_and_wait(*words: object) -> None:
    """Goes on when it is told to, so that the end is never nearer than the test knows."""
    print(*words, flush=True)
    sys.stdin.readline()


def sync_or_die(path: Path) -> None:
    """Dies where the directory that holds the committed file would be synced."""
    if any(path.glob("*.parquet")):
        die()


PATCHES: dict[str, Callable[[], None]] = {
    "before it writes rows": lambda: setattr(pq.ParquetWriter, "write_table", die),
    "between two windows": lambda: setattr(
        pq.ParquetWriter, "write_table", on_second_call(pq.ParquetWriter.write_table)
    ),
    "before it closes the file": lambda: setattr(pq.ParquetWriter, "close", die),
    "before it checks the file": lambda: setattr(OutputFile, "_check", die),
    "before it links the file": lambda: setattr(os, "link", die),
    "before it syncs the directory": lambda: setattr(stores, "_sync", sync_or_die),
    "before it removes the scratch file": lambda: setattr(OutputFile, "discard", die),
    "before it removes the outdated file": lambda: setattr(LocalStore, "delete", die),
    "before it renames over the old file": lambda: setattr(Path, "replace", die),
    "when it is killed": lambda: globals().update(tell=tell_and_wait),
    "nowhere": lambda: None,
}
BEFORE_COMMIT = list(PATCHES)[:5]
AFTER_COMMIT = list(PATCHES)[5:7]


def main(step: str, lake: str, out: str, replace: str = "") -> None:
    PATCHES[step]()
    store = LocalStore(out)
    todo = None
    if replace:
        splits = pinned(Path(lake), store).splits()
        todo = [dataclasses.replace(split, replace=True) for split in splits]
    work(Path(lake), store, todo)


def run(step: str, lake: Path, out: LocalStore, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, step, str(lake), str(out.base), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    )


def run_until_it_dies(step: str, lake: Path, out: LocalStore, *more: str) -> None:
    process = run(step, lake, out, *more)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL, said


# What is looked at.


def write(lake: Path, name: str, text: str, rows: int = ROWS) -> None:
    path = lake / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": range(rows), "text": [text] * rows}), path)


def seen(out: LocalStore) -> list[str]:
    """The files that a reader of the lake finds; reading them all proves that each is whole."""
    if not out.base.exists():
        return []
    dataset = pads.dataset(str(out.base), format="parquet")
    for fragment in dataset.get_fragments():
        assert fragment.to_table().num_rows == ROWS
        assert read_footer(out, os.path.relpath(fragment.path, out.base))["split"]
    assert not any(OWN in path for path in dataset.files)
    files = sorted(os.path.relpath(path, out.base) for path in dataset.files)
    assert files == sorted(entry.path for entry in out.entries())
    return files


def state(out: LocalStore) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for path in seen(out):
        status = (out.base / path).stat()
        found[path] = (status.st_ino, status.st_mtime_ns, (out.base / path).read_bytes())
    return found


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    write(tmp_path / "lake", "day=1/a.parquet", "first")
    return tmp_path / "lake"


@pytest.fixture
def out(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "out"))


@pytest.mark.parametrize("step", BEFORE_COMMIT)
def test_before_the_commit_readers_see_nothing_and_the_next_run_does_it_all(
    lake: Path, out: LocalStore, step: str
) -> None:
    run_until_it_dies(step, lake, out)
    assert seen(out) == []
    left = list(out.scratch().iterdir())
    assert len(left) == 1, "the scratch file stays behind"

    plan = work(lake, out)
    assert (len(plan.todo), len(plan.done)) == (1, 0)
    (name,) = seen(out)
    assert name.startswith("day=1/a-all-")
    assert list(out.scratch().iterdir()) == left, "and does not stand in the way"
    assert clean_scratch(out.scratch(), now=time.time()) == 1
    assert seen(out) == [name]


@pytest.mark.parametrize("step", AFTER_COMMIT)
def test_after_the_commit_the_file_is_whole_and_is_adopted(
    lake: Path, out: LocalStore, step: str
) -> None:
    run_until_it_dies(step, lake, out)
    before = state(out)
    assert len(before) == 1
    assert len(list(out.scratch().iterdir())) == 1

    plan = work(lake, out)
    assert (len(plan.todo), len(plan.done)) == (0, 1)
    assert state(out) == before
    # A driver that never heard the answer, or a second run, does the split again.
    assert annotate(lake, out, plan.done[0]) is False
    assert state(out) == before
    # The scratch file is a second name of the committed one.
    assert clean_scratch(out.scratch(), now=time.time()) == 1
    assert state(out) == before


@pytest.mark.parametrize("step", BEFORE_COMMIT)
def test_a_changed_input_keeps_its_old_output_until_the_new_one_is_there(
    lake: Path, out: LocalStore, step: str
) -> None:
    work(lake, out)
    old = state(out)
    write(lake, "day=1/a.parquet", "second")
    run_until_it_dies(step, lake, out)
    assert state(out) == old

    plan = work(lake, out)
    assert list(plan.outdated.values()) == [list(old)]
    (name,) = seen(out)
    assert name not in old
    assert set(pq.read_table(out.base / name)["text"].to_pylist()) == {"second"}


@pytest.mark.parametrize("step", [*AFTER_COMMIT, "before it removes the outdated file"])
def test_an_outdated_file_that_a_death_left_goes_at_the_next_plan(
    lake: Path, out: LocalStore, step: str
) -> None:
    work(lake, out)
    (old,) = seen(out)
    write(lake, "day=1/a.parquet", "second")
    run_until_it_dies(step, lake, out)
    both = state(out)
    assert len(both) == 2
    assert old in both

    plan = plan_run(pinned(lake, out))
    assert (len(plan.todo), len(plan.done), plan.outdated) == (0, 1, {})
    del both[old]
    assert state(out) == both


def test_an_outdated_file_stays_while_one_split_of_its_input_is_missing(
    tmp_path: Path, out: LocalStore
) -> None:
    split = Split("a" * 16, "a.parquet", 1, "v2", RowGroups(0, 0))
    other = Split("b" * 16, "a.parquet", 1, "v2", RowGroups(1, 1))
    removed: list[str] = []
    plan = Plan(todo=[split, other], outdated={"a.parquet": ["a-all-old.parquet"]})
    tally = Tally(plan, [], RunRecord(out.own, "run"), QuietDisplay(), removed.append)
    tally.done(split, SplitResult(split.id, split.output_path))
    assert removed == []
    tally.done(other, SplitResult(other.id, other.output_path))
    assert removed == ["a-all-old.parquet"]


@pytest.mark.parametrize(
    ("step", "is_new"),
    [
        ("before it closes the file", False),
        ("before it checks the file", False),
        ("before it renames over the old file", False),
        ("before it syncs the directory", True),
        ("before it removes the scratch file", True),
    ],
)
def test_a_file_that_is_replaced_is_the_old_or_the_new_one_whole(
    lake: Path, out: LocalStore, step: str, is_new: bool
) -> None:
    work(lake, out)
    old = state(out)
    run_until_it_dies(step, lake, out, "replace")
    now = state(out)
    assert list(now) == list(old)
    ((inode, _, _),), ((old_inode, _, _),) = now.values(), old.values()
    assert (inode != old_inode) == is_new
    main("nowhere", str(lake), str(out.base), "replace")
    assert list(seen(out)) == list(old)


def test_killed_at_any_moment_again_and_again_everything_is_there_once_in_the_end(
    tmp_path: Path, out: LocalStore
) -> None:
    lake = tmp_path / "many"
    for number in range(150):
        write(lake, f"day={number % 3}/{number}.parquet", f"text {number}")
    draw = random.Random(7)
    deaths, counts = 0, []
    for _ in range(5):
        process = run("when it is killed", lake, out)
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(draw.randrange(1, 25)):
            process.stdout.readline()
            process.stdin.write("go on\n")
            process.stdin.flush()
        time.sleep(draw.random() / 100)
        process.kill()
        process.communicate(timeout=PATIENCE)
        deaths += process.returncode == -signal.SIGKILL
        counts.append(len(seen(out)))
    assert deaths == 5
    assert counts == sorted(counts)
    assert 0 < counts[-1] < 150

    before = state(out)
    plan = work(lake, out)
    assert len(plan.done) == counts[-1]
    after = state(out)
    assert {path: after[path] for path in before} == before
    inputs = sorted(read_footer(out, path)["input"] for path in after)
    assert inputs == sorted(f"day={n % 3}/{n}.parquet" for n in range(150))
    assert not plan_run(pinned(lake, out)).todo


def test_two_runs_at_once_without_a_lease_publish_every_split_once(
    tmp_path: Path, out: LocalStore
) -> None:
    lake = tmp_path / "many"
    for number in range(60):
        write(lake, f"{number}.parquet", f"text {number}")
    runs = [run("nowhere", lake, out) for _ in range(2)]
    answers = []
    for process in runs:
        told, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said
        answers += [line.split() for line in told.splitlines()]
    published = sorted(path for path, new in answers if new == "True")
    assert published == seen(out)
    assert len(published) == 60
    assert list(out.scratch().iterdir()) == []


if __name__ == "__main__":
    main(*sys.argv[1:])
