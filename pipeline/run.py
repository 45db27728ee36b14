"""A job end to end: check, plan, pool, record, summary."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pipeline import __version__
from pipeline.check import Checked, check, pin
from pipeline.engine.record import RunRecord, Summary, versions
from pipeline.engine.tally import Display, Tally
from pipeline.engine.work import WorkPlan
from pipeline.errors import Interrupted, JobError, RunError, ShardscribeError
from pipeline.job import Job
from pipeline.lake.dataset import SUFFIXES, Plan, make_plan, splits_of
from pipeline.lake.publish import clean_scratch, read_footer
from pipeline.lake.store import Store, open_store

# Older scratch files belong to workers that are dead: a worker writes at least once a window.
SCRATCH_AGE = 24 * 3600.0
# Ray's own store; what passes through it here is receipts.
RAY_STORE_BYTES = 128 * 1024 * 1024
CONNECT_SECONDS = 10.0


def run_job(
    job: Job,
    *,
    display: Display,
    address: str | None = None,
    source: str = "",
    stop: Callable[[], int] = lambda: 0,
) -> Summary:
    """Annotates what is not annotated yet.

    Args:
        job: From `load_job`.
        display: Is shown notices and progress.
        address: Of a Ray cluster; None starts Ray on this machine.
        source: The job file's text, for the record.
        stop: 0 to go on, 1 to finish what is in flight, 2 to stop at once.

    Returns:
        What was done, also when splits failed or the run was interrupted; `exit_code` says how
        it ended.

    Raises:
        JobError: The job is wrong; nothing was annotated.
    """
    started = time.monotonic()
    checked = check(job)
    output = open_store(checked.job.output.path)
    revisions, _, fingerprint = pin(checked)
    plan = plan_run(checked, output, fingerprint=fingerprint)
    now = datetime.now(UTC)
    run = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    summary = Summary(
        run=run,
        job=job.name,
        state="nothing to do",
        exit_code=0,
        started=now.isoformat(timespec="seconds"),
        seconds=0.0,
        input=checked.job.input.path,
        output=checked.job.output.path,
        files=plan.files,
        fingerprint=fingerprint,
        models=revisions,
        vanished_outputs=plan.vanished,
        versions=versions(),
    )
    summary.splits.total, summary.splits.done_before = plan.splits, len(plan.done)
    if plan.vanished:
        display.notice(
            f"{len(plan.vanished)} output files belong to inputs that are gone "
            f"({plan.vanished[0]} is the first); they were left as they are"
        )
    if not plan.todo:
        summary.seconds = round(time.monotonic() - started, 3)
        return summary
    record = RunRecord(output, run)
    tally = Tally(plan, job.tasks, record, display, output.delete)
    try:
        record.write("job.yaml", source)
        clean_scratch(output.scratch(), older_than=SCRATCH_AGE, now=time.time())
    except OSError as error:
        raise JobError(
            f"output.path {output.root} can't be written: {error.strerror}",
            mend="Check its permissions and free space",
        ) from error
    try:
        _annotate(checked, plan, tally, summary, revisions, address=address, stop=stop)
        summary.state = "some splits failed" if tally.failed_splits else "done"
        summary.exit_code = 1 if tally.failed_splits else 0
    except ShardscribeError as error:
        summary.error = str(error)
        summary.exit_code = error.exit_code
        summary.state = "interrupted" if isinstance(error, Interrupted) else "failed"
    tally.fill(summary)
    summary.seconds = round(time.monotonic() - started, 3)
    record.flush()
    record.write("summary.json", summary.model_dump(mode="json"))
    return summary


def plan_run(checked: Checked, output: Store, *, fingerprint: str) -> Plan:
    """Lists input and output and tells what is left.

    Raises:
        JobError: The output holds something else.
    """
    splits = list(splits_of(checked.dataset.store, checked.files, fingerprint=fingerprint))
    outputs = [entry for entry in output.list() if entry.path.endswith(SUFFIXES)]
    plan = make_plan(
        splits,
        outputs,
        files=len(checked.files),
        read_footer=lambda path: read_footer(output, path),
        fingerprint=fingerprint,
    )
    # A run that died after it committed a new file and before it removed the old one.
    waiting = {split.id for split in plan.todo}
    for split in [split for split in plan.outdated if split not in waiting]:
        for path in plan.outdated.pop(split):
            output.delete(path)
    # Longest first: a long split that starts last would run alone at the end.
    plan.todo.sort(key=lambda split: -split.size)
    return plan


def _annotate(
    checked: Checked,
    plan: Plan,
    tally: Tally,
    summary: Summary,
    revisions: dict[str, str],
    *,
    address: str | None,
    stop: Callable[[], int],
) -> None:
    tally.phase("starting Ray")
    from pipeline.engine.placement import describe, places, shape_of
    from pipeline.engine.pool import Pool
    from pipeline.engine.scheduler import Scheduler

    compute = checked.job.compute
    with ray_cluster(address) as nodes:
        shape = shape_of(compute, nodes())
        if address is None and not places(shape, nodes()):
            raise JobError(
                f"a worker asks for {shape}, and this machine has {describe(nodes())}",
                mend="Lower compute.cpus_per_worker, or set compute.device to cpu",
            )
        pool = Pool(
            WorkPlan(
                checked.job,
                checked.infos,
                revisions,
                summary.fingerprint,
                __version__,
                shape.device,
                shape.cpus,
            ),
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


@contextmanager
def ray_cluster(address: str | None) -> Iterator[Callable[[], list[dict[str, float]]]]:
    """Connects to Ray, or starts it on this machine for as long as the block runs.

    Yields:
        A function that gives the resources of each living node.

    Raises:
        RunError: There is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    def nodes() -> list[dict[str, float]]:
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    if ray.is_initialized():
        yield nodes
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is None:
        options |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": RAY_STORE_BYTES,
        }
    else:
        options["address"] = address
    try:
        if address is not None:
            _knock(address)
        ray.init(**options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"no Ray cluster at {address or 'this machine'}: {reason}",
            mend="Start one with `ray start --head`, or leave out --address to use this machine",
        ) from error
    try:
        yield nodes
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ray tries an address that nobody answers for many minutes; one look tells as much."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
