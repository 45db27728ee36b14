"""A cluster of two machines, of which one can't do the work."""

import os
import signal
from pathlib import Path

import pytest
from chaos_jobs import SLOW, Job, write_lake
from helpers import PATIENCE, wait_for

pytestmark = pytest.mark.chaos

# Python imports this by itself when its directory is on PYTHONPATH, also in Ray's workers.
OTHER_VERSION = "import pipeline\npipeline.__version__ = '0.0.0'\n"


def test_a_machine_with_another_version_is_left_out_and_the_job_is_done(
    cluster, tiny_model, tmp_path
):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(OTHER_VERSION)
    root = Path(__file__).parents[2]
    lake = write_lake(tmp_path / "lake", files=12, rows=20, words=20, seed=8)
    # One core: two of the three workers find their place on the machine that can work.
    cluster.join(cpus=1, PYTHONPATH=f"{tmp_path / 'site'}:{root}")
    compute = {**SLOW, "workers": 3, "cpus_per_worker": 1}
    job = Job(tmp_path, lake=lake, model=tiny_model, compute=compute)
    try:
        with job.process("--address", cluster.address) as process:
            # The work waits, so that it is not done before the other machine was tried.
            wait_for(lambda: len(cluster.actors()) == 2, what=job.said)
            good = cluster.actors()
            for actor in good:
                os.kill(actor, signal.SIGSTOP)
            wait_for(lambda: "no more workers start there" in job.said(), what=job.said)
            for actor in good:
                os.kill(actor, signal.SIGCONT)
            assert process.wait(PATIENCE) == 0, job.said()
    finally:
        # The head notices a lost node late: whoever comes next gets a cluster without one.
        cluster.kill()
    [summary] = job.summaries()
    assert (summary["splits"]["done"], summary["workers_lost"]) == (12, 0)
    assert [death.count("shardscribe is 0.0.0 there") for death in summary["deaths"]] == [1]
    assert job.said().count("no more workers start there") == 1
    assert job.finish(verb="verify") == 0, job.said()
