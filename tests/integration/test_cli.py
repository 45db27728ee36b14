"""The command as a user meets it: what light verbs load, output, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers import CLASSIFY, GIST, HEAVY, NER, loaded_by_verb

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def shardscribe(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture
def job_file(tmp_path, reviews):
    def write(**fields):
        content = {
            "name": "test",
            "input": {"path": str(reviews)},
            "output": {"path": str(tmp_path / "annotated")},
            "tasks": {"sentiment": CLASSIFY},
            **fields,
        }
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.mark.parametrize("verb", ["validate", "status"])
def test_a_light_verb_loads_nothing_heavy(job_file, verb):
    tasks = {"sentiment": CLASSIFY, "pii": NER, "gist": GIST}
    assert loaded_by_verb(verb, job_file(tasks=tasks)) & HEAVY == set()


def test_a_run_says_what_it_does_and_its_numbers_add_up(job_file):
    done = shardscribe("run", job_file())
    assert done.returncode == 0, done.stderr
    assert "splits  4 = 4 done now + 0 before + 0 failed + 0 left" in done.stdout
    assert "rows    120 = 120 annotated + 0 bad + 0 skipped" in done.stdout
    assert "starting Ray" in done.stderr
    assert "annotating" in done.stderr

    done = shardscribe("run", job_file())
    assert (done.returncode, done.stderr) == (0, "")
    assert "test: nothing to do" in done.stdout
    for verb in ("run", "status", "verify", "show"):
        assert loaded_by_verb(verb, job_file()) & HEAVY == set(), verb

    shown = shardscribe("show", job_file(), "-n", "2", "--json")
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [set(row) for row in rows] == [
        {"id", "text", "source", "label", "sentiment", "errors"}
    ] * 2


def test_json_lines_are_json_and_end_with_the_summary(job_file, tmp_path):
    lake = tmp_path / "lake"
    lake.mkdir()
    pq.write_table(pa.table({"text": ["a fine film"]}), lake / "good.parquet")
    (lake / "bad.parquet").write_bytes(b"")
    done = shardscribe("run", job_file(input={"path": str(lake)}), "--log-format", "json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    summary = events[-1]
    assert (summary["event"], summary["exit_code"]) == ("summary", 1)
    assert summary["failed_splits"][0]["path"] == "bad.parquet"


def test_preview_annotates_a_few_rows_here_and_writes_nothing(job_file, tmp_path):
    job = job_file(tasks={"sentiment": CLASSIFY, "pii": NER, "gist": GIST})
    done = shardscribe("preview", job, "-n", "3", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 3
    assert all(row["sentiment"]["label"] in ("negative", "positive") for row in rows)
    assert not (tmp_path / "annotated").exists()
    table = shardscribe("preview", job, "-n", "2")
    assert "sentiment" in table.stdout
    assert "gist" in table.stdout


def test_an_address_without_a_cluster_is_said_plainly(job_file):
    done = shardscribe("run", job_file(), "--address", "127.0.0.1:1")
    assert done.returncode == 1
    # Its nodes would decide about the dtype, so nothing is planned before it answers.
    assert "no Ray cluster at 127.0.0.1:1" in done.stderr
    assert "ray start --head" in done.stderr
    assert len(done.stderr.splitlines()) == 1
