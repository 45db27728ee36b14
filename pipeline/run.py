"""A job end to end: check, plan, pool, record, summary."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from pipeline.engine.driver.cluster import cluster_device, ray_cluster
from pipeline.engine.driver.lease import Lease
from pipeline.engine.driver.tally import Display, Tally
from pipeline.engine.messages import WorkPlan
from pipeline.errors import Interrupted, JobError, OutputBusy, RunError, ShardscribeError
from pipeline.job.check import FIRST_FILES, Pinned, check, pin
from pipeline.job.file import job_text
from pipeline.job.job import Job
from pipeline.lake.plan import Plan
from pipeline.lake.sink.base import Sink
from pipeline.lake.sink.owner import Owner
from pipeline.lake.sink.scratch import clean_up
from pipeline.lake.store.probe import check_create_only
from pipeline.planning import (
    AS_IT_IS,
    Choices,
    clear_away,
    look,
    look_again,
    plan_run,
    remember,
    told,
)
from pipeline.records.schema import DEATHS_KEPT, Summary, Unread
from pipeline.records.writer import RunRecord, versions

# Files that are looked at before the lease is held; all are listed under it.
UNREAD_SHOWN = 20


def run_job(
    job: Job,
    *,
    display: Display,
    choices: Choices = AS_IT_IS,
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
    checked = check(job, at_most=FIRST_FILES)
    with cluster_device(checked.job.compute, choices.address) as device:
        return _run_pinned(pin(checked, device=device), started, display, choices, stop)


def _run_pinned(
    pinned: Pinned,
    started: float,
    display: Display,
    choices: Choices,
    stop: Callable[[], int],
) -> Summary:
    sink = pinned.checked.sink
    now = datetime.now(UTC)
    run = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    lease = Lease(
        sink.own, run, output=sink.address, wait=choices.wait, notice=display.notice, stop=stop
    )
    try:
        check_create_only(sink.own)
        lease.take()
    except OSError as error:
        raise JobError(
            f"output.path {sink.address} can't be written: {error.strerror or error} "
            f"({sink.own.root})",
            hint="Check the permissions and free space there: records and unfinished files are "
            "kept beside the output",
        ) from error
    record = RunRecord(sink.own, run, notice=display.notice)
    with lease, record:
        summary = _run_under(lease, record, pinned, display, choices, stop)
        summary.started = now.isoformat(timespec="seconds")
        summary.seconds = round(time.monotonic() - started, 3)
        if summary.state != "nothing to do":
            record.write("summary.json", summary.model_dump(mode="json"))
    return summary


def _run_under(
    lease: Lease,
    record: RunRecord,
    pinned: Pinned,
    display: Display,
    choices: Choices,
    stop: Callable[[], int],
) -> Summary:
    job, sink = pinned.checked.job, pinned.checked.sink
    owner = Owner(sink, pinned.fingerprint)
    pinned = replace(pinned, checked=pinned.checked.listed(keep=True))
    if not owner.is_marked:
        if not choices.supersede:
            look(pinned)  # if it holds another job's files, that one goes on
        owner.claim(lease.run)
    plan = plan_run(pinned, choices=choices, notice=display.notice)
    splits = [*plan.done, *plan.todo, *plan.held]
    known, missed = plan.others, pinned.checked.listing.missed
    summary = Summary(
        run=lease.run,
        job=job.name,
        state="nothing to do",
        exit_code=0,
        started="",
        seconds=0.0,
        input=job.input.address,
        output=job.output.path,
        input_version=pinned.checked.source.version,
        files=plan.files,
        fingerprint=pinned.fingerprint,
        models=pinned.revisions,
        vanished_outputs=plan.vanished,
        unread=[Unread(path=path, reason=reason) for path, reason in missed.items()],
        versions=versions(),
    )
    summary.splits.total, summary.splits.done_before = plan.splits, len(plan.done)
    if plan.vanished:
        what = "were removed" if choices.prune else "stay: --prune removes them"
        display.notice(
            f"{len(plan.vanished)} output files, whose input is gone, {what} "
            f"({plan.vanished[0]} is the first)"
        )
    for path, reason in list(missed.items())[:UNREAD_SHOWN]:
        display.notice(f"{pinned.checked.source.where(path)} can't be read: {reason}")
    if missed:
        display.notice(
            f"{len(missed)} paths of the input can't be read; {len(plan.hidden)} output files that "
            "may be theirs stay"
        )
        summary.state, summary.exit_code = "some input can't be read", 1
    clean_up(sink)
    wanted = {split.output_path for split in splits}

    def guard() -> None:
        lease.refuse_loss()
        owner.refuse_loss()

    def commit() -> None:
        if not plan.rewritten:  # else a table would have their rows twice
            _finish(sink, lease.run, wanted=wanted, guard=guard)

    every = job.output.commit_every or 0
    tally = Tally(plan, job.tasks, record, display, sink.delete, every=every, commit=commit)
    try:
        if plan.todo:
            record.write("job.yaml", job_text(job))
            tally.notice(told(plan))
            _annotate(
                pinned, plan, tally, summary, address=choices.address,
                stop=lambda: 2 if lease.lost else stop(),
            )  # fmt: skip
            tally.phase("looking at what is there")
            guard()
            left = len(tally.failed_splits) + len(plan.held)
            look_again(pinned, splits, known=known, left=left)
        # Also where there was nothing to do: the run before this one may have died before it.
        if not tally.failed_splits and not plan.held:
            clear_away(plan, sink, notice=display.notice)
        commit()
        if tally.failed_splits:
            summary.state, summary.exit_code = "some splits failed", 1
        elif plan.todo and not missed:
            summary.state = "limit reached" if plan.held else "done"
    except (ShardscribeError, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt):  # the third signal, where nobody asks `stop`
            error = Interrupted("interrupted")
        stopped = lease.lost or _taken(owner) or error
        summary.error = str(stopped)
        summary.exit_code = stopped.exit_code
        summary.state = "interrupted" if isinstance(stopped, Interrupted) else "failed"
    if plan.todo:
        tally.fill(summary)
        remember(sink, tally.sizes)
        clean_up(sink)
    return summary


def _finish(sink: Sink, run: str, *, wanted: set[str], guard: Callable[[], None]) -> None:
    try:
        sink.finish(run, wanted=wanted, guard=guard)
    except OSError as error:
        raise RunError(
            f"the run can't be finished in {sink.address}: {error.strerror or error}",
            hint="All that is annotated is committed: run the same command again",
        ) from error


def _taken(owner: Owner) -> OutputBusy | None:
    """What to say of a worker that found the output taken."""
    try:
        owner.refuse_loss()
    except OutputBusy as error:
        return error
    except (OSError, ShardscribeError):
        pass
    return None


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
    compute = pinned.checked.job.compute
    with ray_cluster(address) as cluster:
        from pipeline.engine.driver.placement import describe, places, shape_of
        from pipeline.engine.driver.pool import Pool
        from pipeline.engine.driver.ray_actors import RayActors
        from pipeline.engine.driver.scheduler import Scheduler

        there = list(cluster.nodes().values())
        shape = shape_of(compute, there)
        if address is None and not places(shape, there):
            raise JobError(
                f"a worker asks for {shape}, and this machine has {describe(there)}",
                hint="Lower compute.cpus_per_worker, or set compute.device to cpu",
            )
        actors = RayActors(head_answers=cluster.answers)
        pool = Pool(
            WorkPlan.of(pinned, device=shape.device, threads=shape.cpus),
            Scheduler(plan.todo),
            actors=actors,
            shape=shape,
            limit=None if compute.workers == "auto" else compute.workers,
            nodes=cluster.nodes,
            listener=tally,
        )
        summary.device = shape.device
        tally.phase("starting workers")
        try:
            pool.run(stop=lambda: 2 if cluster.lost else stop())
        except Interrupted as error:
            raise cluster.lost or error from error
        finally:
            actors.close()
            summary.workers, summary.workers_lost = pool.most_ready, pool.lost
            summary.deaths = pool.deaths[:DEATHS_KEPT]
