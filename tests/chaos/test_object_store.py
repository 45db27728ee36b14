"""Jobs from S3 to S3: faults of the store, kills of the driver, two runs at once."""

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import chaos_jobs
import pytest
from chaos_jobs import ROUNDS, SLOW, Cluster, Job, take
from helpers import PATIENCE, own, wait_for
from s3_server import SECRET, Faults, S3Server, s3_server

from pipeline.lake.store.open import open_store

pytestmark = pytest.mark.chaos

KILLS = 12
FILES = 100
SEED = 20_261_122
# Requests that are refused before the store is back.
REFUSALS = 20
LEASE = "lease.json"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """Found by the processes that are started here, those of the Ray cluster too."""
    before = dict(chaos_jobs.ENVIRONMENT)
    with s3_server() as running:
        chaos_jobs.ENVIRONMENT.update(running.environ)
        yield running
    chaos_jobs.ENVIRONMENT.clear()
    chaos_jobs.ENVIRONMENT.update(before)


@pytest.fixture(scope="module")
def s3_cluster(server) -> Iterator[Cluster]:
    cluster = Cluster()
    cluster.start()
    yield cluster
    cluster.close()


@pytest.fixture
def s3(server) -> Iterator[S3Server]:
    """The server, without faults at the start and the end of each test."""
    server.faults = None
    server.log.clear()
    yield server
    server.faults = None


class S3Job(Job):
    """A job whose input and output are in the bucket.

    Its `output` is a local copy, made by `fetch`.
    """

    def __init__(self, folder: Path, *, lake: Path, model: Path) -> None:
        self.away = f"s3://lake/{folder.name}"
        self.store = open_store(f"{self.away}/annotated")
        super().__init__(
            folder,
            lake=lake,
            model=model,
            input={"path": f"{self.away}/reviews"},
            output={"path": self.store.root},
            compute={**SLOW, "cpus_per_worker": 1},
        )
        reviews = open_store(f"{self.away}/reviews")
        for path in lake.glob("*.parquet"):
            reviews.put(path.name, path.read_bytes())

    def fetch(self) -> None:
        shutil.rmtree(self.output, ignore_errors=True)
        shutil.rmtree(own(self.output), ignore_errors=True)
        runs = [f"runs/{run}/summary.json" for run in self.store.own.names("runs")]
        for store, names, to in [
            (self.store, self.outputs(), self.output),
            (self.store.own, runs, own(self.output)),
        ]:
            for name in names:
                content = store.read(name)
                if content is not None:
                    (to / name).parent.mkdir(parents=True, exist_ok=True)
                    (to / name).write_bytes(content)

    def outputs(self) -> list[str]:
        return sorted(entry.path for entry in self.store.entries())

    def scratch(self) -> list[str]:
        return sorted(path.name for path in self.store.scratch().glob("*"))

    def status(self) -> dict:
        """What ``status --json`` says."""
        before = len(self.said())
        assert self.finish("--json", verb="status") == 0, self.said()[before:]
        return json.loads(self.said()[before:].strip().splitlines()[-1])

    def assert_right(self, expected: dict[int, dict], *, note: str = "") -> None:
        self.fetch()
        super().assert_right(expected, note=note)
        assert self.store.own.read(LEASE) is None, note
        assert SECRET not in self.said()


@pytest.fixture
def job(s3, lake, tiny_model, tmp_path) -> S3Job:
    return S3Job(tmp_path, lake=take(lake, tmp_path / "lake", 30), model=tiny_model)


def test_from_s3_to_s3_a_job_gives_what_it_gives_locally(s3_cluster, job, undisturbed):
    assert job.finish("--address", s3_cluster.address) == 0, job.said()
    job.assert_right(undisturbed)
    [summary] = job.summaries()
    assert summary["splits"] == {
        "total": 30, "done_before": 0, "done": 30, "failed": 0, "left": 0,
    }  # fmt: skip
    found = job.status()
    assert (found["total"], found["left"], found["files"]) == (30, 0, 30)
    assert found["rows"] == {"rows": 900, "annotated": 900, "bad": 0, "skipped": 0}
    assert found["bytes"] == summary["bytes_out"]
    assert job.finish("--address", s3_cluster.address) == 0
    assert "nothing to do" in job.said()


def test_a_faulty_store_costs_time_alone(s3_cluster, s3, job, undisturbed):
    s3.faults = Faults(error=0.05, slow=0.05, reset=0.05, lost=0.15, cut=0.15, seed=SEED)
    code = job.finish("--address", s3_cluster.address)
    seen, s3.faults = s3.faults.seen, None
    assert code == 0, f"{seen}\n{job.said()}"
    print(f"seed {SEED}: {dict(seen)}")
    assert all(seen[kind] >= 2 for kind in ("error", "slow", "reset", "lost", "cut")), seen
    job.assert_right(undisturbed, note=str(seen))
    [summary] = job.summaries()
    assert (summary["splits"]["done"], summary["workers_lost"]) == (30, 0)
    # Puts whose answer was lost were made again, and what was there was adopted.
    puts = [path for method, path, _ in s3.log if method == "PUT" and "/annotated/part" in path]
    assert len(puts) > len(set(puts)) == 30


def test_a_store_that_is_away_for_a_while_is_waited_for(s3_cluster, s3, job, undisturbed):
    with job.process("--address", s3_cluster.address) as process:
        wait_for(lambda: len(job.outputs()) >= 5, what=job.said)
        s3.faults = Faults(reset=1.0)
        wait_for(lambda: s3.faults.seen["reset"] >= REFUSALS, what=job.said)
        s3.faults = None
        assert process.wait(PATIENCE) == 0, job.said()
    job.assert_right(undisturbed)
    [summary] = job.summaries()
    assert (summary["splits"]["done"], summary["splits"]["failed"]) == (30, 0)


@pytest.mark.parametrize("seed", [SEED + number for number in ROUNDS])
def test_after_many_kills_of_the_driver_the_same_command_finishes(
    s3_cluster, s3, lake, tiny_model, undisturbed, tmp_path, seed
):
    job = S3Job(tmp_path, lake=take(lake, tmp_path / "lake", FILES), model=tiny_model)
    chance = random.Random(seed)
    s3.faults = Faults(lost=0.05, conflict=0.05, seed=seed)
    committed = []
    for number in range(KILLS):
        with job.process("--address", s3_cluster.address) as process:
            if number % 3 == 2:  # some hit the start
                phase = chance.choice(["starting Ray", "starting workers"])
                wait_for(lambda said=phase: said in job.said_last(), what=job.said)
                time.sleep(chance.uniform(0, 1))
            else:
                wanted = len(job.outputs()) + chance.randint(1, 8)
                wait_for(lambda n=wanted: len(job.outputs()) >= n, what=job.said)
                time.sleep(chance.uniform(0, 0.1))
            assert process.poll() is None, f"{committed}\n{job.said()[-3000:]}"
            os.kill(process.pid, 9)
            process.wait(PATIENCE)
        committed.append(len(job.outputs()))
    note = f"seed {seed}: killed at {committed} of {FILES} files"
    print(note)
    assert committed == sorted(committed), note
    assert 20 < committed[-1] < FILES, note
    wait_for(lambda: not s3_cluster.actors(), what="the actors of killed drivers end")
    assert job.finish("--address", s3_cluster.address) == 0, f"{note}\n{job.said()[-3000:]}"
    seen, s3.faults = s3.faults.seen, None
    print(dict(seen))
    assert all(seen[kind] >= 2 for kind in ("lost", "conflict")), seen
    job.assert_right(undisturbed, note=note)
    last = job.summaries()[-1]["splits"]
    assert last["done_before"] >= committed[-1], note
    assert last["done_before"] + last["done"] == FILES, note


def run_both(job: S3Job, cluster: Cluster, meanwhile=lambda: None) -> list[int]:
    """The exit codes of two runs that are started together."""
    with ExitStack() as stack:
        both = [stack.enter_context(job.process("--address", cluster.address)) for _ in range(2)]

        def over() -> bool:
            meanwhile()
            return all(process.poll() is not None for process in both)

        wait_for(over, what=job.said)
        return [process.returncode for process in both]


def test_of_two_runs_at_once_one_works(s3_cluster, job, undisturbed):
    assert sorted(run_both(job, s3_cluster)) == [0, 4], job.said()
    assert "holds the output" in job.said()
    job.assert_right(undisturbed)
    assert len(job.summaries()) == 1


def test_without_the_lease_two_runs_at_once_give_what_one_gives(s3_cluster, job, undisturbed):
    codes = run_both(job, s3_cluster, lambda: job.store.own.delete(LEASE))
    # Between two deletions one may still see the other's lease and leave it the work.
    assert sorted(codes) in ([0, 0], [0, 4]), job.said()
    job.assert_right(undisturbed)
    assert sum(run["splits"]["done"] for run in job.summaries()) >= 30


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": "AKIDUNKNOWN"}, "InvalidAccessKeyId"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ALLOW_HTTP": "false"}, "AWS_ALLOW_HTTP=true"),
    ],
)
def test_a_store_that_can_not_be_used_ends_the_run_in_a_line(job, environment, said):
    assert job.finish(**environment) == 2, job.said()
    assert said in job.said()
    assert len(job.said().strip().splitlines()) == 1, job.said()
    assert SECRET not in job.said()
