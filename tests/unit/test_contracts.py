"""The committed schemas are what the code says, and the ready jobs follow them."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from pipeline.job.file import load_job
from pipeline.records.schema import Summary
from pipeline.schemas import contracts

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))


@pytest.mark.parametrize("name", sorted(contracts()))
def test_a_committed_schema_is_the_generated_one(name):
    committed = (ROOT / "schemas" / name).read_text(encoding="utf-8")
    assert committed == contracts()[name], "run: python -m pipeline.schemas"


def test_no_schema_is_committed_that_nothing_generates():
    assert {path.name for path in (ROOT / "schemas").iterdir()} == set(contracts())


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_ready_job_loads_and_is_named_after_its_file(path):
    assert load_job(path).name == path.stem.replace("_", "-")


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_ready_job_names_its_schema_and_says_how_to_run_it(path):
    text = path.read_text(encoding="utf-8")
    first = text.splitlines()[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(.+)", first)
    assert named is not None
    assert (path.parent / named[1]).resolve() == ROOT / "schemas" / "job.schema.json"
    assert f"shardscribe run jobs/{path.name}" in text


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_ready_job_follows_the_json_schema(path):
    schema = json.loads((ROOT / "schemas/job.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(path.read_text()))


def test_the_json_schema_refuses_what_the_loader_refuses():
    schema = json.loads(contracts()["job.schema.json"])
    job = yaml.safe_load(JOBS[0].read_text())
    job["tasks"] = {"x": {"kind": "classify", "model": "m", "topk": 3}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(job)


def test_a_summary_follows_its_json_schema():
    schema = json.loads(contracts()["summary.schema.json"])
    summary = Summary(
        run="r", job="j", state="done", exit_code=0, started="now", seconds=1, input="i", output="o"
    )
    jsonschema.Draft202012Validator(schema).validate(summary.model_dump(mode="json"))
