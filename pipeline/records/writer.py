"""Writes a run's record."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.errors import ShardscribeError
from pipeline.lake.store.base import Store

# Events are written in parts: an object store can't append.
PART_EVENTS = 5_000
LIBRARIES = ("shardscribe", "ray", "torch", "transformers", "tokenizers", "pyarrow")


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
