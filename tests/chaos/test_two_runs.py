"""Two runs on one output: the lease keeps them apart, and without it the output is right too."""

import json
import os
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from chaos_jobs import SLOW, Job, take
from helpers import PATIENCE, own, wait_for

pytestmark = pytest.mark.chaos

LEASE = "lease.json"
# Two workers fit the cluster side by side.
ONE_CORE = {**SLOW, "cpus_per_worker": 1}


@pytest.fixture
def job(lake, tiny_model, tmp_path) -> Job:
    few = take(lake, tmp_path / "lake", 40)
    return Job(tmp_path, lake=few, model=tiny_model, compute=ONE_CORE)


def write_lease(job: Job, **fields) -> Path:
    path = own(job.output) / LEASE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"run": "20990101T000000Z-abc123", "pid": 1, "process": "x.1.2"} | fields)
    )
    return path


def run_both(job: Job, cluster, *options: str) -> list[int]:
    """The exit codes of two runs that are started together."""
    with ExitStack() as stack:
        both = [
            stack.enter_context(job.process("--address", cluster.address, *options))
            for _ in range(2)
        ]
        return [process.wait(PATIENCE) for process in both]


def test_of_two_runs_started_together_one_works_and_the_other_says_who_does(
    cluster, job, undisturbed
):
    assert sorted(run_both(job, cluster)) == [0, 4], job.said()
    [summary] = job.summaries()
    assert f"run {summary['run']} on {socket.gethostname()}" in job.said()
    assert "holds the output" in job.said()
    job.assert_right(undisturbed)
    assert not (own(job.output) / LEASE).exists()


def test_with_wait_the_second_run_finds_nothing_left_to_do(cluster, job, undisturbed):
    assert run_both(job, cluster, "--wait") == [0, 0], job.said()
    assert "waiting: run" in job.said()
    assert "nothing to do" in job.said()
    [summary] = job.summaries()
    assert summary["splits"]["done"] == 40
    job.assert_right(undisturbed)


def test_without_the_lease_two_runs_at_once_give_what_one_gives(cluster, job, undisturbed):
    with ExitStack() as stack:
        both = [stack.enter_context(job.process("--address", cluster.address))]
        wait_for((own(job.output) / LEASE).exists, what=job.said)
        (own(job.output) / LEASE).unlink()
        both.append(stack.enter_context(job.process("--address", cluster.address)))

        def over() -> bool:
            (own(job.output) / LEASE).unlink(missing_ok=True)
            return all(process.poll() is not None for process in both)

        wait_for(over, what=job.said)
        codes = [process.returncode for process in both]
    # A run that sees the other's lease between two of our looks may stop for it.
    assert 0 in codes, job.said()
    assert set(codes) <= {0, 4}, job.said()
    runs = job.summaries()
    assert [run["workers"] for run in runs] == [1, 1], "they did not work at the same time"
    assert all(run["splits"]["done"] for run in runs), job.said()
    job.assert_right(undisturbed)


def test_a_run_that_waits_for_another_ends_at_the_first_ctrl_c(job):
    write_lease(job, host="elsewhere", expires=time.time() + 600)
    with job.process("--wait") as process:
        wait_for(lambda: "waiting: run" in job.said(), what=job.said)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 3, job.said()


def test_only_a_lease_that_someone_may_still_hold_keeps_a_run_out(cluster, job, undisturbed):
    """A killed driver's, also one whose end nobody has asked for yet; another host's."""
    with job.process("--address", cluster.address) as killed:
        wait_for((own(job.output) / LEASE).exists, what=job.said)
        wait_for(lambda: len(job.outputs()) >= 3, what=job.said)
        os.kill(killed.pid, signal.SIGKILL)
        assert json.loads((own(job.output) / LEASE).read_text())["pid"] == killed.pid
        assert job.finish("--address", cluster.address) == 0, job.said()
    assert job.summaries()[-1]["splits"]["done_before"] >= 3
    assert not (own(job.output) / LEASE).exists()

    write_lease(job, host="elsewhere", expires=time.time() - 3600)
    assert job.finish() == 0, job.said()
    assert not (own(job.output) / LEASE).exists()

    held = write_lease(job, host="elsewhere", expires=time.time() + 600)
    content = held.read_bytes()
    assert job.finish() == 4
    assert "run 20990101T000000Z-abc123 on elsewhere (process 1) holds the output" in job.said()
    assert "--wait" in job.said()
    assert held.read_bytes() == content
    held.unlink()
    job.assert_right(undisturbed)
