"""Writes a run's record."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.lake.store.base import Store
from pipeline.records.history import History
from pipeline.records.outbox import Outbox
from pipeline.records.schema import Progress, ProgressLine, WorkerInFlight

# Events are written in parts, as an object store can't append; the last one is written anew until
# it has so many.
PART_EVENTS = 2_000
LIBRARIES = ("shardscribe", "ray", "torch", "transformers", "tokenizers", "pyarrow")


class RunRecord:
    """Writes a run's record under ``runs/<run>/`` among our own files of the output.

    Nothing waits for the store but the end of the block. Each file is written whole or not at
    all, so that a run that is killed leaves what it had written before.

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
        self._part: list[str] = []
        self._parts = 1
        self._more = False
        self._history = History()
        self._longer = False
        self._outbox = Outbox(
            lambda name, content: store.put(f"{self.directory}/{name}", content),
            lambda why: notice(f"the run's record can't be written, which stops nothing: {why}"),
        )

    @property
    def directory(self) -> str:
        """Relative to our own files."""
        return f"runs/{self.run}"

    def __enter__(self) -> RunRecord:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self._outbox.close()

    def event(self, kind: str, **fields: Any) -> None:
        """Notes that something happened, as an `AnyEvent`."""
        self._part.append(json.dumps({"time": _now(), "event": kind, **fields}))
        self._more = True
        if len(self._part) >= PART_EVENTS:
            self._write_events()
            self._part = []
            self._parts += 1

    def progress(
        self,
        progress: Progress,
        *,
        splits_in_flight: int = 0,
        in_flight: Sequence[WorkerInFlight] = (),
    ) -> None:
        """Notes how far the run is, for whoever watches it and for its history."""
        line = ProgressLine(
            time=_now(),
            progress=progress,
            rows_per_second=round(progress.rows_per_second, 2),
            tokens_per_second=round(progress.tokens_per_second, 1),
            splits_in_flight=splits_in_flight,
        )
        # By way of Python: names of files that are no text are no reason to raise.
        self._longer |= self._history.add(json.dumps(line.model_dump(exclude={"in_flight"})))
        line.in_flight = list(in_flight)
        self.write("progress.json", json.dumps(line.model_dump()) + "\n")

    def flush(self) -> None:
        """Writes what is new."""
        if self._more:
            self._write_events()
        if self._longer:
            self._longer = False
            self.write("history.jsonl", "\n".join(self._history.lines) + "\n")

    def _write_events(self) -> None:
        self._more = False
        self.write(f"events-{self._parts:05d}.jsonl", "\n".join(self._part) + "\n")

    def write(self, name: str, content: Mapping[str, Any] | str) -> None:
        """Writes a file of the record, a mapping as JSON."""
        text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
        self._outbox.send(name, text.encode(errors="backslashreplace"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def versions() -> dict[str, str]:
    """The versions that a run's results may depend on."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "unknown"
    return found
