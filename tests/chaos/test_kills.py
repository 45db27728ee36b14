"""kill -9 at any moment, and Ctrl-C: what is committed stays, and the same command finishes."""

import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
import tiny_writers
from chaos_jobs import ROUNDS, SLOW, Cluster, Job, kill_all, rows_by_id, take, write_lake
from helpers import PATIENCE, wait_for

pytestmark = pytest.mark.chaos

KILLS = 31
SEED = 20_261_122
# Seconds for a file, about: a kill may hit it anywhere.
A_FILE = 0.04


@dataclass
class Killer:
    """Kills a driver, an actor or everything, at random moments, and starts anew."""

    job: Job
    cluster: Cluster
    chance: random.Random
    history: list[str] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)

    def work(self, kills: int) -> None:
        # Shuffled, so that each kind meets each phase; everything is dear, as Ray starts anew.
        plan = ["driver"] * (kills - kills * 2 // 5 - 3) + ["actor"] * (kills * 2 // 5)
        plan += ["everything"] * 3
        self.chance.shuffle(plan)
        process = self.job.start("--address", self.cluster.address)
        try:
            for what in plan:
                if process.poll() is not None:
                    # Three workers killed before they were ready end a run.
                    assert process.returncode == 1, self.job.said()[-3000:]
                    process = self.job.start("--address", self.cluster.address)
                self.wait(process, what)
                self.kill(process, what)
                self.committed.append(len(self.job.outputs()))
                if what == "everything":
                    self.cluster.start()
                if what != "actor":
                    process = self.job.start("--address", self.cluster.address)
        finally:
            kill_all(process)

    def wait(self, process, what: str) -> None:
        """Until a random moment of the start, or some way into the annotating."""
        if self.chance.random() < 0.5 and what != "actor":
            phase = self.chance.choice(["starting Ray", "starting workers", "annotating"])
            wait_for(
                lambda: phase in self.job.said_last() or process.poll() is not None,
                what=self.job.said,
            )
            time.sleep(self.chance.uniform(0, 1 if phase != "annotating" else A_FILE))
            return
        before = len(self.job.outputs())
        more = self.chance.randint(1, 6)
        wait_for(
            lambda: len(self.job.outputs()) >= before + more or process.poll() is not None,
            what=lambda: f"{self.history}\n{self.job.said()[-3000:]}",
        )
        time.sleep(self.chance.uniform(0, A_FILE))

    def kill(self, process, what: str) -> None:
        started = self.cluster.actors()
        self.history.append(f"{what}, {len(started)} actors, {len(self.job.outputs())} files")
        if what == "actor" and started:
            with suppress(ProcessLookupError):
                os.kill(self.chance.choice(started), signal.SIGKILL)
        elif what == "everything":
            self.cluster.kill()
        if what != "actor":
            process.kill()
            process.wait(PATIENCE)


@pytest.mark.parametrize("seed", [SEED + number for number in ROUNDS])
def test_after_many_kills_the_same_command_finishes_as_if_nothing_had_been(
    cluster, lake, tiny_model, undisturbed, tmp_path, seed
):
    job = Job(tmp_path, lake=lake, model=tiny_model, compute=SLOW)
    killer = Killer(job, cluster, random.Random(seed))
    killer.work(KILLS)
    note = f"seed {seed}: {killer.history}"
    print(note)
    assert len(killer.history) >= 30, note
    assert sum(entry.startswith("actor, 1") for entry in killer.history) >= 8, note
    # Kills hit all the way through the job, never after it.
    assert len(set(killer.committed)) > 12, note
    assert killer.committed == sorted(killer.committed), note
    assert 40 < killer.committed[-1] < 200, note
    assert job.finish("--address", cluster.address) == 0, f"{note}\n{job.said()[-3000:]}"
    last = job.summaries()[-1]
    assert last["splits"]["done_before"] >= killer.committed[-1], note
    assert last["splits"]["done_before"] + last["splits"]["done"] == 200, note
    job.assert_right(undisturbed, note=note)


def test_of_a_large_file_that_a_model_writes_on_a_kill_costs_no_more_than_what_is_in_flight(
    cluster, tmp_path
):
    rows = 640
    lake = write_lake(tmp_path / "lake", files=1, rows=rows, words=8, seed=3)
    model = tiny_writers.t5(tmp_path / "model")
    writes = {"kind": "generate", "model": str(model), "max_new_tokens": 4}
    job = Job(tmp_path, lake=lake, tasks={"said": writes}, compute={"workers": 1})
    with job.process("--address", cluster.address) as process:
        wait_for(lambda: len(job.outputs()) >= 3 or process.poll() is not None, what=job.said)
        kill_all(process)
    kept = job.outputs()
    names = {f"part-000-rows{first:010}-{first + 63:010}" for first in range(0, rows, 64)}
    assert {name.rsplit("-", 1)[0] for name in kept} < names
    assert "640 rows in 10 splits of 64 rows" in job.said()
    assert job.finish("--address", cluster.address) == 0, job.said()
    last = job.summaries()[-1]
    assert last["splits"]["done_before"] == len(kept) >= 3
    assert last["splits"]["done_before"] + last["splits"]["done"] == 10
    assert job.finish(verb="verify") == 0, job.said()[-2000:]
    found = rows_by_id(job.output)
    assert sorted(found) == list(range(rows))
    assert all(row["said"]["output_tokens"] is not None for row in found.values())


def test_an_actor_that_is_killed_costs_the_run_nothing_but_time(
    cluster, lake, tiny_model, undisturbed, tmp_path
):
    few = take(lake, tmp_path / "lake", 40)
    job = Job(tmp_path, lake=few, model=tiny_model, compute=SLOW)
    with job.process("--address", cluster.address) as process:
        wait_for(lambda: len(job.outputs()) >= 5, what=job.said)
        [actor] = cluster.actors()
        os.kill(actor, signal.SIGKILL)
        assert process.wait(PATIENCE) == 0, job.said()
    [summary] = job.summaries()
    assert summary["workers_lost"] == 1
    assert summary["splits"] == {
        "total": 40, "done_before": 0, "done": 40, "failed": 0, "left": 0,
    }  # fmt: skip
    assert "worker-1" in job.said()
    assert "was lost" in job.said()
    job.assert_right(undisturbed)


def test_ctrl_c_lets_the_splits_in_flight_end_and_the_same_command_finishes(
    lake, tiny_model, undisturbed, tmp_path
):
    """Ray is started by the run; Ctrl-C on a terminal goes to every process of the group."""
    few = take(lake, tmp_path / "lake", 60)
    job = Job(tmp_path, lake=few, model=tiny_model, compute=SLOW)
    with job.process() as process:
        wait_for(lambda: len(job.outputs()) >= 3, what=job.said)
        before = set(job.outputs())
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 3, job.said()
    after = set(job.outputs())
    assert before <= after
    assert len(after) < 60, "it was over before the signal came"
    assert f"what is committed stays; to go on: shardscribe run {job.file}" in job.said()
    [summary] = job.summaries()
    assert summary["state"] == "interrupted"
    assert summary["splits"]["done"] == len(after)
    assert summary["splits"]["done"] + summary["splits"]["left"] == 60
    assert summary["workers_lost"] == 0, job.said()
    assert job.finish() == 0, job.said()
    job.assert_right(undisturbed)


def test_a_second_signal_stops_at_once_and_the_same_command_finishes(cluster, tiny_model, tmp_path):
    slow = write_lake(tmp_path / "lake", files=2, rows=10_000, words=60, seed=2)
    job = Job(tmp_path, lake=slow, model=tiny_model, compute=SLOW)
    with job.process("--address", cluster.address) as process:
        wait_for(lambda: "annotating" in job.said(), what=job.said)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: "again to stop at once" in job.said(), what=job.said)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 3, job.said()
    assert f"what is committed stays; to go on: shardscribe run {job.file}" in job.said()
    assert job.outputs() == []
    wait_for(lambda: not cluster.actors(), what="the actor is killed")
    # How large a batch may be is no part of what a job gives: the rest goes fast.
    assert job.finish("--address", cluster.address, "--set", "compute.batch_tokens=auto") == 0
    assert job.summaries()[-1]["rows"]["annotated"] == 20_000
    assert job.scratch() == []
