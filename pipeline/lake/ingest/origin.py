"""What an import reads: which files there are, of what format, in which directories."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import JobError, one_line
from pipeline.lake.ingest.arrow_rows import ArrowRows, DatasetRows
from pipeline.lake.ingest.delimited import CsvRows
from pipeline.lake.ingest.json_lines import JsonRows
from pipeline.lake.ingest.lines import CODECS, UTF8, Lines, is_utf8
from pipeline.lake.ingest.plain import TextRows
from pipeline.lake.ingest.reading import Place, RowReader
from pipeline.lake.split import SUFFIXES
from pipeline.lake.store.base import Entry, Store
from pipeline.lake.store.local import LocalStore
from pipeline.lake.store.open import open_store

ENDINGS: Mapping[str, tuple[str, ...]] = {
    "csv": (".csv", ".tsv"),
    "json": (".jsonl", ".ndjson", ".json"),
    "text": (".txt", ".text"),
    "arrow": (".arrow", ".feather", ".ipc", ".arrows"),
}
FORMATS = (*ENDINGS, "datasets")
SAVED = ("dataset_info.json", "dataset_dict.json")


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How files of other formats are read.

    Attributes:
        format: One of `FORMATS`; by default what the names of the files say.
        encoding: Of text that has no byte-order mark.
        delimiter: Of CSV; by default the one that divides a file's first line most.
    """

    format: str | None = None
    encoding: str = UTF8
    delimiter: str | None = None


class Origin(Protocol):
    """What an import reads: its parts, by directory and in order, each of which has rows."""

    @property
    def address(self) -> str:
        """As it was written."""

    @property
    def parts(self) -> Mapping[str, list[Entry]]:
        """By the directory in which their rows go together; sizes in what `consumed` counts."""

    def where(self, part: Entry) -> str:
        """Its address, for messages."""

    def open(self, part: Entry, place: Place) -> RowReader:
        """Opens it at a place."""

    def is_changed(self, part: Entry) -> bool:
        """Whether it is not what it was when it was listed."""


@dataclass(frozen=True)
class FileOrigin:
    """Files of a store, of one format."""

    address: str
    store: Store
    parts: Mapping[str, list[Entry]]
    reading: ImportOptions

    def where(self, part: Entry) -> str:
        """Its address, for messages."""
        return self.store.address(part.path)

    def is_changed(self, part: Entry) -> bool:
        """Whether it is not what it was when it was listed."""
        return self.store.entry(part.path) != part

    def open(self, part: Entry, place: Place) -> RowReader:
        """Opens it at a place."""

        def lines(place: Place = place) -> Lines:
            return Lines(self.store, part.path, place, encoding=self.reading.encoding)

        where = self.where(part)
        match self.reading.format:
            case "json":
                return JsonRows(lines(), where)
            case "text":
                return TextRows(lines())
            case "arrow":
                return ArrowRows(self.store, part.path, place)
        tabs = "\t" if _bare(part.path).endswith(".tsv") else None
        rows = CsvRows(lines(Place()), where, self.reading.delimiter or tabs)
        if place != Place():
            rows.go_on(lines())
        return rows


@dataclass(frozen=True)
class DatasetOrigin:
    """What `datasets` loads, a part for each of its splits."""

    address: str
    parts: Mapping[str, list[Entry]]
    datasets: Mapping[str, Any]

    def where(self, part: Entry) -> str:
        """Its address, for messages."""
        return f"{self.address} {part.path}".strip()

    def is_changed(self, part: Entry) -> bool:
        """It is read from files that `datasets` holds open."""
        return False

    def open(self, part: Entry, place: Place) -> RowReader:
        """Opens it at a place."""
        return DatasetRows(self.datasets[part.path], place)


def find(address: str, reading: ImportOptions) -> tuple[Origin, list[str]]:
    """What there is to import at an address.

    Args:
        address: A file, a directory or a glob; local, or in an object store.
        reading: How to read it.

    Returns:
        The origin, and the files that are there and are passed over.

    Raises:
        JobError: There is nothing, or not of one format.
    """
    is_utf8(reading.encoding)
    store, wanted = _place(address)
    if isinstance(store, LocalStore) and _is_saved(store.base) and reading.format is None:
        reading = ImportOptions(format="datasets")
    if reading.format == "datasets":
        return _datasets(address, store), []
    found: dict[str, list[Entry]] = {}
    others: list[str] = []
    missed: dict[str, str] = {}
    for entry in sorted(store.entries(missed.__setitem__), key=lambda entry: entry.path):
        if wanted(entry.path):
            kind = reading.format or _format(entry.path)
            if kind is None:
                others.append(entry.path)
            else:
                found.setdefault(kind, []).append(entry)
    for path, reason in missed.items():
        # A directory may hold what is wanted, whatever its own name.
        if wanted(path) and (_format(path) or not PurePosixPath(path).suffix):
            raise JobError(
                f"{store.address(path)} can't be read: {reason}",
                hint="Mend it, or move it elsewhere",
            )
    if not found:
        raise _nothing(address, others)
    if len(found) > 1:
        names = ", ".join(f"{len(files):,} of {kind}" for kind, files in found.items())
        raise JobError(
            f"{address} holds files of several formats: {names}",
            hint="Name those of one by a pattern, such as 'data/*.jsonl'",
        )
    ((kind, files),) = found.items()
    parts: dict[str, list[Entry]] = {}
    for entry in files:
        parts.setdefault(posixpath.dirname(entry.path), []).append(entry)
    options = ImportOptions(format=kind, encoding=reading.encoding, delimiter=reading.delimiter)
    return FileOrigin(address, store, parts, options), others


def _place(address: str) -> tuple[Store, Callable[[str], bool]]:
    """The directory that an address is in, and which paths there it means."""
    scheme, separator, path = address.removeprefix("file://").rpartition("://")
    trimmed = path.rstrip("/")
    directory, _, name = trimmed.rpartition("/")
    root = f"{scheme}{separator}"
    if name:
        above = open_store(f"{root}{directory}" or ("/" if path.startswith("/") else "."))
        try:
            entry = above.entry(name)
        except OSError as error:
            raise JobError(f"{address} can't be read: {error.strerror or error}") from error
        local = isinstance(above, LocalStore)
        if entry is not None and not (local and Path(root + trimmed).expanduser().is_dir()):
            return above, lambda path: path == name
        steps = trimmed.split("/")
        at = next((at for at, step in enumerate(steps) if re.search(r"[*?\[]", step)), None)
        if at is not None and not (local and Path(trimmed).exists()):
            pattern = re.compile(fnmatch.translate("/".join(steps[at:])))
            top = "/".join(steps[:at]) or ("/" if path.startswith("/") else ".")
            return open_store(root + top), lambda path: pattern.fullmatch(path) is not None
    return open_store(address), lambda path: True


def _bare(path: str) -> str:
    """A file's name without its compression."""
    lower = path.lower()
    return next((lower.removesuffix(end) for end in CODECS if lower.endswith(end)), lower)


def _format(path: str) -> str | None:
    return next((kind for kind, ends in ENDINGS.items() if _bare(path).endswith(ends)), None)


def _nothing(address: str, others: list[str]) -> JobError:
    ends = ", ".join(end for some in ENDINGS.values() for end in some)
    if others and all(path.lower().endswith(SUFFIXES) for path in others):
        return JobError(f"{address} is Parquet already", hint="A job reads it as it is")
    if others:
        return JobError(
            f"{address} holds no file that can be told by its name, {others[0]} for one",
            hint=f"Names end in {ends}, and maybe .gz, .zst or .bz2; or name the --format",
        )
    return JobError(f"{address} holds no file", hint="Check the path")


def _is_saved(directory: Path) -> bool:
    return any((directory / name).is_file() for name in SAVED)


def _datasets(address: str, store: Store) -> Origin:
    if not isinstance(store, LocalStore):
        raise JobError(f"{address} is not on this machine, as `datasets` needs it",
                       hint="Copy it here first")  # fmt: skip
    import datasets

    where = Path(address.removeprefix("file://")).expanduser()
    entries = sorted((e.path, e.size, e.version) for e in store.entries())
    datasets.disable_progress_bars()
    try:
        if _is_saved(where):
            loaded: Any = datasets.load_from_disk(str(where))
        else:
            loaded = datasets.load_dataset(str(where))
    except Exception as error:  # of many kinds, as each format has its own
        raise JobError(
            f"{address} can't be loaded by `datasets`: {one_line(error, most=200)}",
            hint="Check it with datasets.load_dataset or load_from_disk",
        ) from error
    finally:
        datasets.enable_progress_bars()
    found = loaded if isinstance(loaded, dict) else {"": loaded}
    version = repr(entries)
    return DatasetOrigin(
        address,
        {name: [Entry(name, len(part), version)] for name, part in found.items()},
        {name: part.with_format("arrow") for name, part in found.items()},
    )


def all_parts(origin: Origin) -> Iterator[Entry]:
    """All parts in the order in which they are read."""
    for parts in origin.parts.values():
        yield from parts


def check_parquet(schema: pa.Schema, address: str) -> None:
    """Refuses columns that Parquet can't hold.

    Raises:
        JobError: With the first of them.
    """
    for field in schema:
        try:
            pq.write_table(pa.schema([field]).empty_table(), pa.BufferOutputStream())
        except (pa.ArrowException, NotImplementedError) as error:
            raise JobError(
                f"{address} has a column {field.name!r} of type {field.type}, which Parquet "
                f"can't hold: {one_line(error, most=100)}",
                hint="Leave it out, or write it as another type",
            ) from error
