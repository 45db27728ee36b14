"""An import that is killed at any step, or at any time: the next one ends with the same shards."""

import gzip
import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pyarrow.parquet as pq
import pytest
from helpers import own

from pipeline.lake.ingest import shards
from pipeline.lake.ingest.importer import Importer
from pipeline.lake.ingest.json_lines import JsonRows
from pipeline.lake.ingest.origin import ImportOptions, find
from pipeline.lake.sink import scratch
from pipeline.lake.store.local import LocalStore

pytestmark = pytest.mark.chaos

ROWS = 400


def run(raw: Path, out: Path, told: Callable[[Any], None] = lambda _: None) -> Any:
    origin, _ = find(str(raw), ImportOptions())
    return Importer(origin, LocalStore(str(out)), 10**9, ROWS, told).run()


def die(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def on_call(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Dies where it is called for the so manieth time."""
    calls = iter(range(number - 1))

    def call(*arguments: Any, **named: Any) -> Any:
        if next(calls, None) is None:
            die()
        return function(*arguments, **named)

    return call


def after(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Dies when a call has done its work, the so manieth time."""
    calls = iter(range(number - 1))

    def call(*arguments: Any, **named: Any) -> Any:
        found = function(*arguments, **named)
        if next(calls, None) is None:
            die()
        return found

    return call


STEPS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "before the directory is claimed": (Importer, "_claim", lambda f: on_call(1, f)),
    "after it is claimed": (Importer, "_claim", lambda f: after(1, f)),
    "while it looks at types": (JsonRows, "learn", lambda f: on_call(2, f)),
    "before it writes rows": (pq.ParquetWriter, "write_table", lambda f: on_call(1, f)),
    "in a later shard": (pq.ParquetWriter, "write_table", lambda f: on_call(4, f)),
    "before the seal": (scratch, "seal", lambda f: on_call(2, f)),
    "after the seal": (scratch, "seal", lambda f: after(2, f)),
    "before bad lines are kept": (LocalStore, "put_new", lambda f: on_call(1, f)),
    "between bad lines and their shard": (LocalStore, "put_new", lambda f: after(1, f)),
    "after the first shard": (LocalStore, "put_new", lambda f: after(2, f)),
    "between bad lines and a later shard": (LocalStore, "put_new", lambda f: after(3, f)),
    "before a directory is synced": (os, "fsync", lambda f: on_call(3, f)),
    "before a shard is linked": (os, "link", lambda f: on_call(5, f)),
    "after a shard is linked": (os, "link", lambda f: after(5, f)),
    "when all is done but to say so": (shards.ShardWriter, "write", lambda f: after(6, f)),
}


def dies(work: Callable[[], object]) -> bool:
    """Works in a process of its own; whether that was killed."""
    process = os.fork()
    if not process:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


# The tests.


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Two directories of JSON lines, one file compressed, with a bad line in each shard."""
    top = tmp_path_factory.mktemp("import") / "raw"
    number = 0
    for name in ("y=1/a.jsonl", "y=1/b.jsonl.gz", "y=2/c.jsonl"):
        found = []
        for _ in range(700):
            number += 1
            row = {"id": number, "text": f"{number * 7919 % 10_007} " * 9}
            found.append(json.dumps(row) if number % 100 else '{"id": "none"}')
        content = "\n".join(found).encode()
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return top


@pytest.fixture(scope="module")
def undisturbed(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    state = run(raw, out)
    assert (state.rows, state.bad, state.shards) == (2079, 21, 6)
    return kept(out)


def kept(out: Path) -> dict[str, bytes]:
    """All shards and files of bad lines."""
    places = {"shards": out, "bad": own(out) / "bad-lines"}
    return {
        f"{kind} {path.relative_to(place)}": path.read_bytes()
        for kind, place in places.items()
        for path in place.rglob("part-*")
    }


def leftovers(out: Path) -> list[Path]:
    return list((own(out) / "scratch").glob("*"))


@pytest.mark.parametrize("step", STEPS)
def test_an_import_that_dies_at_any_step_ends_with_the_same_bytes_when_it_is_run_again(
    step, raw, undisturbed, tmp_path
):
    out = tmp_path / "out"
    place, name, patch = STEPS[step]

    def work():
        setattr(place, name, patch(getattr(place, name)))
        run(raw, out)

    assert dies(work)
    for _ in range(2):  # also where the ones after it die there
        dies(work)
        assert kept(out).items() <= undisturbed.items()
    state = run(raw, out)
    assert (state.rows, state.bad, state.shards) == (2079, 21, 6)
    assert kept(out) == undisturbed
    assert leftovers(out) == []


def test_an_import_that_is_killed_at_random_again_and_again_ends_with_the_same_bytes(
    raw, undisturbed, tmp_path
):
    out = tmp_path / "out"
    chance = random.Random(5)
    killed = 0
    for _ in range(30):
        pieces = iter(range(chance.randrange(30)))

        def told(_, pieces=pieces):
            if next(pieces, None) is None:
                die()

        killed += dies(lambda told=told: run(raw, out, told))
        assert kept(out).items() <= undisturbed.items()
    assert killed
    run(raw, out)
    assert kept(out) == undisturbed
    assert leftovers(out) == []
