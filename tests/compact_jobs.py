"""Outputs that are compacted: what every verb must say of one, whatever was killed in it."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from helpers import own
from table_jobs import run, write, write_job

from pipeline.cli.main import main
from pipeline.lake.store.base import Store
from pipeline.lake.store.open import open_store

FILES, ROWS = 6, 3


def lake_of(folder: Path, *, files: int = FILES) -> list[int]:
    """Small files in two partitions; gives their ids."""
    found = []
    for number in range(files):
        ids = [100 * number + row for row in range(ROWS)]
        write(folder / "lake" / f"day={number % 2}", f"f{number}", *ids)
        found += ids
    return sorted(found)


def parquet_job(folder: Path, **sections: Any) -> str:
    """A job over that lake into files."""
    output = {"format": "parquet", **sections.pop("output", {})}
    return write_job(folder, output=output, **sections)


def cli(*words: object, code: int = 0) -> Any:
    """Calls a verb."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done


def compact(out: object, *options: str, code: int = 0) -> dict[str, Any]:
    """Merges; gives what that did."""
    return dict(json.loads(cli("compact", out, "--json", *options, code=code).stdout))


def shown(out: object) -> list[int]:
    """The ids that `show` gives."""
    done = cli("show", out, "-n", 1000, "--json", "--columns", "id")
    return sorted(json.loads(line)["id"] for line in done.stdout.splitlines() if line[:1] == "{")


def files(out: object) -> list[str]:
    """The Parquet files that are there."""
    store: Store = open_store(str(out))
    return sorted(e.path for e in store.entries() if e.path.endswith(".parquet"))


def holds(job: str, out: object, ids: list[int], *, splits: int = FILES) -> None:
    """Each verb knows of each split, and has each row once."""
    assert shown(out) == ids
    status = json.loads(cli("status", job, "--json").stdout)
    assert (status["left"], status["total"], status["rows"]["rows"]) == (0, splits, len(ids))
    assert not status["damaged"]
    said = cli("verify", job).stdout
    assert f"{splits} splits" in said, said


def scratch(out: Path) -> list[Path]:
    """Unfinished files that are left."""
    return [*(own(out) / "scratch").glob("*")]


__all__ = ["cli", "compact", "files", "holds", "lake_of", "parquet_job", "run", "scratch", "shown"]
