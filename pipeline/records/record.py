"""The run record: what happened, for people and programs. It explains; it never decides."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import ShardscribeError
from pipeline.lake.store.base import Store

# Events are written in parts: an object store can't append.
PART_EVENTS = 5_000
DEATHS_KEPT = 20
LIBRARIES = ("shardscribe", "ray", "torch", "transformers", "tokenizers", "pyarrow")

State = Literal[
    "done",
    "limit reached",
    "some splits failed",
    "interrupted",
    "failed",
    "nothing to do",
    "some input can't be read",
]


class Section(BaseModel):
    """A part of a summary."""

    model_config = ConfigDict(extra="forbid")


class SplitCounts(Section):
    """Splits of the dataset: total = done_before + done + failed + left."""

    total: int = 0
    done_before: int = Field(0, description="Committed by an earlier run.")
    done: int = Field(0, description="Committed by this run.")
    failed: int = 0
    left: int = Field(0, description="Not ended: the run was stopped, or had a limit.")


class RowCounts(Section):
    """Rows of the splits that this run committed: rows = annotated + bad + skipped."""

    rows: int = 0
    annotated: int = 0
    bad: int = Field(0, description="With an entry in the errors column.")
    skipped: int = Field(
        0, description="Nothing to annotate: a null or blank text, or a condition that is not met."
    )


class FailedSplit(Section):
    """A split that this run gave up."""

    path: str
    row_groups: tuple[int, int] | None = Field(None, description="First and last, of a part.")
    row_range: tuple[int, int] | None = Field(None, description="First and last, of a part.")
    reason: str


class Unread(Section):
    """A file or directory of the input that is there and can't be read."""

    path: str
    reason: str


class Summary(Section):
    """What a run did, as ``summary.json`` in its record."""

    run: str
    job: str
    state: State
    exit_code: int
    error: str = Field("", description="Why the run as a whole stopped.")
    started: str = Field(description="UTC, ISO 8601.")
    seconds: float = Field(description="Wall time, from planning to the summary.")
    annotate_seconds: float = Field(0.0, description="Since the first worker was ready.")
    input: str
    output: str
    files: int = 0
    splits: SplitCounts = SplitCounts()
    rows: RowCounts = RowCounts()
    tasks: dict[str, RowCounts] = {}
    tokens: int = Field(0, description="Given to models, special tokens included, no padding.")
    padding_share: float = Field(0.0, description="Share of computed tokens that was padding.")
    device_share: float = Field(
        0.0, description="Share of the workers' time in which a model was computing."
    )
    rows_per_second: float = Field(0.0, description="Over annotate_seconds.")
    tokens_per_second: float = Field(0.0, description="Over annotate_seconds.")
    bytes_out: int = 0
    workers: int = Field(0, description="The most that were ready at once.")
    workers_lost: int = 0
    deaths: list[str] = Field(
        [], description="What workers died of and why machines were left out; the first 20."
    )
    device: str = ""
    fingerprint: str = ""
    models: dict[str, str] = Field({}, description="Revision by reference.")
    failed_splits: list[FailedSplit] = []
    unread: list[Unread] = Field([], description="Input that can't be listed; its output stays.")
    vanished_outputs: list[str] = Field([], description="Their input is gone.")
    versions: dict[str, str] = {}


class RunRecord:
    """Writes a run's record under ``runs/<run>/`` among our own files of the output.

    Args:
        store: Of our own files of the output.
        run: The run's id.
        notice: Told once if the record can't be written; the run goes on without it.
    """

    def __init__(
        self, store: Store, run: str, *, notice: Callable[[str], None] = lambda text: None
    ) -> None:
        self.store = store
        self.run = run
        self._notice = notice
        self._broken = False
        self._pending: list[str] = []
        self._parts = 0

    @property
    def directory(self) -> str:
        """Relative to our own files."""
        return f"runs/{self.run}"

    def event(self, kind: str, **fields: Any) -> None:
        """Notes that something happened."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._pending.append(json.dumps({"time": now, "event": kind, **fields}))
        if len(self._pending) >= PART_EVENTS:
            self.flush()

    def flush(self) -> None:
        """Writes what is pending."""
        if self._pending:
            self._parts += 1
            self.write(f"events-{self._parts:05d}.jsonl", "\n".join(self._pending) + "\n")
            self._pending = []

    def write(self, name: str, content: Mapping[str, Any] | str) -> None:
        """Writes a file of the record, a mapping as JSON."""
        text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
        try:
            self.store.put(f"{self.directory}/{name}", text.encode())
        except (OSError, ShardscribeError) as error:
            if not self._broken:
                self._broken = True
                self._notice(f"the run's record can't be written, which stops nothing: {error}")


def versions() -> dict[str, str]:
    """The versions that a run's results may depend on."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "unknown"
    return found
