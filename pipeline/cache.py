"""What is kept on this machine between runs: converted models, fetched text, found budgets.

A folder is made in a temporary one inside the cache and put in its place in one step, so that
whoever is killed leaves no half-made folder under a name that anybody reads.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.errors import RunError

MARKER = "shardscribe.json"
# A pull takes minutes: what is a day old belongs to nobody any more.
STALE_SECONDS = 24 * 60 * 60


def cache_dir() -> Path:
    """Tell where converted models and fetched text are kept.

    Returns:
        ``$SHARDSCRIBE_CACHE``, or ``$XDG_CACHE_HOME/shardscribe``, or ``~/.cache/shardscribe``.
    """
    if own := os.environ.get("SHARDSCRIBE_CACHE"):
        return Path(own).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "shardscribe"
    return Path.home() / ".cache" / "shardscribe"


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """Give a temporary folder on the cache's own file system, and sweep abandoned ones.

    Yields:
        An empty folder, removed on the way out.

    Raises:
        RunError: The cache can't be written.
    """
    parent = cache_dir() / "tmp"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        sweep(parent)
        folder = Path(tempfile.mkdtemp(prefix="pull-", dir=parent))
    except OSError as error:
        raise RunError(
            f"The cache {cache_dir()} can't be written: {error.strerror}.",
            hint="Set SHARDSCRIBE_CACHE to a folder that can.",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what killed pulls left behind more than a day ago.

    Args:
        parent: The folder of temporary folders.
    """
    for folder in parent.iterdir():
        # A neighbour may finish and remove its folder while we look at it.
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def revision_in(folder: Path) -> str | None:
    """Read which revision a folder of the cache holds.

    Args:
        folder: A folder that `publish` may have put in place.

    Returns:
        The revision, or None if the folder is missing or was not finished.
    """
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    revision = marker.get("revision") if isinstance(marker, dict) else None
    return revision if isinstance(revision, str) else None


def publish(made: Path, final: Path, *, marker: Mapping[str, object]) -> Path:
    """Put a finished folder in its place in one step.

    A rename onto a folder that holds files fails, so of several pullers one wins and the others
    drop their equal copy.

    Args:
        made: The finished folder, in a `workspace`.
        final: Its place in the cache.
        marker: What ``shardscribe.json`` says; must hold ``revision``.

    Returns:
        ``final``.

    Raises:
        RunError: The place is taken by something that can't be moved away.
    """
    (made / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    # safetensors writes files that only their owner may read; a cache may serve a whole team.
    mode = (made / MARKER).stat().st_mode
    for file in made.rglob("*"):
        if file.is_file():
            file.chmod(mode)
    final.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(10):
        try:
            made.rename(final)
        except OSError as error:
            if revision_in(final) == marker["revision"]:
                return final
            # Damaged by hand or by a sick disk: set aside, then try again.
            try:
                final.rename(made.parent / f"damaged-{time.monotonic_ns()}")
            except FileNotFoundError:
                continue
            except OSError:
                raise RunError(
                    f"{final} can't be replaced: {error.strerror}.", hint="Remove it by hand."
                ) from error
        else:
            return final
    raise RunError(f"{final} is replaced by others all the time.", hint="Pull again.")


def add(final: Path, files: Mapping[str, Path]) -> None:
    """Put further files into a finished folder, each in one step.

    Args:
        final: A folder that `publish` put in place.
        files: Path in it to the file that is moved there, on the cache's own file system.

    Raises:
        RunError: The folder can't be written.
    """
    try:
        mode = (final / MARKER).stat().st_mode
        for name, file in files.items():
            (final / name).parent.mkdir(parents=True, exist_ok=True)
            file.chmod(mode)
            file.rename(final / name)
    except OSError as error:
        raise RunError(
            f"{final} can't be written: {error.strerror}.", hint="Remove it, and pull again."
        ) from error
