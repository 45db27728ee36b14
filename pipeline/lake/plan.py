"""What should be there, compared with what the output holds: what is left to do."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import JobError
from pipeline.lake.sink.base import Footer
from pipeline.lake.split import MERGED_NAME, OUTPUT_NAME, Split
from pipeline.lake.store.base import Entry


@dataclass
class Plan:
    """What is left to do.

    Attributes:
        todo: Splits without an output file, or with one that is damaged.
        done: Splits with one.
        outdated: Output files of earlier versions of an input, by the input's path. They go when
            all splits of the input are committed.
        vanished: Output files whose input is gone.
        rewritten: Output files of inputs whose rows are in other inputs by now. They go when all
            splits are committed.
        hidden: Output files whose input may be there, but can't be listed; they stay.
        damaged: Output files that are not whole, and why.
        unread: Output files that could not be looked at, and why; they stay.
        held: Splits without an output file that this run leaves to the next.
        files: Input files.
    """

    todo: list[Split] = field(default_factory=list)
    done: list[Split] = field(default_factory=list)
    outdated: dict[str, list[str]] = field(default_factory=dict)
    vanished: list[str] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    held: list[Split] = field(default_factory=list)
    files: int = 0

    @property
    def others(self) -> set[str]:
        """Output files that are no split's."""
        outdated = (path for paths in self.outdated.values() for path in paths)
        return {*outdated, *self.vanished, *self.rewritten, *self.hidden, *self.unread}

    @property
    def splits(self) -> int:
        """All splits of the dataset."""
        return len(self.todo) + len(self.done) + len(self.held)

    def again(self, splits: Iterable[Split]) -> None:
        """Has splits that are done annotated again, in the place of what is there."""
        asked = {split.id for split in splits}
        self.todo += [replace(split, replace=True) for split in self.done if split.id in asked]
        self.done = [split for split in self.done if split.id not in asked]


def make_plan(
    splits: Sequence[Split],
    outputs: Sequence[Entry],
    *,
    files: int,
    look: Callable[[Sequence[Entry]], Iterable[Footer]],
    fingerprint: str,
    known: Callable[[Entry], bool] = lambda entry: False,
    parts: Mapping[str, Any] | None = None,
    supersede: bool = False,
    missed: Sequence[str] = (),
    rewritten: Callable[[Sequence[str]], Container[str]] = lambda paths: (),
) -> Plan:
    """Compares what should be there with what is there, by names and sizes.

    A footer is read for names that should not be there, and where the size is not known to be
    that of a whole file.

    Args:
        splits: All splits of the dataset.
        outputs: Every Parquet file of the output.
        files: How many input files there are.
        look: Reads the ends of output files.
        fingerprint: Of this job.
        known: Whether an output file was whole when it had this size.
        parts: What the fingerprint is made of, to name differences.
        supersede: Take files of a job that gives other results for outdated.
        missed: Paths of input files and directories that can't be listed.
        rewritten: Tells of input files that are gone which have their rows in others by now.

    Raises:
        JobError: The output holds files of something else, or of a job that gives other results.
    """
    plan = Plan(files=files)
    present = {entry.path: entry for entry in outputs}
    expected = {split.output_path: split for split in splits}
    there = {path: present.pop(path) for path in expected if path in present}
    doubtful = [entry for entry in there.values() if not known(entry)]
    for entry, footer in zip(doubtful, look(doubtful), strict=True):
        of = footer.said.get("split", expected[entry.path].id)
        if footer.damage:
            plan.damaged[entry.path] = footer.damage
        elif of != expected[entry.path].id:
            plan.damaged[entry.path] = f"it says it is of split {of}"
        elif footer.unread:
            plan.unread[entry.path] = footer.unread
    for path, split in expected.items():
        if path not in there:
            plan.todo.append(split)
        elif path in plan.damaged:
            plan.todo.append(replace(split, replace=True))
        else:
            plan.done.append(split)
    rest = [present[path] for path in sorted(present)]
    gone = _sort_rest(plan, rest, look, splits, fingerprint, parts or {}, supersede, missed)
    found = rewritten(sorted({*gone.values()})) if gone else ()
    plan.vanished = [path for path, source in gone.items() if source not in found]
    plan.rewritten += [path for path, source in gone.items() if source in found]
    return plan


def _sort_rest(
    plan: Plan,
    rest: Sequence[Entry],
    look: Callable[[Sequence[Entry]], Iterable[Footer]],
    splits: Sequence[Split],
    fingerprint: str,
    parts: Mapping[str, Any],
    supersede: bool,
    missed: Sequence[str],
) -> dict[str, str]:
    """What to do with files that are of none of the splits; gives those whose input is gone."""
    gone: dict[str, str] = {}
    for entry in rest:
        name = posixpath.basename(entry.path)
        if not (OUTPUT_NAME.match(name) or MERGED_NAME.match(name)):
            raise _foreign(entry.path)
    sources = {split.path for split in splits}
    by_stem = {split.stem_path: split.path for split in splits} if rest else {}
    ours = bool(plan.done or plan.damaged)
    left_over: list[tuple[str, dict[str, Any]]] = []
    for entry, footer in zip(rest, look(rest), strict=True):
        if footer.unread:
            plan.unread[entry.path] = footer.unread
            continue
        if footer.damage and not missed and MERGED_NAME.match(posixpath.basename(entry.path)):
            # Of whatever it held, all that is in the input is annotated anew; then it goes.
            plan.damaged[entry.path] = footer.damage
            plan.rewritten.append(entry.path)
            continue
        if footer.damage:
            plan.damaged[entry.path] = footer.damage
            source = footer.said.get("input") or by_stem.get(_stem_path(entry.path), "")
        elif not footer.said:
            raise _foreign(entry.path)
        else:
            source = str(footer.said.get("input"))
            same = footer.said.get("fingerprint") == fingerprint
            ours = ours or same
            if not same and not supersede:
                if source in sources:
                    raise _other(entry.path, footer.said, fingerprint, parts)
                left_over.append((entry.path, footer.said))
        if source in sources:
            plan.outdated.setdefault(source, []).append(entry.path)
        elif (missed and not source) or any(f"{source}/".startswith(f"{path}/") for path in missed):
            plan.hidden.append(entry.path)
        else:
            gone[entry.path] = source
    # What another job left of an input that is gone is in nobody's way, once the output is ours.
    if left_over and not ours:
        raise _other(*left_over[0], fingerprint, parts)
    return gone


def _stem_path(path: str) -> str:
    directory, name = posixpath.split(path)
    found = OUTPUT_NAME.match(name)
    return posixpath.join(directory, found["stem"]) if found else path


def _other(
    path: str, footer: Mapping[str, Any], fingerprint: str, parts: Mapping[str, Any]
) -> JobError:
    before = footer.get("fingerprint_parts")
    named = differences(before, parts) if before else []
    return JobError(
        f"the output holds {path}, which job {footer.get('job', 'unknown')} annotated "
        f"in another way: {'; '.join(named) or 'fingerprints differ'} "
        f"({footer.get('fingerprint')} is not {fingerprint})",
        hint="Choose another output directory, or add --supersede to replace it all",
    )


def _foreign(path: str) -> JobError:
    return JobError(
        f"the output holds {path}, which shardscribe did not write",
        hint="Choose an empty output directory",
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], at: str = "") -> list[str]:
    """What differs between two nested mappings, as ``tasks.pii.aggregation was first, is max``."""
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        name = f"{at}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{name}.")
        elif old != new:
            if isinstance(old, Mapping) or isinstance(new, Mapping):
                found.append(f"{name} {'is new' if old is None else 'is gone'}")
            else:
                found.append(f"{name} was {_word(old)}, is {_word(new)}")
    return found


def _word(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:40]}…{text[-12:]}"
