"""Training killed again and again: it goes on from its checkpoints, and no half model appears."""

import json
import os
import pathlib
import signal
from pathlib import Path

import pytest
from tiny_lessons import job, lessons, write

from pipeline.learn.train.run import train_job
from pipeline.models.resolve import look_up

pytestmark = pytest.mark.chaos

ROUNDS = int(os.environ.get("SHARDSCRIBE_ROUNDS", "20"))
RENAME, OPEN = pathlib.Path.rename, os.open


def dies_at(event: int):
    """Kills this process at its so many-th step that somebody could notice: a line said, a file
    renamed, a directory synced."""
    left = event

    def count(*_):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def rename(path, target):
        count()
        done = RENAME(path, target)
        count()
        return done

    pathlib.Path.rename = rename
    return count


def run_in_a_child(wanted, event: int) -> bool:
    """Whether the command came to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train_job(wanted, command="c", say=dies_at(event))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFEXITED(status)


def test_killed_at_any_step_the_same_command_ends_with_the_same_losses(tiny_model, tmp_path):
    data = write(tmp_path / "rows.parquet", lessons(60))
    small = {"epochs": 3, "freeze": {"all_but_last": 1}, "batch_size": 8, "checks": 2}
    whole = job(tiny_model, data, tmp_path / "whole", train=small)
    train_job(whole, command="c", say=lambda line: None)
    wanted = job(tiny_model, data, tmp_path / "killed", train=small)
    kills, steps = 0, set()
    while not run_in_a_child(wanted, event=3 + kills * 3 // 2):
        kills += 1
        assert kills < 200
        output = Path(wanted.output.path)
        if output.exists():
            look_up(str(output))
            assert json.loads((output / "training.json").read_text())["figures"]
        steps |= {path.name for path in tmp_path.glob(".shardscribe/killed/train/*/checkpoint-*")}
    assert kills >= min(ROUNDS, 8)
    assert len(steps) > 3
    one, other = (
        json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "killed")
    )
    assert [line["step"] for line in one["losses"]] == [line["step"] for line in other["losses"]]
    for line, again in zip(one["losses"], other["losses"], strict=True):
        assert again == pytest.approx(line, abs=1e-4)
    assert one["best_step"] == other["best_step"]
    left = [path.name for path in (tmp_path / ".shardscribe/killed").iterdir()]
    assert left == ["train.lock"]
