"""One Ray cluster and one small lake of real reviews for the whole session."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_writers
import yaml
from helpers import CLASSIFY, QuietDisplay

from pipeline.job.file import load_job
from pipeline.job.job import Job
from pipeline.models.device import Device
from pipeline.models.resolve import look_up
from pipeline.models.torch.load import TorchModels
from pipeline.starter.samples import write_reviews
from pipeline.tasks import TASKS


@pytest.fixture(scope="session")
def ray_cluster():
    """A local Ray cluster; `run_job` finds it and does not start its own."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", include_dashboard=False, num_cpus=2, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def reviews(tmp_path_factory) -> Path:
    """120 real reviews in 4 Parquet files. Read only."""
    directory = tmp_path_factory.mktemp("lake") / "reviews"
    write_reviews(directory, rows=120, shards=4)
    return directory


@pytest.fixture
def make_job(tmp_path):
    """Writes a job file and loads it."""

    def make(input_path, *, tasks=None, output="annotated", **fields) -> Job:
        content = {
            "name": "test",
            "input": {"path": str(input_path)},
            "output": {"path": output if "://" in str(output) else str(tmp_path / output)},
            "tasks": tasks or {"sentiment": CLASSIFY},
            **fields,
        }
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return load_job(path)

    return make


@pytest.fixture
def display() -> QuietDisplay:
    return QuietDisplay()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Random models by how they are made, each made once."""
    held: dict[str, str] = {}

    def folder(family: str, **how: Any) -> str:
        key = f"{family} {how}"
        if key not in held:
            path = tmp_path_factory.mktemp(family)
            held[key] = str(getattr(tiny_writers, family)(path, **how))
        return held[key]

    return folder


@pytest.fixture(scope="session")
def load_task() -> Callable[..., Any]:
    """A task that is loaded; models are loaded once."""
    models: dict[tuple[str, int | None], TorchModels] = {}

    def loaded(reference: str, *, budget: int | None = None, **options: Any) -> Any:
        task = TASKS[options["kind"]]
        made = task(task.Options.model_validate({"model": reference, **options}))
        info = look_up(reference)
        made.check_model(info)
        key = reference, budget
        if key not in models:
            models[key] = TorchModels({reference: info}, device=Device("cpu"), budget=budget)
        return made.load(models[key])

    return loaded
