"""Reads run records: whole ones, and what a run that died, a disk or a newer version has left."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from pipeline.errors import ShardscribeError, one_line
from pipeline.lake.store.base import Store
from pipeline.lake.store.open import open_store
from pipeline.records.schema import AnyEvent, ProgressLine, Summary

EVENTS = re.compile(r"events-\d+\.jsonl")
ANY_EVENT: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class RecordedRun:
    """What a run's record says.

    Attributes:
        run: Its id.
        summary: None if the run died or is running, or if nothing of it can be understood.
        said: The summary as it is written, also by a newer version; None if there is none.
        progress: How far it last was; None if it has a summary, or never said so.
        lives: Whether it is still running; None if that is not known.
        problem: What of the record can't be read, and why; empty if all can.
    """

    run: str
    summary: Summary | None = None
    said: Mapping[str, Any] | None = None
    progress: ProgressLine | None = None
    lives: bool | None = None
    problem: str = ""

    @property
    def state(self) -> str:
        """In words."""
        if self.summary is not None:
            return self.summary.state
        if self.said is not None:
            return str(self.said.get("state") or "unknown")
        if self.problem and self.progress is None:
            return "its record can't be read"
        return {True: "is running", False: "died", None: "died or is running"}[self.lives]

    @property
    def fields(self) -> dict[str, Any]:
        """As plain data: the summary as it was written."""
        found = {**(self.said or {}), "run": self.run, "state": self.state}
        if self.progress is not None:
            found["progress"] = self.progress.model_dump()
        if self.problem:
            found["problem"] = self.problem
        return found


def run_names(own: Store) -> list[str]:
    """The ids of all runs that have a record, latest first.

    Args:
        own: The store of our own files of an output.
    """
    return sorted(own.names("runs"), reverse=True)


def read_run(own: Store, run: str, *, lives: bool | None = None) -> RecordedRun:
    """What is recorded of a run; a record that is damaged says so and raises nothing.

    Args:
        own: The store of our own files of an output.
        run: The run's id.
        lives: Whether it is still running, as far as its lease tells.
    """
    said, summary, problem = _read(own, run, "summary.json", Summary)
    if said is not None:
        return RecordedRun(run, summary, {**said, "run": run}, None, False, problem)
    _, progress, other = _read(own, run, "progress.json", ProgressLine)
    problem = "; ".join(filter(None, (problem, other)))
    return RecordedRun(run, progress=progress, lives=lives, problem=problem)


def read_history(own: Store, run: str) -> Iterator[ProgressLine]:
    """How far a run was, from its start on; what can't be read of it is passed over."""
    for line in _lines(own, f"runs/{run}/history.jsonl"):
        found, _ = understood(ProgressLine, line)
        if found is not None:
            yield found


def read_events(own: Store, run: str) -> Iterator[AnyEvent]:
    """What happened in a run, in order; events that this version doesn't know are passed over.

    Raises:
        JobError: The record can't be listed.
    """
    parts = open_store(own.address(f"runs/{run}")).entries()
    for name in sorted(entry.path for entry in parts if EVENTS.fullmatch(entry.path)):
        for line in _lines(own, f"runs/{run}/{name}"):
            with suppress(ValidationError):
                yield ANY_EVENT.validate_python(line, extra="ignore")


def _lines(own: Store, path: str) -> Iterator[dict[str, Any]]:
    raw, _ = _content(own, path)
    for line in (raw or b"").splitlines():
        found, problem = parsed(line)
        if not problem:
            yield found


def _read(
    own: Store, run: str, name: str, model: type[M]
) -> tuple[dict[str, Any] | None, M | None, str]:
    """A file of a record as it is written and as it is understood, and what is wrong with it."""
    raw, problem = _content(own, f"runs/{run}/{name}")
    if raw is None:
        return None, None, problem
    said, problem = parsed(raw)
    if problem:
        return None, None, f"{name} {problem}"
    found, problem = understood(model, said)
    return said, found, f"{name}: {problem}" if problem else ""


def _content(own: Store, path: str) -> tuple[bytes | None, str]:
    """A file's content, None if there is none; or why it can't be read."""
    try:
        return own.read(path), ""
    except (OSError, ShardscribeError) as error:
        return None, f"{path} can't be read: {one_line(error, most=200)}"


def parsed(raw: bytes) -> tuple[dict[str, Any], str]:
    """A JSON object, or why it is none."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return {}, f"is damaged: {one_line(error, most=100)}" if raw else "is empty"
    if not isinstance(found, dict):
        return {}, "is damaged: it holds no JSON object"
    return found, ""


def understood(model: type[M], said: Mapping[str, Any]) -> tuple[M | None, str]:
    """As much of a JSON object as this version has words for.

    What is unknown is passed over, as a newer version may have written it; a field that makes no
    sense is left at its default, if it has one.

    Returns:
        None without a field that is needed; and the fields that make no sense, with the reason.
    """
    left = dict(said)
    problems: list[str] = []
    while True:
        try:
            return model.model_validate(left, extra="ignore"), "; ".join(problems)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            problems.append(f"{name}: {first['msg']}")
            if name not in left:  # it is needed and was never there, or has just been left out
                return None, "; ".join(problems)
            del left[name]
