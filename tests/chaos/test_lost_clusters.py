"""Signals while Ray starts, a head that dies, a cluster that wants a token: a summary, no lease."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import chaos_jobs
import pytest
from chaos_jobs import ENVIRONMENT, ROOT, SLOW, Cluster, Job, below, command, kill_all, take
from helpers import PATIENCE, own, wait_for

pytestmark = pytest.mark.chaos

# As the command, with less patience for a head that is gone.
IMPATIENT = (
    "from pipeline.engine.driver import cluster\n"
    "cluster.HEAD_SECONDS = 2.0\n"
    "from pipeline.cli.main import main\n"
    "main()\n"
)


@pytest.fixture
def job(lake, tiny_model, tmp_path) -> Job:
    few = take(lake, tmp_path / "lake", 60)
    return Job(tmp_path, lake=few, model=tiny_model, compute=SLOW)


def lease_of(job: Job) -> Path:
    return own(job.output) / "lease.json"


def runs(word: str) -> Callable[[int], bool]:
    return lambda pid: any(word in command(child) for child in below(pid))


@pytest.mark.parametrize(
    "moment",
    [lambda pid: True, runs("gcs_server"), runs("raylet/raylet"), runs("dashboard/agent.py")],
    ids=["at the start", "the head runs", "the node runs", "its agent runs"],
)
def test_sigterm_while_ray_starts_leaves_a_summary_and_no_lease(job, moment):
    with job.process() as process:
        wait_for(lambda: "starting Ray" in job.said(), what=job.said)
        wait_for(lambda: moment(process.pid) or process.poll() is not None, what=job.said)
        started = below(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 3, job.said()
        wait_for(lambda: not chaos_jobs.parents().keys() & set(started), what="Ray ends")
    [summary] = job.summaries()
    assert (summary["state"], summary["exit_code"]) == ("interrupted", 3)
    assert "Traceback" not in job.said()
    assert not lease_of(job).exists()


def test_a_head_that_dies_ends_the_run_with_a_summary_and_no_lease(job):
    cluster = Cluster()
    try:
        cluster.start()
        with job.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", IMPATIENT, "run", str(job.file),
                 "--address", cluster.address],
                stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=ENVIRONMENT,
                start_new_session=True,
            )  # fmt: skip
        try:
            wait_for(lambda: len(job.outputs()) >= 3, what=job.said)
            (head,) = (pid for pid in below(cluster.process.pid) if "gcs_server" in command(pid))
            os.kill(head, signal.SIGKILL)
            assert process.wait(PATIENCE) == 1, job.said()
        finally:
            kill_all(process)
    finally:
        cluster.close()
    [summary] = job.summaries()
    assert (summary["state"], summary["exit_code"]) == ("failed", 1)
    assert f"the head of the Ray cluster at {cluster.address} has not answered" in summary["error"]
    assert summary["splits"]["done"] + summary["splits"]["left"] == 60
    assert "Traceback" not in job.said()
    assert not lease_of(job).exists()


def test_a_cluster_that_wants_a_token_is_told_as_such(job, monkeypatch, tmp_path):
    monkeypatch.setitem(ENVIRONMENT, "RAY_AUTH_MODE", "token")
    monkeypatch.setitem(ENVIRONMENT, "RAY_AUTH_TOKEN", "a" * 64)
    monkeypatch.setitem(ENVIRONMENT, "HOME", str(tmp_path))  # where a token may be kept
    cluster = Cluster()
    try:
        cluster.start()
        code = job.finish("--address", cluster.address, RAY_AUTH_MODE="disabled")
        assert code == 1, job.said()
        assert "without its token" in job.said()
        assert "Traceback" not in job.said()
    finally:
        cluster.close()
    assert job.outputs() == []
    assert not lease_of(job).exists()
