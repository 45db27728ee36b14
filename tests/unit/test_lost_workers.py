"""What a person is told of a worker that is gone."""

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from pipeline.engine.deaths import cause

pytestmark = pytest.mark.unit


def test_what_a_worker_raised_is_told_and_not_where_ray_was() -> None:
    trace = (
        "\x1b[36mray::Worker.load()\x1b[39m (pid=1)\n"
        '  File "x.py", line 1, in load\n    ^^^^^^^^^^^^^^^\n'
        "AttributeError: 'Classify' object has no attribute 'pairs'\n"
    )
    error = RayTaskError("Worker.load", trace, AttributeError("no"))
    told = cause(error, {}).message
    assert told == "it raised AttributeError: 'Classify' object has no attribute 'pairs'"


def test_a_process_that_ended_is_told_so() -> None:
    assert "its process ended unexpectedly" in cause(ActorDiedError(), {}).message
