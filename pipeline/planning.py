"""What a run has to do, by the input and the output as they are; and what it has done, likewise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import RunError, ShardscribeError
from pipeline.job.check import Pinned
from pipeline.job.quantities import bytes_told
from pipeline.lake.limit import counted, hold_back
from pipeline.lake.memory import Memory
from pipeline.lake.plan import Plan, make_plan
from pipeline.lake.sink.base import Sink
from pipeline.lake.split import Rows, Split
from pipeline.verify import damaged


@dataclass(frozen=True)
class Choices:
    """What a user may ask of a run beside the job.

    Attributes:
        address: Of a Ray cluster; None starts Ray on this machine.
        wait: Wait for another run that holds the output, instead of giving up.
        prune: Remove output whose input is gone.
        supersede: Replace output of a job that gives other results.
        full: Annotate what is done again.
        retry_bad_rows: Annotate splits that hold bad rows again.
        retry_damaged: Read the whole output and annotate what is damaged again.
        limit: Stop when so many rows are annotated, or a few more.
    """

    address: str | None = None
    wait: bool = False
    prune: bool = False
    supersede: bool = False
    full: bool = False
    retry_bad_rows: bool = False
    retry_damaged: bool = False
    limit: int | None = None


AS_IT_IS = Choices()


def look(pinned: Pinned, *, choices: Choices = AS_IT_IS) -> Plan:
    """Compares input and output, and changes nothing.

    Raises:
        JobError: The output holds something else.
    """
    source, sink = pinned.checked.source, pinned.checked.sink
    large, whole = Memory(sink.own, "inputs"), Memory(sink.own, "outputs")
    outputs = sink.present()
    plan = make_plan(
        pinned.splits(large, there={entry.path for entry in outputs}),
        outputs,
        files=len(pinned.checked.listing.files),
        look=sink.look,
        known=lambda entry: whole.get(entry.path, str(entry.size)) is not None,
        fingerprint=pinned.fingerprint,
        parts=pinned.parts,
        supersede=choices.supersede,
        missed=list(pinned.checked.listing.missed),
        rewritten=pinned.checked.listing.rewritten,
    )
    large.save({entry.path for entry in pinned.checked.listing.files})
    for entry in outputs:
        if entry.path not in plan.damaged and entry.path not in plan.unread:
            whole.put(entry.path, str(entry.size))
    whole.save({entry.path for entry in outputs})
    if choices.retry_damaged:
        wrong, unread = damaged(source, sink, plan.done, pinned.checked.job)
        plan.damaged |= wrong
        plan.unread |= unread
        plan.again(split for split in plan.done if split.output_path in wrong)
    if choices.retry_bad_rows:
        there = {entry.path: entry for entry in outputs}
        footers = sink.look([there[split.output_path] for split in plan.done])
        pairs = list(zip(plan.done, footers, strict=True))
        plan.again(split for split, footer in pairs if has_bad_rows(footer.said))
    if choices.full:
        plan.again(plan.done)
    if choices.limit is not None:
        hold_back(plan, choices.limit, count=counted(source))
    # Longest first: a long split that starts last would run alone at the end. Of one size, as a
    # file's ranges of rows are, they stay side by side.
    plan.todo.sort(key=lambda split: -split.size)
    return plan


def told(plan: Plan) -> str:
    """How many splits there are to do, and how large they are."""
    regions = [split.region for split in plan.todo]
    splits = f"{len(regions):,} split{'s' if len(regions) != 1 else ''}"
    ranges = [region.count for region in regions if isinstance(region, Rows)]
    if len(ranges) == len(regions):
        of = "of" if len({*ranges}) == 1 else "of up to"
        return f"{sum(ranges):,} rows in {splits} {of} {max(ranges):,} rows"
    sizes = [split.size for split in plan.todo]
    of = "of" if len({*sizes}) == 1 else "of up to"
    return f"{bytes_told(sum(sizes))} in {splits} {of} {bytes_told(max(sizes))}"


def plan_run(
    pinned: Pinned,
    *,
    choices: Choices = AS_IT_IS,
    notice: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Compares input and output, and removes what may go already.

    Raises:
        JobError: The output holds something else.
    """
    sink = pinned.checked.sink
    for asked, verb in ((choices.retry_bad_rows, "retry --bad-rows"), (choices.full, "run --full")):
        if asked:
            sink.refuse([], rewrite=verb)
    plan = look(pinned, choices=choices)
    going = [path for paths in plan.outdated.values() for path in paths]
    sink.refuse([*going, *plan.rewritten, *(plan.vanished if choices.prune else ())])
    _tidy(plan, sink, choices=choices, notice=notice)
    return plan


def _tidy(plan: Plan, sink: Sink, *, choices: Choices, notice: Callable[[str], None]) -> None:
    """Says what is wrong with the output, and removes what may go before anything is annotated."""
    _tell(plan, notice)
    # A run may have died after it committed the new files and before it removed the old one.
    waiting = {split.path for split in [*plan.todo, *plan.held]}
    for source in [source for source in plan.outdated if source not in waiting]:
        stays = [path for path in plan.outdated.pop(source) if not _delete(sink, path, notice)]
        if stays:
            plan.outdated[source] = stays
    if not waiting:
        clear_away(plan, sink, notice=notice)
    if choices.prune:
        for path in plan.vanished:
            _delete(sink, path, notice)


def clear_away(plan: Plan, sink: Sink, *, notice: Callable[[str], None]) -> None:
    """Removes what was made of inputs whose rows are in others, all of which are committed."""
    plan.rewritten = [path for path in plan.rewritten if not _delete(sink, path, notice)]


def look_again(pinned: Pinned, splits: list[Split], *, known: set[str], left: int) -> None:
    """Looks at the output once more, as somebody else may have written to it meanwhile.

    Args:
        pinned: The job.
        splits: All of the job's.
        known: Other output files that were there when the run was planned.
        left: How many splits have no file, as far as the run knows.

    Raises:
        RunError: A file is of another job, or of an input that has another one; or one is gone.
    """
    sink = pinned.checked.sink
    there = {entry.path: entry for entry in sink.present()}
    missing = [s.output_path for s in splits if s.output_path not in there]
    # A listing of a network file system may be a little behind.
    if len(missing) > left:
        missing = [path for path in missing if sink.entry(path) is None]
    if len(missing) > left:
        raise RunError(
            f"{len(missing) - left} files are gone that were committed to {sink.address}, "
            f"such as {missing[0]}",
            hint="Find out who removes them, and run the same command again",
        )
    others = sorted(there.keys() - known - {split.output_path for split in splits})
    sources = {split.path for split in splits}
    footers = sink.look([there[path] for path in others])
    for path, said in zip(others, (footer.said for footer in footers), strict=True):
        if said.get("fingerprint") != pinned.fingerprint or said.get("input") in sources:
            raise RunError(
                f"{sink.where(path)} was written meanwhile by job "
                f"{said.get('job', 'unknown')}, not by this run: rows may be there twice",
                hint="Let nothing else write to the output, and run the same command again; if "
                "it is refused, with --supersede",
            )


def remember(sink: Sink, sizes: Mapping[str, int]) -> None:
    """Keeps the sizes of committed files, so that the next run sees damage without a look."""
    whole = Memory(sink.own, "outputs")
    for path, size in sizes.items():
        whole.put(path, str(size))
    whole.save()


def _tell(plan: Plan, notice: Callable[[str], None]) -> None:
    """Says what is wrong with output files."""
    again = (split.output_path for split in plan.todo if split.replace)
    anew = [path for path in again if path in plan.damaged]
    if anew:
        notice(
            f"{len(anew)} output files are damaged and are annotated anew "
            f"({anew[0]} is the first: {plan.damaged[anew[0]].removeprefix(anew[0]).strip()})"
        )
    if plan.unread:
        path, why = next(iter(plan.unread.items()))
        notice(f"{len(plan.unread)} output files can't be checked and stay ({path}: {why})")


def has_bad_rows(footer: Mapping[str, Any]) -> bool:
    """Whether an output file's footer counts rows with errors."""
    return bool((footer.get("rows") or {}).get("bad"))


def _delete(sink: Sink, path: str, notice: Callable[[str], None]) -> bool:
    try:
        sink.delete(path)
    except (OSError, ShardscribeError) as error:
        notice(f"{sink.where(path)} can't be removed; the next run will try again: {error}")
        return False
    return True
