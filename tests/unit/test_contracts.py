"""The committed schemas are what the code says, and the ready jobs follow them."""

import json
import re
from pathlib import Path
from typing import Literal

import jsonschema
import pytest
import yaml

from pipeline.job.file import load_job, ready_jobs
from pipeline.readme import with_tasks
from pipeline.records.schema import Summary
from pipeline.schemas import PINS, contracts
from pipeline.tasks import TASKS

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
JOBS = ready_jobs(ROOT / "jobs")


@pytest.mark.parametrize("name", sorted(contracts()))
def test_a_committed_schema_is_the_generated_one(name):
    committed = (ROOT / "schemas" / name).read_text(encoding="utf-8")
    assert committed == contracts()[name], "run: python -m pipeline.schemas"


def test_no_schema_is_committed_that_nothing_generates():
    assert {path.name for path in (ROOT / "schemas").iterdir()} == {*contracts(), PINS}


def test_the_readme_says_of_tasks_what_their_classes_say():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_tasks(readme, jobs=ROOT / "jobs") == readme, "run: python -m pipeline.schemas"


def test_a_readme_without_a_place_for_the_tasks_is_refused():
    with pytest.raises(ValueError, match="tasks"):
        with_tasks("# shardscribe", jobs=ROOT / "jobs")


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_is_told_in_the_readme_and_shown_in_a_ready_job(kind):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = [line for line in readme.splitlines() if line.startswith(f"| `{kind}` |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert all(cells), "its class needs `needs`, and one of jobs/ shows it"
    assert re.search(rf"^- \*\*{kind}\*\*: [`A-Z]", readme, re.MULTILINE), "its docstring"


@pytest.mark.parametrize("kind", TASKS)
def test_a_kind_is_what_its_options_say(kind):
    options = TASKS[kind].Options
    assert options.model_fields["kind"].annotation == Literal[kind]
    assert options.__doc__, "the job file's schema shows it"
    assert all(field.description for name, field in options.model_fields.items() if name != "kind")


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
