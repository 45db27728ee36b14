"""A Ray cluster that is there: a head without cores and a worker node, by `ray start`."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers import CLASSIFY, NER, rows_of

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
RAY = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def cluster(tmp_path):
    """The address of a head and one worker node with a core each side of nothing."""
    port = free_port()
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    nodes = [
        ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false",
         "--node-ip-address=127.0.0.1", f"--ray-client-server-port={free_port()}"],
        [f"--address=127.0.0.1:{port}", "--num-cpus=2", "--node-ip-address=127.0.0.1"],
    ]  # fmt: skip
    started = []
    for number, options in enumerate(nodes):
        log = (tmp_path / f"node-{number}.log").open("wb")
        started.append(
            subprocess.Popen(
                [*RAY, *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        )
        deadline = time.monotonic() + 60
        while b"Ray runtime started" not in (tmp_path / f"node-{number}.log").read_bytes():
            assert time.monotonic() < deadline, (tmp_path / f"node-{number}.log").read_text()
            time.sleep(0.2)
    yield f"127.0.0.1:{port}"
    for node in reversed(started):
        node.send_signal(signal.SIGTERM)
        try:
            node.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)


def test_a_cluster_that_is_there_gives_what_this_machine_gives(cluster, reviews, tmp_path):
    path = tmp_path / "job.yaml"
    outputs = {}
    for name, extra in {"local": [], "remote": ["--address", cluster]}.items():
        job = {
            "name": "test",
            "input": {"path": str(reviews)},
            "output": {"path": str(tmp_path / name)},
            "tasks": {"sentiment": CLASSIFY, "pii": NER},
        }
        path.write_text(yaml.safe_dump(job))
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "run", str(path), *extra],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        outputs[name] = rows_of(tmp_path / name)
    assert len(outputs["local"]) == 120
    assert outputs["remote"] == outputs["local"]
