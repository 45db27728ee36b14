"""A job end to end: check, plan, pool, record, summary."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pipeline.check import Pinned, check, pin
from pipeline.engine.cluster import cluster_device, ray_cluster
from pipeline.engine.lease import Lease
from pipeline.engine.record import RunRecord, Summary, versions
from pipeline.engine.tally import Display, Tally
from pipeline.errors import Interrupted, JobError, ShardscribeError
from pipeline.job import Job
from pipeline.job_file import job_text
from pipeline.lake.dataset import SUFFIXES
from pipeline.lake.footers import look_all, read_footers
from pipeline.lake.memory import Memory
from pipeline.lake.plan import Plan, make_plan
from pipeline.lake.publish import clean_scratch
from pipeline.lake.store import Store, open_store


@dataclass(frozen=True)
class Choices:
    """What a user may ask of a run beside the job.

    Attributes:
        address: Of a Ray cluster; None starts Ray on this machine.
        wait: Wait for another run that holds the output, instead of giving up.
        prune: Remove output whose input is gone.
        supersede: Replace output of a job that gives other results.
        retry_bad_rows: Annotate splits that hold bad rows again.
    """

    address: str | None = None
    wait: bool = False
    prune: bool = False
    supersede: bool = False
    retry_bad_rows: bool = False


def run_job(
    job: Job,
    *,
    display: Display,
    choices: Choices = Choices(),
    stop: Callable[[], int] = lambda: 0,
) -> Summary:
    """Annotates what is not annotated yet.

    Args:
        job: From `load_job`.
        display: Is shown notices and progress.
        choices: What else the user asks for.
        stop: 0 to go on, 1 to finish what is in flight, 2 to stop at once.

    Returns:
        What was done, also when splits failed or the run was interrupted; `exit_code` says how
        it ended.

    Raises:
        JobError: The job is wrong; nothing was annotated.
        OutputBusy: Another run holds the output.
    """
    started = time.monotonic()
    checked = check(job)
    with cluster_device(checked.job.compute, choices.address) as device:
        return _run_pinned(pin(checked, device=device), started, display, choices, stop)


def _run_pinned(
    pinned: Pinned,
    started: float,
    display: Display,
    choices: Choices,
    stop: Callable[[], int],
) -> Summary:
    output = open_store(pinned.checked.job.output.path)
    now = datetime.now(UTC)
    run = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    lease = Lease(
        output.own, run, output=output.root, wait=choices.wait, notice=display.notice, stop=stop
    )
    try:
        lease.take()
    except OSError as error:
        raise JobError(
            f"output.path {output.root} can't be written: {error.strerror or error} "
            f"({output.own.root})",
            mend="Check the permissions and free space there: records and unfinished files are "
            "kept beside the output",
        ) from error
    record = RunRecord(output.own, run, notice=display.notice)
    with lease:
        summary = _run_under(lease, record, pinned, output, display, choices, stop)
        summary.started = now.isoformat(timespec="seconds")
        summary.seconds = round(time.monotonic() - started, 3)
        if summary.state != "nothing to do":
            record.write("summary.json", summary.model_dump(mode="json"))
    return summary


def _run_under(
    lease: Lease,
    record: RunRecord,
    pinned: Pinned,
    output: Store,
    display: Display,
    choices: Choices,
    stop: Callable[[], int],
) -> Summary:
    job = pinned.checked.job
    plan = plan_run(pinned, output, choices=choices, notice=display.notice)
    summary = Summary(
        run=lease.run,
        job=job.name,
        state="nothing to do",
        exit_code=0,
        started="",
        seconds=0.0,
        input=job.input.path,
        output=job.output.path,
        files=plan.files,
        fingerprint=pinned.fingerprint,
        models=pinned.revisions,
        vanished_outputs=plan.vanished,
        versions=versions(),
    )
    summary.splits.total, summary.splits.done_before = plan.splits, len(plan.done)
    if plan.vanished:
        what = "were removed" if choices.prune else "stay: --prune removes them"
        display.notice(
            f"{len(plan.vanished)} output files, whose input is gone, {what} "
            f"({plan.vanished[0]} is the first)"
        )
    _clean(output)
    if not plan.todo:
        return summary
    tally = Tally(plan, job.tasks, record, display, output.delete)
    record.write("job.yaml", job_text(job))
    try:
        _annotate(
            pinned, plan, tally, summary, address=choices.address,
            stop=lambda: 2 if lease.lost else stop(),
        )  # fmt: skip
        summary.state = "some splits failed" if tally.failed_splits else "done"
        summary.exit_code = 1 if tally.failed_splits else 0
    except ShardscribeError as error:
        stopped = lease.lost or error
        summary.error = str(stopped)
        summary.exit_code = stopped.exit_code
        summary.state = "interrupted" if isinstance(stopped, Interrupted) else "failed"
    tally.fill(summary)
    record.flush()
    _remember(output, tally.sizes)
    _clean(output)
    return summary


def _clean(output: Store) -> None:
    """Removes what killed workers left; a disk that refuses is no reason to stop."""
    with suppress(OSError):
        clean_scratch(output.scratch(), now=time.time())


def plan_run(
    pinned: Pinned,
    output: Store,
    *,
    choices: Choices = Choices(),
    notice: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Lists input and output, tells what is left, and removes what may go already.

    Raises:
        JobError: The output holds something else.
    """
    large, whole = Memory(output.own, "inputs"), Memory(output.own, "outputs")
    outputs = [entry for entry in output.entries() if entry.path.endswith(SUFFIXES)]
    plan = make_plan(
        pinned.splits(large),
        outputs,
        files=len(pinned.checked.files),
        look=lambda entries: look_all(output, entries),
        known=lambda entry: whole.get(entry.path, str(entry.size)) is not None,
        fingerprint=pinned.fingerprint,
        parts=pinned.parts,
        supersede=choices.supersede,
    )
    large.save({entry.path for entry in pinned.checked.files})
    for entry in outputs:
        if entry.path not in plan.damaged and entry.path not in plan.unread:
            whole.put(entry.path, str(entry.size))
    whole.save({entry.path for entry in outputs})
    _tell(plan, notice)
    if choices.retry_bad_rows:
        footers = read_footers(output, [split.output_path for split in plan.done])
        bad = {s.id for s, found in zip(plan.done, footers, strict=True) if has_bad_rows(found)}
        plan.todo += [replace(split, replace=True) for split in plan.done if split.id in bad]
        plan.done = [split for split in plan.done if split.id not in bad]
    # A run may have died after it committed the new files and before it removed the old one.
    waiting = {split.path for split in plan.todo}
    for source in [source for source in plan.outdated if source not in waiting]:
        for path in plan.outdated.pop(source):
            _delete(output, path, notice)
    if choices.prune:
        for path in plan.vanished:
            _delete(output, path, notice)
    # Longest first: a long split that starts last would run alone at the end.
    plan.todo.sort(key=lambda split: -split.size)
    return plan


def _tell(plan: Plan, notice: Callable[[str], None]) -> None:
    """Says what is wrong with output files."""
    if anew := [split.output_path for split in plan.todo if split.replace]:
        notice(
            f"{len(anew)} output files are damaged and are annotated anew "
            f"({anew[0]} is the first: {plan.damaged[anew[0]]})"
        )
    if plan.unread:
        path, why = next(iter(plan.unread.items()))
        notice(f"{len(plan.unread)} output files can't be read and stay ({path}: {why})")


def _remember(output: Store, sizes: Mapping[str, int]) -> None:
    """Keeps the sizes of committed files, so that the next run sees damage without a look."""
    whole = Memory(output.own, "outputs")
    for path, size in sizes.items():
        whole.put(path, str(size))
    whole.save()


def _delete(output: Store, path: str, notice: Callable[[str], None]) -> None:
    try:
        output.delete(path)
    except (OSError, ShardscribeError) as error:
        notice(f"{output.address(path)} can't be removed; the next run will try again: {error}")


def has_bad_rows(footer: Mapping[str, Any]) -> bool:
    """Whether an output file's footer counts rows with errors."""
    return bool((footer.get("rows") or {}).get("bad"))


def _annotate(
    pinned: Pinned,
    plan: Plan,
    tally: Tally,
    summary: Summary,
    *,
    address: str | None,
    stop: Callable[[], int],
) -> None:
    tally.phase("starting Ray")
    from pipeline.engine.placement import describe, places, shape_of
    from pipeline.engine.pool import Pool
    from pipeline.engine.scheduler import Scheduler

    compute = pinned.checked.job.compute
    with ray_cluster(address) as nodes:
        shape = shape_of(compute, nodes())
        if address is None and not places(shape, nodes()):
            raise JobError(
                f"a worker asks for {shape}, and this machine has {describe(nodes())}",
                mend="Lower compute.cpus_per_worker, or set compute.device to cpu",
            )
        pool = Pool(
            pinned.work(device=shape.device, threads=shape.cpus),
            shape=shape,
            limit=None if compute.workers == "auto" else compute.workers,
            nodes=nodes,
            listener=tally,
        )
        summary.device = shape.device
        tally.phase("starting workers")
        try:
            pool.run(Scheduler(plan.todo), stop=stop)
        finally:
            summary.workers, summary.workers_lost = pool.most_ready, pool.lost
            tally.pulses = pool.pulses()
