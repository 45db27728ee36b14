"""Samples as Parquet files, that appear whole and beside nothing else."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import JobError
from pipeline.starter.fetch import sha256_of


def refuse_too_many(rows: int, shards: int) -> None:
    """Refuses more files than rows.

    Raises:
        JobError: There are more, or none is asked for.
    """
    if not 1 <= shards <= rows:
        raise JobError(f"{rows} rows can't be written as {shards} files.", hint="Ask for fewer.")


def write_shards(parts: Mapping[str, Any], destination: Path, *, shards: int) -> list[Path]:
    """Write datasets as Parquet files, or leave those that are there.

    Args:
        parts: The directory in the destination, with a slash, or nothing, to its dataset.
        destination: A folder that is empty, missing, or holds these very files.
        shards: How many files of each part.

    Returns:
        The files.

    Raises:
        JobError: The folder holds something else, or there are fewer rows than files.
    """
    try:
        destination.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"{destination} can't be made: {error.strerror}.") from error
    # Inside the destination, because a rename doesn't cross file systems; Parquet readers leave
    # names with a leading dot alone.
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=destination) as scratch:
        made = {}
        for directory, part in parts.items():
            refuse_too_many(len(part), shards)
            for index in range(shards):
                path = Path(scratch) / f"{directory}part-{index:05d}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                shard = part.shard(num_shards=shards, index=index, contiguous=True)
                with path.open("wb") as file, _no_progress_bars():
                    shard.to_parquet(file)
                made[f"{directory}{path.name}"] = path
        _refuse_other_files(destination, made)
        for name, path in made.items():
            if not (destination / name).exists():
                (destination / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, destination / name)
    return [destination / name for name in made]


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    import datasets

    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _refuse_other_files(destination: Path, made: dict[str, Path]) -> None:
    for path in sorted(destination.rglob("*")):
        name = path.relative_to(destination).as_posix()
        if name.startswith(".") or (path.is_dir() and any(m.startswith(f"{name}/") for m in made)):
            continue
        twin = made.get(name)
        # Some of our own files and nothing else: a writer was killed, and we finish its work.
        if twin is None or not path.is_file() or sha256_of(path) != sha256_of(twin):
            raise JobError(
                f"{destination} holds something else already: {name}.",
                hint="Name an empty or a new directory.",
            )
