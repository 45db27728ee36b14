"""Training killed again and again: it goes on from its checkpoints, and no half model appears."""

import json
import os
from pathlib import Path

import pytest
from dying_training import comes_to_its_end
from tiny_lessons import job, lessons, write

from pipeline.learn.train.run import train_job
from pipeline.models.resolve import look_up

pytestmark = pytest.mark.chaos

ROUNDS = int(os.environ.get("SHARDSCRIBE_ROUNDS", "20"))


def test_killed_at_any_step_the_same_command_ends_with_the_same_losses(tiny_model, tmp_path):
    data = write(tmp_path / "rows.parquet", lessons(60))
    small = {"epochs": 3, "freeze": {"all_but_last": 1}, "batch_size": 8, "checks": 2}
    whole = job(tiny_model, data, tmp_path / "whole", train=small)
    train_job(whole, command="c", say=lambda line: None)
    wanted = job(tiny_model, data, tmp_path / "killed", train=small)
    kills, steps = 0, set()
    while not comes_to_its_end(wanted, event=3 + kills * 3 // 2):
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
