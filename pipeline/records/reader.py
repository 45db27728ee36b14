"""Reads run records: whole ones, and what a run that died, a disk or a newer version has left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import ShardscribeError, one_line
from pipeline.lake.store.base import Store
from pipeline.records.schema import Summary

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class RecordedRun:
    """What a run's record says.

    Attributes:
        run: Its id.
        summary: None if the run died or is running, or if nothing of it can be understood.
        said: The summary as it is written, also by a newer version; empty if there is none.
        problem: What of the record can't be read, and why; empty if all can.
    """

    run: str
    summary: Summary | None = None
    said: Mapping[str, Any] | None = None
    problem: str = ""

    @property
    def state(self) -> str:
        """In words."""
        if self.summary is not None:
            return self.summary.state
        if self.said is not None:
            return str(self.said.get("state") or "unknown")
        return "its record can't be read" if self.problem else "died or is running"

    @property
    def fields(self) -> dict[str, Any]:
        """As plain data: the summary as it was written."""
        problem = {"problem": self.problem} if self.problem else {}
        return {**(self.said or {}), "run": self.run, "state": self.state, **problem}


def run_names(own: Store) -> list[str]:
    """The ids of all runs that have a record, latest first.

    Args:
        own: The store of our own files of an output.
    """
    return sorted(own.names("runs"), reverse=True)


def read_run(own: Store, run: str) -> RecordedRun:
    """What is recorded of a run; a record that is damaged says so and raises nothing."""
    raw, problem = read_file(own, f"runs/{run}/summary.json")
    if raw is None:
        return RecordedRun(run, problem=problem)
    said, problem = parsed(raw)
    if not problem:
        summary, problem = understood(Summary, said)
        return RecordedRun(run, summary, {**said, "run": run}, _in("summary.json", problem))
    return RecordedRun(run, problem=_in("summary.json", problem))


def read_file(own: Store, path: str) -> tuple[bytes | None, str]:
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


def _in(name: str, problem: str) -> str:
    return f"{name}: {problem}" if problem else ""
