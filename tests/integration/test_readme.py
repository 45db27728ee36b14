"""Every command and every snippet of the README runs as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.job.job import Job

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


def test_every_shardscribe_command_and_snippet_runs_in_the_order_of_the_page(tmp_path):
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/reviews.jsonl").write_text('{"id": 1, "text": "A fine film."}\n')
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    commands = [line for line in COMMANDS if line.startswith("shardscribe ")]
    assert len(commands) >= 6
    for command in commands:
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path},
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    for snippet in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "sentiment" in done.stdout


def test_every_make_command_is_a_target_and_no_other_command_is_left_untested():
    others = [line for line in COMMANDS if not line.startswith("shardscribe ")]
    assert others == ["make demo", "make test"]
    for command in others:
        done = subprocess.run(
            [*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_every_job_file_on_the_page_is_valid():
    whole, *parts = [yaml.safe_load(block) for block in blocks("yaml")]
    assert parts
    for part in ({}, *parts):
        Job.model_validate({**whole, **part})


def test_every_file_that_the_page_links_to_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
