"""A lake of random Parquet files, whole and broken, through a real run."""

import os
import random
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from helpers import tiny_classifier
from random_files import write_random_file

from pipeline.cli.main import main

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]

FILES = int(os.environ.get("SHARDSCRIBE_FUZZ", "160")) // 4


def test_a_run_over_random_files_annotates_what_can_be_and_names_the_rest(tmp_path: Path) -> None:
    model = tiny_classifier(tmp_path / "model")
    (tmp_path / "in").mkdir()
    for seed in range(FILES):
        write_random_file(random.Random(seed), tmp_path / f"in/{seed:03}.parquet")
    job = {
        "name": "x",
        "input": {"path": str(tmp_path / "in")},
        "output": {"path": str(tmp_path / "out"), "columns": "annotations"},
        "tasks": {"mood": {"kind": "classify", "model": str(model)}},
        "compute": {"workers": 1, "cpus_per_worker": 1},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))

    def run(verb: str) -> str:
        done = CliRunner().invoke(main, [verb, str(path)])
        assert isinstance(done.exception, SystemExit | None), done.exception
        assert done.exit_code in (0, 1), done.output
        for word in ("Traceback", "not foreseen", "\x1b"):
            assert word not in done.output
        return done.stdout

    first = next(line for line in run("run").splitlines() if line.startswith("  splits"))
    done, failed = (int(first.split(word)[0].split()[-1]) for word in (" done now", " failed"))
    assert (done + failed, done > 0, failed > 0) == (FILES, True, True)
    outputs = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.parquet")}
    assert len(outputs) == done
    again = next(line for line in run("run").splitlines() if line.startswith("  splits"))
    assert f"0 done now + {done} before + {failed} failed + 0 left" in again
    assert {file: file.stat().st_mtime_ns for file in outputs} == outputs
    problems = [line for line in run("verify").splitlines() if line.startswith("wrong:")]
    assert all("has no output file" in line for line in problems), problems
    assert f"splits  {FILES} = {done} done + {failed} left" in run("status")
